"""The fourth tab: costs, provenance, data, warnings, log, and every figure with its formula."""

from collections.abc import Mapping
from html import escape
from typing import Any, Final

import numpy as np

from engine.plots.style import Style
from workbench.views import tables
from workbench.views.blocks import Block
from workbench.views.data import Cache
from workbench.views.tables import plain, words
from workbench.views.tiles import metric_of, number, shown

REPORTED: Final = "reported by the model"
_OURS: Final = {
    "calmar": "calmar", "calmar ratio": "calmar", "cagr": "annual_return", "compound annual growth rate":
    "annual_return", "cumulative returns": "total_return", "cum_returns": "total_return", "max drawdown":
    "max_drawdown", "max_drawdown": "max_drawdown", "sharpe": "sharpe", "sharpe ratio": "sharpe",
    "sortino": "sortino", "sortino ratio": "sortino", "volatility": "volatility", "value-at-risk": "var_95",
    "value_at_risk": "var_95"}
"""Names that models give their figures -> ours."""


def cost_table(cache: Cache, fills: Mapping[str, np.ndarray]) -> str:
    """What trading cost, by side and in all, and what share of the traded value that was."""
    side, fee = np.asarray(fills["side"]), np.asarray(fills["fee"], float)
    traded = np.nan_to_num(np.asarray(fills["quantity"], float) * np.asarray(fills["price"], float))
    slippage = float((cache.spec.get("costs") or {}).get("slippage") or 0.0)
    rows = []
    for name, keep in (("Buys", side > 0), ("Sells", side < 0), ("All", side != 0)):
        value = float(traded[keep].sum())
        rows.append(
            {
                "name": name,
                "fills": int(keep.sum()),
                "traded": value,
                "fees": float(fee[keep].sum()),
                "slip": value * slippage,
                "share": float(fee[keep].sum()) / value if value else None,
            }
        )
    part: tables.Cell = lambda value: "–" if value is None else f"{number(value * 100, 3)} %"  # noqa: E731
    return tables.table(
        "Costs",
        [
            ("name", "Fills", words),
            ("fills", "Count", plain(0)),
            ("traded", "Traded value", plain()),
            ("fees", "Fees", plain()),
            ("share", "Fees, share of traded", part),
            ("slip", "Slippage, about", plain()),
        ],
        rows if len(side) else [],
        note="there were no fills, so nothing was paid",
    )


def reported_table(figures: Mapping[str, Any], cache: Cache) -> str:
    """What a model says of its own backtest, beside the same figure as it is computed here of every run."""
    rows = []
    for name, value in figures.items():
        key = _OURS.get(name.lower().removesuffix(" (%)").strip(), "")
        ours = " ".join(shown(metric_of(key), cache.metrics.get(key), cache.currency)).strip() if key else ""
        said = number(float(value), 4) if isinstance(value, int | float) and not isinstance(value, bool) else (
            "none" if value is None else str(value)[:300])
        rows.append({"name": name, "said": said, "ours": ours, "key": metric_of(key).name if key else ""})
    plainly: tables.Cell = lambda text: escape(str(text))  # noqa: E731  set right, unlike words
    return tables.table("Figures reported by the model", [
        ("name", "Figure", words), ("said", "Reported by the model", plainly), ("ours", "Computed here", plainly),
        ("key", "As", words)], rows)


async def build(cache: Cache, look: Style) -> list[Block]:
    """The cards of the tab."""
    summary = cache.summary
    provenance: Mapping[str, Any] = summary.get("provenance", {})
    quality = provenance.get("quality") or provenance.get("data") or {}
    origin = {key: value for key, value in provenance.items() if key not in ("quality", "data")}
    parts = [
        Block(content=tables.warnings(summary.get("warnings", ()))),
        Block(content=cost_table(cache, await cache.table("fills")), span=6),
        Block(content=tables.facts("Data", quality), span=6),
        Block(content=tables.facts("What was asked", summary.get("spec", {})), span=6),
        Block(content=tables.facts("Provenance", origin), span=6),
        Block(content=tables.metrics(cache.metrics, cache.currency)),
        Block(content=tables.log(list(summary.get("logs", ())))),
    ]
    extra = dict(summary.get("extra") or {})
    if REPORTED in extra:
        parts.insert(0, Block(content=reported_table(extra.pop(REPORTED), cache)))
    if extra:
        parts.insert(-1, Block(content=tables.facts("From its own engine", extra)))
    return parts
