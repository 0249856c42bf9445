"""Tables: small ones as HTML, the trades as a paged grid."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from engine import analysis, times
from workbench.views.tiles import day, metric_of, number, shown

Cell = Callable[[Any], str]


def percent(value: Any, digits: int = 2) -> str:
    """A fraction as signed, coloured percent."""
    if value is None or value != value:
        return "–"
    value = round(float(value) * 100, digits)  # what is printed as nothing is neither a gain nor a loss
    tone = "wb-gain" if value > 0 else "wb-loss" if value < 0 else ""
    return f'<span class="{tone}">{"+" if value > 0 else ""}{number(value, digits)} %</span>'


def share(value: Any) -> str:
    """A fraction as plain percent."""
    return "–" if value is None or value != value else f"{number(float(value) * 100, 1)} %"


def money(value: Any) -> str:
    """Signed, coloured money."""
    if value is None or value != value:
        return "–"
    tone = "wb-gain" if value > 0 else "wb-loss" if value < 0 else ""
    return f'<span class="{tone}">{"+" if value > 0 else ""}{number(float(value), 2)}</span>'


def plain(digits: int = 2) -> Cell:
    return lambda value: "–" if value is None or value != value else number(float(value), digits)


def words(value: Any) -> str:
    return escape(str(value))


def instant(value: Any) -> str:
    """A date or an instant, which stays on one line."""
    return escape(str(value))


def table(
    caption: str, heads: Sequence[tuple[str, str, Cell]], rows: Sequence[Mapping[str, Any]], *, note: str = ""
) -> str:
    """An HTML table. `heads` are (key, title, formatter); what is neither `words` nor an `instant` is set right."""
    if not rows:
        return empty(caption, note or "nothing to show")
    tops = "".join(f'<th scope="col"{_right(cell)}>{escape(title)}</th>' for _, title, cell in heads)
    body = "".join(
        "<tr>" + "".join(f"<td{_right(cell)}>{cell(row.get(key))}</td>" for key, _, cell in heads) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wb-scroll"><table class="wb-table"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{tops}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _right(cell: Cell) -> str:
    return ' class="wb-wrap"' if cell is words else "" if cell is instant else ' class="wb-number"'


def empty(title: str, why: str) -> str:
    """What stands where there is nothing to show."""
    return f'<div class="wb-empty" role="note"><strong>{escape(title)}</strong>{escape(why)}</div>'


def rows_of(columns: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Columns as a list of rows."""
    names = list(columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*(columns[name].tolist() for name in names), strict=True)]


def drawdowns(periods: Sequence[Mapping[str, Any]]) -> str:
    """The worst drawdowns (`analysis.drawdown_periods`)."""
    rows = [
        {
            **period,
            "from": day(period["start"]),
            "low": day(period["trough"]),
            "until": day(period["end"]) if period["end"] is not None else "not yet recovered",
        }
        for period in periods
    ]
    return table(
        "Worst drawdowns",
        [
            ("depth", "Depth", percent),
            ("from", "Peak", instant),
            ("low", "Trough", instant),
            ("until", "Recovered", instant),
            ("days", "Days", plain(0)),
            ("to_trough", "To trough", plain(0)),
            ("to_recovery", "To recover", plain(0)),
        ],
        rows,
        note="the portfolio never fell below an earlier high",
    )


def monthly(years: np.ndarray, months: np.ndarray, totals: np.ndarray) -> str:
    """Calendar-month returns with year totals."""
    rows = [
        {"year": str(year), **{name: months[i, m] for m, name in enumerate(analysis.MONTHS)}, "total": totals[i]}
        for i, year in enumerate(years)
    ]
    compact: Cell = lambda value: percent(value, 1).replace(" %", "")  # noqa: E731
    return table(
        "Monthly returns, percent",
        [("year", "Year", words), *((name, name, compact) for name in analysis.MONTHS), ("total", "Year", compact)],
        rows,
    )


def groups(caption: str, columns: Mapping[str, np.ndarray], what: str) -> str:
    """Trades by group (`analysis.group_trades`)."""
    return table(
        caption,
        [
            ("group", what, words),
            ("trades", "Trades", plain(0)),
            ("win_rate", "Won", share),
            ("pnl", "Profit", money),
            ("average_return", "Mean return", percent),
            ("profit_factor", "Profit factor", plain()),
            ("fees", "Fees", plain()),
        ],
        rows_of(columns),
        note="there were no trades",
    )


def extremes(trips: analysis.Columns, *, best: bool, count: int = 5) -> str:
    """The best or worst trades by return."""
    order = np.argsort(-trips["return"] if best else trips["return"], kind="stable")[:count]
    rows = [
        {
            "symbol": trips["symbol"][i],
            "side": "long" if trips["direction"][i] > 0 else "short",
            "entry": day(trips["entry_time"][i]),
            "exit": day(trips["exit_time"][i]),
            "return": trips["return"][i],
            "pnl": trips["pnl"][i],
        }
        for i in order
    ]
    return table(
        "Best trades" if best else "Worst trades",
        [
            ("symbol", "Market", words),
            ("side", "Side", words),
            ("entry", "Entry", instant),
            ("exit", "Exit", instant),
            ("return", "Return", percent),
            ("pnl", "Profit", money),
        ],
        rows,
        note="there were no trades",
    )


