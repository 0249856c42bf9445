"""A model's profit and positions as the views need them, from the answers of the server."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from engine import times
from engine.plots import live as pictures
from workbench import cards
from workbench.client import AsyncClient
from workbench.views.live_rows import Row

POINTS: Final = 1500


@dataclass(frozen=True, kw_only=True)
class Figures:
    """`curves` and `totals` are by currency: currencies are never added up."""

    positions: Sequence[Mapping[str, Any]] = ()
    totals: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    curves: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    unpriced: int = 0
    reported: bool = False
    drawn: dict[str, dict[str, np.ndarray]] = field(default_factory=dict, compare=False, repr=False)

    def note(self, currency: str) -> str:
        """What to know about the profit in this currency."""
        parts = ["reported by the model" if self.reported else "computed from its orders at average cost"]
        if self.unpriced:
            parts.append(f"{self.unpriced:,} order{'s' if self.unpriced > 1 else ''} without any price left out "
                         "(unpriced)")
        return "; ".join(parts)

    def tiles(self, orders: int) -> list[tuple[str, str, str]]:
        """(name, value, tone) of the figures on top: one of each kind for every currency, the largest three."""
        found: list[tuple[str, str, str]] = []
        for currency, total in list(self.totals.items())[:3]:
            for name, key in (("Profit", "total"), ("Today", "today"), ("Unrealised", "unrealised")):
                value = total.get(key)
                tone = "" if not value else "gain" if value > 0 else "loss"
                found.append((name, f"{'+' if value and value > 0 else ''}{cards.number(value, 'currency')} {currency}",
                              tone))
            found.append(("Exposure", f"{cards.number(total.get('exposure'), 'currency')} {currency}", ""))
        held = sum(1 for position in self.positions if position.get("quantity"))
        return [*found, ("Open positions", f"{held:,}", ""), ("Orders", f"{orders:,}", "")]


async def figures_of(client: AsyncClient, model: str) -> Figures:
    """Profit and positions as they are now."""
    positions, profit, equity = await asyncio.gather(
        client.positions(model), client.pnl(model), client.equity(model, points=POINTS))
    return read(positions, profit, equity)


def read(positions: Mapping[str, Any], profit: Mapping[str, Any], equity: Mapping[str, Any]) -> Figures:
    """Figures from the three answers."""
    return Figures(
        positions=list(positions.get("items") or ()), totals=dict(profit.get("totals") or {}),
        curves=dict(equity.get("curves") or {}), unpriced=int(profit.get("unpriced") or 0),
        reported=bool(profit.get("reported")))


def curve_of(figures: Figures, currency: str) -> dict[str, np.ndarray]:
    """The profit in one currency as columns of the charts, made once for all who show these figures."""
    found = figures.drawn.get(currency)
    if found is None:
        found = figures.drawn[currency] = _columns(figures, currency)
    return found


def _columns(figures: Figures, currency: str) -> dict[str, np.ndarray]:
    curve = figures.curves.get(currency) or {}
    time = np.array([times.micros(times.parse(at)) if isinstance(at, str) else at for at in curve.get("time", ())],
                    np.int64)
    value = np.array([np.nan if each is None else each for each in curve.get("value", ())], float)
    turns = np.ones(len(value), bool)  # within a flat stretch nothing is to be drawn, and a bot that rests has many
    turns[1:-1] = (value[1:-1] != value[:-2]) | (value[1:-1] != value[2:])
    return pictures.profit_columns(time[turns], value[turns])


def positions_of(figures: Figures) -> list[Row]:
    """Positions as rows, open ones first."""
    rows = [{
        "id": f"{entry.get('exchange', '')} {entry.get('symbol')}", "name": entry.get("symbol"),
        "exchange": entry.get("exchange", ""),
        "quantity": entry.get("quantity"), "cost": entry.get("average_cost"), "price": entry.get("price"),
        "value": entry.get("value"), "unrealised": entry.get("unrealised"), "realised": entry.get("realised"),
        "fees": entry.get("fees"), "currency": entry.get("currency", ""),
        "note": f"{entry['unpriced']:,} unpriced" if entry.get("unpriced") else ""} for entry in figures.positions]
    return sorted(rows, key=lambda row: (not row["quantity"], str(row["name"])))
