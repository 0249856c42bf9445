"""What a trade bot may do: how large an order, how much loss a day."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from engine.errors import Invalid

__all__ = ["Limits", "limits_of"]

MOST: Final = 1e12


@dataclass(frozen=True, kw_only=True)
class Limits:
    """In the market's currency. `order`: worth of one order at most, the rest of the balance stays out. `loss`: when a
    day (UTC) has lost more, marked at the last close, the bot trades no more until the next."""

    order: float
    loss: float


def limits_of(trader: Mapping[str, Any]) -> Limits:
    """The limits in the section `trader`; both must be said. Raises `Invalid`."""
    found = {}
    for name, field in (("order", "maxOrderValue"), ("loss", "maxDailyLoss")):
        value = trader.get(field)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MOST \
                or not math.isfinite(value):
            raise Invalid("a bot with real orders needs this limit", field=f"trader.{field}",
                          remedy="give an amount of the market's currency")
        found[name] = float(value)
    return Limits(**found)
