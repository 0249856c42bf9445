"""What became of alerts, by detector and instrument: counts, hit rate with its interval, R, time to the outcome."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["figures_table", "gathered", "lasted", "report_tiles", "table_of"]


def gathered(items: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The server's figures (by detector, instrument, duration, direction) added up by detector and instrument, and
    first of all those of everything. hit_rate with its 95 % interval (Wilson); expectancy_r: R of one more alert
    that ends, aborted ones counting 0."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    items = list(items)
    for item in items:
        groups.setdefault((str(item["detector"]), str(item["instrument"])), []).append(item)
    whole = [_added("", "", items, all=True)] if items else []
    return [*whole, *(_added(detector, instrument, members) for (detector, instrument), members in
                      sorted(groups.items()))]


def _added(detector: str, instrument: str, items: Sequence[Mapping[str, Any]], *, all: bool = False) -> dict[str, Any]:
    from engine.detector_backtest import wilson

    told: dict[str, Any] = {name: sum(int(item[name]) for item in items)
                            for name in ("alerts", "open", "aborted", "closed", "won")}
    ended = told["closed"] + told["aborted"]
    total_r = sum(item["average_r"] * item["closed"] for item in items if item["average_r"] is not None)
    seconds = sum(item["average_seconds"] * (item["closed"] + item["aborted"]) for item in items
                  if item["average_seconds"] is not None)
    low, high = wilson(told["won"], told["closed"])
    return {**told, "detector": "all" if all else detector or "bots", "instrument": "" if all else instrument.lower(),
            "hit_rate": told["won"] / told["closed"] if told["closed"] else None, "hit_rate_low": low,
            "hit_rate_high": high, "average_r": total_r / told["closed"] if told["closed"] else None,
            "expectancy_r": total_r / ended if ended else None, "seconds": seconds / ended if ended else None}


def lasted(seconds: float | None) -> str:
    """A duration in one or two units."""
    if seconds is None:
        return "–"
    for size, unit, small, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            whole, rest = divmod(round(seconds), size)
            return f"{whole} {unit}" + (f" {rest // small} {part}" if rest // small else "")
    return f"{seconds:.0f} s"


def share(value: float | None) -> str:
    return "–" if value is None else f"{value * 100:.0f} %"


def _r(value: float | None) -> str:
    if value is None:
        return "–"
    tone = "gain" if value > 0 else "loss" if value < 0 else ""
    return f'<span class="{tone}">{value:+.2f}</span>'.replace("-", "−")


def interval(told: Mapping[str, Any]) -> str:
    """A hit rate with its 95 % interval."""
    if told["hit_rate"] is None:
        return "–"
    return (f'{share(told["hit_rate"])} <span class="muted">{share(told["hit_rate_low"])[:-2]}–'
            f'{share(told["hit_rate_high"])}</span>')


def table_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """`gathered` as an HTML table."""
    if not rows:
        return '<p class="muted">There is nothing to count yet.</p>'
    heads = ("Detector", "Instrument", "Alerts", "Open", "Aborted", "Closed", "Won", "Hit rate (95 %)", "Mean R",
             "Expectancy R", "To the end")
    body = "".join(
        f'<tr><td class="name" style="min-width:150px">{escape(row["detector"])}</td>'
        f'<td>{escape(row["instrument"])}</td>'
        + "".join(f'<td class="num">{row[name]:,}</td>' for name in ("alerts", "open", "aborted", "closed", "won"))
        + f'<td class="num">{interval(row)}</td><td class="num">{_r(row["average_r"])}</td>'
          f'<td class="num">{_r(row["expectancy_r"])}</td><td class="num">{lasted(row["seconds"])}</td></tr>'
        for row in rows)
    tops = "".join(f'<th scope="col"{"" if place < 2 else " class=num"}>{name}</th>'
                   for place, name in enumerate(heads))
    return (f'<div class="scroll" tabindex="0" role="region" aria-label="Statistics"><table><thead><tr>{tops}</tr>'
            f"</thead><tbody>{body}</tbody></table></div>")


def report_tiles(told: Mapping[str, Any]) -> str:
    """The figures of a detector's backtest (`engine.detector_backtest.figures`) as tiles."""
    shown = (("Alerts", f"{told['alerts']:,}"), ("Began", share(told["start_rate"])),
             ("Hit rate", interval(told)), ("Mean R", _r(told["average_r"])),
             ("Expectancy R", _r(told["expectancy_r"])), ("Total R", _r(told["total_r"])),
             ("Profit factor", "–" if told["profit_factor"] is None else f"{told['profit_factor']:.2f}"),
             ("Best, worst R", f"{_r(told['best_r'])} / {_r(told['worst_r'])}"),
             ("To start", lasted(told["seconds_to_start"])), ("To the end", lasted(told["seconds_to_end"])))
    return '<div class="tiles">' + "".join(
        f'<div class="tile"><span>{name}</span><b style="font-size:16px">{value}</b></div>'
        for name, value in shown) + "</div>"


def figures_table(statistics: Mapping[str, Mapping[str, Any]]) -> str:
    """All and by direction, of a detector's backtest."""
    rows = [{**told, "detector": name, "instrument": "", "seconds": told["seconds_to_end"]}
            for name, told in statistics.items() if name in ("all", "BUY", "SELL")]
    return table_of(rows).replace(">Detector<", ">Direction<").replace('<th scope="col">Instrument</th>', "").replace(
        "</td><td></td>", "</td>")
