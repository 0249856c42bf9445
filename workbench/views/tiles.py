"""The report's head: who and what was tested, and the figures as tiles."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any, Final

from engine import times
from engine.metrics import METRICS
from engine.model import Metric

KEY: Final = ("total_return", "annual_return", "sharpe", "max_drawdown")
TILES: Final = (
    *KEY,
    "benchmark_return",
    "volatility",
    "sortino",
    "calmar",
    "omega",
    "max_drawdown_days",
    "time_under_water",
    "win_rate",
    "profit_factor",
    "expectancy",
    "payoff_ratio",
    "sqn",
    "trades",
    "avg_holding_days",
    "avg_holding_days_winners",
    "avg_holding_days_losers",
    "exposure",
    "turnover",
    "fees_paid",
    "psr",
    "dsr",
    "beta",
    "alpha",
    "final_value",
)
SHORT: Final = {
    "avg_holding_days": "Holding time", "avg_holding_days_winners": "Holding, winners",
    "avg_holding_days_losers": "Holding, losers", "sqn": "System quality",
    "psr": "Probabilistic Sharpe", "dsr": "Deflated Sharpe",
}
"""Names of figures whose own are too long for a tile; the tip has the whole."""
SIGNED: Final = frozenset(
    {
        "total_return",
        "annual_return",
        "benchmark_return",
        "max_drawdown",
        "alpha",
        "expectancy",
        "best_trade",
        "worst_trade",
        "var_95",
        "cvar_95",
    }
)
"""Figures whose sign is printed and coloured; others are coloured only through these."""


def number(value: float, digits: int = 2) -> str:
    """Thousands separated, true minus sign, infinity as ∞."""
    if value in (float("inf"), float("-inf")):
        return "∞" if value > 0 else "−∞"
    return f"{value:z,.{digits}f}".replace("-", "−")


def shown(metric: Metric, value: float | None, currency: str = "") -> tuple[str, str]:
    """A figure as (text, unit) for a person: fractions become percent; ("–", "") when it is undefined."""
    if value is None or value != value:
        return "–", ""
    if value in (float("inf"), float("-inf")):
        return number(value), ""
    sign = "+" if metric.key in SIGNED and value > 0 else ""
    match metric.unit:
        case "fraction":
            return sign + number(value * 100, 2 if abs(value) < 10 else 0), "%"
        case "currency":
            return sign + number(value, 2 if abs(value) < 10_000 else 0), currency
        case "count":
            return number(value, 0), ""
        case "days":
            unit, times_a_day = times.span_unit(value)
            value *= times_a_day
            return number(value, 1 if abs(value) < 100 and value != int(value) else 0), unit
        case "bars":
            return number(value, 1 if abs(value) < 100 and value != int(value) else 0), metric.unit
        case _:
            return sign + number(value, 2 if value != int(value) or abs(value) < 100 else 0), ""


def metric_of(key: str) -> Metric:
    """The definition of a figure; one made from its key when the engine does not list it (a dialect's own)."""
    return METRICS.get(key) or Metric(key=key, name=key.replace("_", " ").capitalize(), unit="ratio", formula="")


def tile(key: str, value: float | None, currency: str = "") -> str:
    """One tile as HTML: a definition that can take the focus, with its formula as description."""
    metric = metric_of(key)
    text, unit = shown(metric, value, currency)
    tone = ""
    if key in SIGNED and value is not None and value == value and value != 0:
        tone = " wb-gain" if value > 0 else " wb-loss"
    kind = " wb-key" if key in KEY else ""
    said = f"{metric.name}: {'not defined' if text == '–' else f'{text} {unit}'}"
    tip = ""
    if metric.formula:
        words = f"<strong>{escape(metric.name)}</strong><br>{escape(metric.formula)}"
        tip = f'<span class="wb-tip" role="tooltip" id="tip-{key}">{words}</span>'
    return (
        f'<div class="wb-tile{kind}" tabindex="0" role="group" aria-label="{escape(said.strip())}"'
        + (f' aria-describedby="tip-{key}"' if tip else "")
        + f' data-metric="{key}">'
        f'<dt>{escape(SHORT.get(key, metric.name))}</dt><dd class="{tone.strip()}">{text}'
        + (f" <small>{escape(unit)}</small>" if unit else "")
        + f"</dd>{tip}</div>"
    )


def tiles(metrics: Mapping[str, float | None], currency: str = "", keys: Sequence[str] = TILES) -> str:
    """All tiles as one HTML definition list; figures that the run does not have are left out, undefined ones stay."""
    body = "".join(tile(key, metrics[key], currency) for key in keys if key in metrics)
    return f'<dl class="wb-tiles" aria-label="Metrics">{body}</dl>'


def _get(run: Any, name: str, default: Any = "") -> Any:
    if run is None:
        return default
    value = run.get(name, default) if isinstance(run, Mapping) else getattr(run, name, default)
    return default if value is None else value


def day(value: Any) -> str:
    """An instant (microseconds, datetime or ISO text) as a date, with the time when it is not midnight."""
    if value in (None, ""):
        return ""
    at = times.instant(int(value)) if not isinstance(value, str | datetime) else times.parse(value)
    return f"{at:%Y-%m-%d}" if (at.hour, at.minute, at.second) == (0, 0, 0) else f"{at:%Y-%m-%d %H:%M}"


def span(start: Any, end: Any) -> str:
    return f"{day(start)} to {day(end)}" if start not in (None, "") else "no bars"


def costs(spec: Mapping[str, Any]) -> str:
    """Fees and slippage in words."""
    entry = spec.get("costs") or {}
    parts = []
    if entry.get("fee_rate"):
        parts.append(f"fee {entry['fee_rate'] * 100:g} %")
    if entry.get("fixed_fee"):
        parts.append(f"{entry['fixed_fee']:g} {spec.get('currency', '')} a fill")
    if entry.get("slippage"):
        parts.append(f"slippage {entry['slippage'] * 100:g} %")
    return ", ".join(parts) or "none"


def sized(spec: Mapping[str, Any]) -> str:
    """How large a position is, in words."""
    sizing = spec.get("sizing") or {}
    value, kind = sizing.get("value", 1), sizing.get("kind", "")
    words = {"fraction": f"{value * 100:g} % of equity", "cash": f"{value:,g} {spec.get('currency', '')} each",
             "units": f"{value:,g} units each"}
    return words.get(kind, f"{value:g} {kind}") if sizing else ""


def code_hash(provenance: Mapping[str, Any]) -> str:
    """The first 12 digits of the strategy's source hash, wherever the provenance keeps it; empty when it does not."""
    entry = provenance.get("strategy")
    places = [entry if isinstance(entry, Mapping) else {}, provenance]
    for place in places:
        for name, value in place.items():
            if isinstance(value, str) and ("sha" in name or "hash" in name):
                return value.removeprefix("sha256:")[:12]
    return ""


def annualisation(provenance: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """The rule by which figures were made yearly."""
    rule = provenance.get("annualisation") or provenance.get("annualization")
    if isinstance(rule, Mapping):
        rule = rule.get("rule") or ", ".join(f"{key} {value}" for key, value in rule.items())
    periods = metrics.get("periods_per_year")
    return str(rule) if rule else (f"{periods:g} periods a year" if periods else "")


def _params(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters that ran, defaults included; what was asked when the run does not say."""
    ran = summary.get("provenance", {}).get("strategy")
    return (ran.get("params") if isinstance(ran, Mapping) else None) or summary.get("spec", {}).get("params") or {}


def header(summary: Mapping[str, Any], run: Any = None, span_text: str = "", *, actions: str = "") -> str:
    """The head of a report as HTML: title, state, and the facts that make the run repeatable."""
    spec, provenance = summary.get("spec", {}), summary.get("provenance", {})
    strategy = str(spec.get("strategy", "strategy"))
    name = str(_get(run, "name"))
    params = ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in _params(summary).items()
    )
    markets = list(spec.get("markets", ()))
    shown_markets = ", ".join(markets[:6]) + (f" and {len(markets) - 6} more" if len(markets) > 6 else "")
    facts = [
        ("Strategy", strategy if name else ""),
        ("Parameters", params or "none"),
        ("Markets", shown_markets),
        ("Bars", str(spec.get("resolution", ""))),
        ("Range", span_text or span(spec.get("start"), spec.get("end"))),
        ("Capital", f"{number(float(spec['cash']), 0)} {spec.get('currency', '')}" if spec.get("cash") else ""),
        ("Sizing", sized(spec)),
        ("Direction", str(spec.get("direction", ""))),
        ("Costs", costs(spec)),
        ("Benchmark", str(spec.get("benchmark") or provenance.get("benchmark") or "equal-weight buy and hold")),
        ("Annualised", annualisation(provenance, summary.get("metrics", {}))),
        ("Seed", str(spec.get("seed", ""))),
        ("Code", code_hash(provenance)),
        ("Run", str(_get(run, "id"))[:18]),
    ]
    items = "".join(
        f"<div><dt>{label}</dt><dd{' class=wb-mono' if label in ('Code', 'Run') else ''}>{escape(text)}</dd></div>"
        for label, text in facts
        if text
    )
    state = str(_get(run, "state"))
    tone = "gain" if state == "completed" else "muted"
    badge = f'<span class="wb-state" style="color:var(--wb-{tone})">{escape(state)}</span>'
    return (
        f'<header><div class="wb-head"><h1>{escape(name or strategy)}</h1>{badge if state else ""}{actions}</div>'
        f'<dl class="wb-facts">{items}</dl></header>'
    )
