"""The fourth tab: costs, provenance, data, warnings, log, and every figure with its formula."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.plots.style import Style
from workbench.views import tables
from workbench.views.blocks import Block
from workbench.views.data import Cache
from workbench.views.tables import plain, words
from workbench.views.tiles import number


def cost_table(cache: Cache, fills: Mapping[str, np.ndarray]) -> str:
    """What trading cost, by side and in all, and what share of the traded value that was."""
    side, fee = np.asarray(fills["side"]), np.asarray(fills["fee"], float)
    traded = np.asarray(fills["quantity"], float) * np.asarray(fills["price"], float)
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
    if summary.get("extra"):
        parts.insert(-1, Block(content=tables.facts("From its own engine", summary["extra"])))
    return parts