def metrics(figures: Mapping[str, float | None], currency: str) -> str:
    """Every figure with its formula."""
    rows = []
    for key, value in figures.items():
        metric = metric_of(key)
        text, unit = shown(metric, value, currency)
        rows.append({"name": metric.name, "value": f"{text} {unit}".strip(), "formula": metric.formula, "key": key})
    plainly: Cell = lambda text: escape(str(text))  # noqa: E731  set right, unlike words
    code: Cell = lambda text: f'<span class="wb-mono wb-muted">{escape(str(text))}</span>'  # noqa: E731
    return table(
        "All metrics",
        [("name", "Metric", words), ("value", "Value", plainly), ("formula", "Formula", words), ("key", "Key", code)],
        rows,
        note="this run has no figures",
    )


def facts(caption: str, values: Mapping[str, Any]) -> str:
    """Nested facts as two columns, keys dotted."""
    rows = [{"key": key, "value": _said(value)} for key, value in flat(values)]
    return table(caption, [("key", "Fact", words), ("value", "Value", words)], rows, note="nothing was recorded")


def _said(value: Any) -> str:
    """A fact as a person writes it: whole numbers without a point, instants without empty fractions of a second."""
    if isinstance(value, float):
        return f"{value:.12g}"
    return str(value).removesuffix(".000000Z") + "Z" if str(value).endswith(".000000Z") else str(value)


def flat(values: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Nested mappings and lists as (dotted key, value) pairs."""
    if isinstance(values, Mapping):
        pairs = [
            pair for key, value in values.items() for pair in flat(value, f"{prefix}.{key}" if prefix else str(key))
        ]
        return pairs or ([(prefix, "none")] if prefix else [])
    if isinstance(values, list | tuple):
        if all(not isinstance(value, Mapping | list | tuple) for value in values):
            return [(prefix, ", ".join(str(value) for value in values) or "none")]
        return [
            pair
            for i, value in enumerate(values)
            for pair in flat(value, f"{prefix}.{i + 1}" if prefix else str(i + 1))
        ]
    return [(prefix, "none" if values is None else values)]


def warnings(entries: Sequence[Mapping[str, str]]) -> str:
    """The warnings box; a plain line when there are none."""
    if not entries:
        return '<div class="wb-note wb-fine" role="note">No warnings: data, fills and figures look usual.</div>'
    items = "".join(
        f"<li>{escape(str(entry.get('message', '')))} <code>{escape(str(entry.get('code', '')))}</code></li>"
        for entry in entries
    )
    count = f"{len(entries)} warning{'s' if len(entries) > 1 else ''}"
    return f'<div class="wb-note" role="alert"><strong>{count}</strong><ul>{items}</ul></div>'


def log(lines: Sequence[str], most: int = 500) -> str:
    """The run's log, the last `most` lines."""
    if not lines:
        return empty("Log", "the run wrote no log lines")
    cut = f"({len(lines) - most} earlier lines left out)\n" if len(lines) > most else ""
    return (
        f'<table class="wb-table"><caption>Log</caption></table>'
        f'<pre class="wb-log" tabindex="0">{escape(cut)}{escape(chr(10).join(lines[-most:]))}</pre>'
    )


def trade_frame(trips: analysis.Columns) -> Any:
    """The trades as a pandas frame for the grid: number, market, side, times, prices, profit, return, excursions."""
    import pandas as pd

    days = (trips["exit_time"] - trips["entry_time"]) / times.DAY
    unit, times_a_day = times.span_unit(float(np.median(days)) if len(days) else 0.0)
    stamp = {name: pd.to_datetime(np.asarray(trips[name], np.int64), unit="us") for name in ("entry_time", "exit_time")}
    return pd.DataFrame(
        {
            "trade": np.arange(1, len(trips["pnl"]) + 1),
            "market": np.asarray(trips["symbol"], dtype=object),
            "side": np.where(np.asarray(trips["direction"]) > 0, "long", "short"),
            "entry": stamp["entry_time"],
            "exit": stamp["exit_time"],
            "entry price": trips["entry_price"],
            "exit price": trips["exit_price"],
            "quantity": trips["quantity"],
            "profit": trips["pnl"],
            "return %": np.asarray(trips["return"], float) * 100,
            "MAE %": np.asarray(trips["mae"], float) * 100,
            "MFE %": np.asarray(trips["mfe"], float) * 100,
            unit: days * times_a_day,
            "fees": trips["fees"],
            "status": np.asarray(trips["status"], dtype=object),
        }
    )


def trades(trips: analysis.Columns, most: int = 300) -> str:
    """The trades as a plain table, the first `most` of them."""
    size = len(trips["pnl"])
    if not size:
        return empty("No trades", "the strategy never entered the market in this range")
    rows = [
        {
            "n": i + 1,
            "symbol": trips["symbol"][i],
            "side": "long" if trips["direction"][i] > 0 else "short",
            "entry": day(trips["entry_time"][i]),
            "exit": day(trips["exit_time"][i]),
            "in": trips["entry_price"][i],
            "out": trips["exit_price"][i],
            "pnl": trips["pnl"][i],
            "return": trips["return"][i],
            "fees": trips["fees"][i],
            "status": trips["status"][i],
        }
        for i in range(min(size, most))
    ]
    caption = "Trades" if size <= most else f"Trades, the first {most:,} of {size:,}"
    return table(
        caption,
        [
            ("n", "Trade", plain(0)),
            ("symbol", "Market", words),
            ("side", "Side", words),
            ("entry", "Entry", instant),
            ("exit", "Exit", instant),
            ("in", "Entry price", plain()),
            ("out", "Exit price", plain()),
            ("pnl", "Profit", money),
            ("return", "Return", percent),
            ("fees", "Fees", plain()),
            ("status", "Status", words),
        ],
        rows,
    )
