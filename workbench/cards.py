"""Small HTML pictures of runs and sweeps for notebook cells and lists. Plain HTML and SVG: no scripts, no network."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from engine.model import Run

HEADLINES: Final = (
    ("total_return", "Return", "percent"), ("annual_return", "CAGR", "percent"), ("sharpe", "Sharpe", "ratio"),
    ("max_drawdown", "Max drawdown", "percent"), ("win_rate", "Win rate", "percent"), ("trades", "Trades", "count"),
)
STATE_COLOURS: Final = {"queued": "#8793a2", "running": "#2a78d6", "completed": "#00866f", "failed": "#c2410c",
                        "cancelled": "#8793a2"}
_BOX: Final = ("border:1px solid rgba(128,128,128,.35);border-radius:8px;padding:12px 14px;max-width:720px;"
               "font:13px/1.45 system-ui,sans-serif")


def number(value: float | None, kind: str = "ratio") -> str:
    """A figure for people: percent ratio with two decimals, counts and money grouped; — for none. What rounds to
    nothing has no sign."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "—"
    if kind in ("percent", "fraction"):
        digits = 1 if abs(value) >= 0.1 else 2
        text = f"{100 * value:z,.{digits}f} %"
    elif kind in ("count", "bars"):
        text = f"{value:z,.0f}"
    elif kind == "days":
        text = f"{value:z,.1f} d"
    else:
        text = f"{value:z,.2f}"
    return text.replace("-", "−")


def sparkline(values: Sequence[float], *, width: int = 160, height: int = 36, label: str = "equity curve") -> str:
    """An inline SVG of a curve with a hairline at its first value; a dash when there is nothing to draw."""
    points = [float(value) for value in values if value is not None and math.isfinite(value)]
    if len(points) < 2:
        return '<span style="opacity:.75">—</span>'
    low, high = min(points), max(points)
    span = (high - low) or 1.0
    inner = height - 4

    def y(value: float) -> float:
        return round(2 + inner * (1 - (value - low) / span), 1)

    step = width / (len(points) - 1)
    path = " ".join(f"{round(index * step, 1)},{y(value)}" for index, value in enumerate(points))
    colour = "#00866f" if points[-1] >= points[0] else "#c2410c"
    return (f'<svg role="img" aria-label="{html.escape(label)}" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" preserveAspectRatio="none" style="display:block;max-width:100%">'
            f'<line x1="0" x2="{width}" y1="{y(points[0])}" y2="{y(points[0])}" stroke="currentColor" '
            'stroke-opacity=".25" stroke-dasharray="2 3"/>'
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5" '
            'vector-effect="non-scaling-stroke"/></svg>')


def badge(state: str) -> str:
    """The state as a pill with a coloured rim; the word, in the colour of the text, carries the meaning."""
    colour = STATE_COLOURS.get(state, "#8793a2")
    return (f'<span style="display:inline-block;white-space:nowrap;border:1px solid {colour};border-radius:99px;'
            f'padding:0 8px;font-size:11px;font-weight:600">{html.escape(state)}</span>')


def tiles(metrics: Mapping[str, float | None]) -> str:
    """The headline figures side by side."""
    cells = "".join(
        f'<div style="min-width:84px"><div style="font-size:11px;opacity:.7">{name}</div>'
        f'<div style="font-size:16px;font-weight:600;font-variant-numeric:tabular-nums">'
        f"{number(metrics.get(key), kind)}</div></div>" for key, name, kind in HEADLINES)
    return f'<div style="display:flex;flex-wrap:wrap;gap:8px 20px;margin-top:8px">{cells}</div>'


def title_of(run: Run) -> str:
    """What to call a run: its name, else strategy and parameters, or what is searched."""
    if run.name:
        return run.name
    if run.kind == "optimization":
        swept = run.spec.get("parameters")
        return f"Sweep of {run.strategy}" + (f" over {', '.join(swept)}" if swept else "")
    params = run.spec.get("params") if isinstance(run.spec, Mapping) else None
    told = ", ".join(f"{name}={value}" for name, value in (params or {}).items())
    return (run.strategy or run.kind) + (f" ({told})" if told else "")


def span_of(run: Run) -> str:
    """Markets, resolution and range of a run in one line."""
    markets = ", ".join(run.markets[:3]) + (f" and {len(run.markets) - 3} more" if len(run.markets) > 3 else "")
    start, end = (str(run.spec.get(name) or "")[:10] for name in ("start", "end"))
    dates = f"{start or 'first bar'} – {end or 'last bar'}" if start or end else ""
    return " · ".join(part for part in (markets, run.resolution, dates) if part)


def _head(run: Run, url: str) -> str:
    return (f'<div style="display:flex;flex-wrap:wrap;gap:8px;align-items:baseline">'
            f'<strong style="font-size:15px">{html.escape(title_of(run))}</strong>{badge(run.state)}'
            f'<a href="{html.escape(url)}" target="_blank" rel="noopener" style="margin-left:auto">open the report</a>'
            f'</div><div style="opacity:.7">{html.escape(span_of(run))}</div>')


def run_card(run: Run, values: Sequence[float], url: str) -> str:
    """The card of a run: title, state, figures, equity."""
    body = ""
    if run.state == "completed":
        body = tiles(run.metrics) + f'<div style="margin-top:8px">{sparkline(values, width=690, height=72)}</div>'
    elif run.state == "failed":
        body = f'<div style="margin-top:8px;color:#c2410c">{html.escape(run.error or "failed")}</div>'
    elif not run.finished:
        body = f'<div style="margin-top:8px">{run.progress:.0%} done</div>'
    return f'<div style="{_BOX}">{_head(run, url)}{body}</div>'


def sweep_card(run: Run, best: Mapping[str, Any] | None, url: str) -> str:
    """The card of a sweep: title, state, best trial."""
    body = f'<div style="margin-top:8px">{run.progress:.0%} done</div>' if not run.finished else ""
    if best:
        params = best.get("params") or best.get("parameters") or {}
        told = ", ".join(f"{name}={value}" for name, value in params.items())
        score = best.get("objective", best.get("value", best.get("score")))
        shown = number(score) if isinstance(score, int | float) else "—"
        body += f'<div style="margin-top:8px">best: <b>{html.escape(told)}</b> scores <b>{shown}</b></div>'
    return f'<div style="{_BOX}">{_head(run, url)}{body}</div>'


def comparison_card(entries: Iterable[tuple[str, Run, Sequence[float]]]) -> str:
    """A table of runs: label, figures, equity."""
    heads = "".join(f'<th scope="col" style="text-align:right;padding:2px 10px">{name}</th>'
                    for _, name, _ in HEADLINES)
    rows = "".join(
        f'<tr><th scope="row" style="text-align:left;padding:2px 10px 2px 0">{html.escape(label)}</th>'
        + "".join(f'<td style="text-align:right;padding:2px 10px;font-variant-numeric:tabular-nums">'
                  f"{number(run.metrics.get(key), kind)}</td>" for key, _, kind in HEADLINES)
        + f"<td>{sparkline(values, width=120, height=28, label=f'equity of {label}')}</td></tr>"
        for label, run, values in entries)
    return (f'<div style="{_BOX};max-width:none;overflow-x:auto"><table style="border-collapse:collapse">'
            f'<thead><tr><th></th>{heads}<th></th></tr></thead><tbody>{rows}</tbody></table></div>')
