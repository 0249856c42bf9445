"""What an earlier run was asked, as the values of the form for a backtest: `/new?run=ID` begins with them."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Final

from engine import times
from engine.model import Run

PLAIN: Final = ("resolution", "cash", "currency", "direction", "data_mode", "seed")


def may_change(run: Run) -> bool:
    """Whether the form can say what this run was asked: it knows no files, and no other fill models."""
    base = _base(run)
    return (run.kind in ("backtest", "optimization") and base.get("fill_model") == "next_bar"
            and base.get("source") == "store")


def asked(run: Run) -> dict[str, Any]:
    """The value of each field of the form, `params` (name -> value) and `swept` (name -> text) among them."""
    base = _base(run)
    values: dict[str, Any] = {name: base[name] for name in PLAIN if base.get(name) is not None}
    values |= {f"{part}.{name}": value for part in ("sizing", "costs")
               for name, value in (base.get(part) or {}).items()}
    values |= {"strategy": base.get("strategy", ""), "markets": [str(market) for market in base.get("markets") or ()],
               "start": _day(base.get("start")), "end": _day(base.get("end")), "params": dict(base.get("params") or {}),
               "benchmark": base.get("benchmark") or "", "name": run.name, "tags": ", ".join(run.tags), "swept": {}}
    if run.kind == "optimization":
        values["swept"] = {name: values_text(told) for name, told in (run.spec.get("parameters") or {}).items()}
        values |= {name: run.spec[name] for name in ("objective", "method", "max_trials") if run.spec.get(name)}
        values["validation"] = (run.spec.get("validation") or {}).get("mode", "none")
    return values


def values_text(values: Any) -> str:
    """Swept values as they are typed: `5, 10, 20` or `10:50:5` (first:last:step); ten steps where none was said."""
    if isinstance(values, Mapping):
        low, high = float(values["low"]), float(values["high"])
        whole = low.is_integer() and high.is_integer()
        step = float(values.get("step") or (max(1.0, (high - low) // 10) if whole else (high - low) / 10))
        return f"{low:g}:{high:g}:{step:g}"
    if isinstance(values, Sequence) and not isinstance(values, str):
        return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
    return str(values)


def _base(run: Run) -> Mapping[str, Any]:
    found = run.spec.get("base") if run.kind == "optimization" else run.spec
    return found if isinstance(found, Mapping) else {}


def _day(value: Any) -> date | None:
    return times.parse(value).date() if value else None
