"""Fills of a bot as columns, and what they were worth over time."""

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from msgspec import Struct

from engine import times

__all__ = ["Fill", "Fills", "Key", "Track", "curve", "tracks"]

Key = tuple[str, str]
"""Exchange and symbol, as the bot says them."""


class Fill(Struct, frozen=True, kw_only=True):
    """`quantity` is the signed change of the position in units of the asset, `price` and `fee` are in `currency`.
    `outside` is a fee in a third currency `outside_currency`."""

    id: str
    key: Key
    at: datetime
    quantity: float
    price: float
    fee: float = 0.0
    currency: str
    outside: float = 0.0
    outside_currency: str = ""


class Fills:
    """Fills in their order, about a hundred bytes each. A key has one currency."""

    __slots__ = ("_at", "_fee", "_key", "_numbers", "_price", "_quantity", "currencies", "ids", "keys", "outside")

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.keys: list[Key] = []
        self.currencies: list[str] = []
        self.outside: dict[int, tuple[float, str]] = {}
        self._numbers: dict[Key, int] = {}
        self._key, self._at = array("i"), array("q")
        self._quantity, self._price, self._fee = array("d"), array("d"), array("d")

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Fill]:
        return (self[row] for row in range(len(self.ids)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fills) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __getitem__(self, row: int) -> Fill:
        number = self._key[row]
        outside, currency = self.outside.get(row, (0.0, ""))
        return Fill(id=self.ids[row], key=self.keys[number], at=times.instant(self._at[row]),
                    quantity=self._quantity[row], price=self._price[row], fee=self._fee[row],
                    currency=self.currencies[number], outside=outside, outside_currency=currency)

    def append(self, fill: Fill) -> None:
        number = self._numbers.get(fill.key)
        if number is None:
            number = self._numbers[fill.key] = len(self.keys)
            self.keys.append(fill.key)
            self.currencies.append(fill.currency)
        if fill.outside:
            self.outside[len(self.ids)] = (fill.outside, fill.outside_currency)
        self.ids.append(fill.id)
        self._key.append(number)
        self._at.append(times.micros(fill.at))
        self._quantity.append(fill.quantity)
        self._price.append(fill.price)
        self._fee.append(fill.fee)

    def pop(self) -> None:
        """Take the last one away again."""
        for column in (self.ids, self._key, self._at, self._quantity, self._price, self._fee):
            column.pop()  # type: ignore[attr-defined]
        self.outside.pop(len(self.ids), None)

    @property
    def time(self) -> np.ndarray:
        """When they happened: int64 microseconds, ascending."""
        return np.array(self._at, np.int64)

    def columns(self) -> dict[str, np.ndarray]:
        """key (its number in `keys`), time (microseconds), quantity (signed), price, fee."""
        return {"key": np.array(self._key, np.int32), "time": self.time, "quantity": np.array(self._quantity, float),
                "price": np.array(self._price, float), "fee": np.array(self._fee, float)}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Track:
    """Along an axis of time, float64: `profit` so far, `gross` the absolute and `net` the signed worth of what is
    held, all in one currency."""

    profit: np.ndarray
    gross: np.ndarray
    net: np.ndarray


def tracks(fills: Fills, time: np.ndarray, marks: Mapping[Key, np.ndarray]) -> dict[str, Track]:
    """What the fills were worth by quote currency along `time` (int64 microseconds, ascending), at `marks` (float64
    along `time`); where a mark is NaN or missing, at the last fill's price."""
    columns = fills.columns()
    found: dict[str, Track] = {}
    for number, key in enumerate(fills.keys):
        rows = columns["key"] == number
        if not rows.any():
            continue
        change, price, fee = (columns[name][rows] for name in ("quantity", "price", "fee"))
        index = np.searchsorted(columns["time"][rows], time, side="right")
        cash = np.concatenate(([0.0], np.cumsum(-change * price - fee)))[index]
        held = np.cumsum(change)
        # What is left of a closed position is rounding.
        held[np.abs(held) <= 1e-12 * np.maximum.accumulate(np.abs(change))] = 0.0
        held = np.concatenate(([0.0], held))[index]
        last = np.concatenate(([0.0], price))[index]
        mark = marks.get(key)
        worth = held * (last if mark is None else np.where(np.isnan(mark), last, mark))
        before = found.get(fills.currencies[number])
        mine = Track(profit=cash + worth, gross=np.abs(worth), net=worth)
        found[fills.currencies[number]] = mine if before is None else Track(
            profit=before.profit + mine.profit, gross=before.gross + mine.gross, net=before.net + mine.net)
    return found


def curve(fills: Fills, time: np.ndarray, marks: Mapping[Key, np.ndarray]) -> dict[str, np.ndarray]:
    """Profit by quote currency along `time`; as `tracks`."""
    return {currency: track.profit for currency, track in tracks(fills, time, marks).items()}
