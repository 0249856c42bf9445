"""Walking detectors and the lives of their alerts over candles: one compiled loop for backtests and for live markets.

A slot is one detector on one market. It holds the bar that is being gathered, the step's memory, and the life of its
one open alert: while an alert is open its slot gives no other. What happens at each candle, in this order:

    1. a candle that opens before the last one taken in is late: it is counted and changes nothing; the same candle
       once more is left out;
    2. if it opens after the gathered bar's end, that bar is complete (its last candles are missing): the step sees it;
    3. the life of the open alert moves on (`engine.alert_life`);
    4. the candle joins the bar of its time (bars begin at whole multiples of their length since 1970, UTC);
    5. if it ends that bar, the bar is complete: the step sees it.

A signal makes an alert at once, detected at the bar's end, with the bar's close as the price it stands at. So nothing
depends on how candles are cut into calls: one at a time or all at once, live or in a backtest, the result is the same.

Only pool processes, the detection process and notebooks load this module: it imports numba.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numba import float64, int64, types
from numba.extending import register_jitable

from engine import alert_life, detectors, times
from engine.alert_life import DETECTED_AT, ENDED_AT, LIFE, STARTED_AT, STATE
from engine.compiled import kernel, step_type
from engine.detectors.base import Detector

for _function in alert_life.JITABLE:
    register_jitable(_function)
_advance, _begin = alert_life.advance, alert_life.begin

GATHERED: Final = 9
"""Floats of a slot's bar: position, the bar's begin, open, high, low, close, volume, late candles, last close."""
POSITION: Final = 0
BAR: Final = 1
LATE: Final = 7
LAST: Final = 8

DETECTED: Final = 1.0
STARTED: Final = 2.0
ENDED: Final = 3.0

OUT: Final = 8
"""Most outputs of a detector's step."""
WIDTH: Final = 3 + LIFE + OUT
_MOST: Final = 4
"""Most events that one candle makes in one slot: an alert begins and ends, and another is detected, before or after."""

_VECTOR = types.Array(float64, 1, "C", readonly=True)
_TABLE = types.Array(float64, 2, "C")
_FLAGS = types.Array(int64, 1, "C")
_INTEGERS = types.Array(int64, 1, "C", readonly=True)


@register_jitable
def _event(events, at, slot, row, kind, life, out):
    events[at, 0] = slot
    events[at, 1] = row
    events[at, 2] = kind
    for k in range(LIFE):
        events[at, 3 + k] = life[k]
    for k in range(OUT):
        events[at, 3 + LIFE + k] = out[k]


@kernel(types.int64(step_type(), _TABLE, _TABLE, _TABLE, _TABLE, _INTEGERS, _INTEGERS, _INTEGERS, _FLAGS, _INTEGERS,
                    _INTEGERS, _INTEGERS, *[_VECTOR] * 5, _FLAGS, _TABLE))
def _walk(step, params, memory, gathered, lives, quiet, widths, bar_widths, completed, firsts, lasts, time, opens,
          highs, lows, closes, volumes, cursor, events):
    """Slots from cursor[0], candles from cursor[1] of that slot's firsts..lasts; the number of events written. It stops
    early when `events` may not hold what comes next: the cursor says where to go on."""
    count = 0
    room = events.shape[0] - _MOST
    bars = np.empty((1, 5))
    wish = np.empty(1)
    out = np.empty(OUT)
    while cursor[0] < len(firsts):
        s = cursor[0]
        bar_of = gathered[s]
        life = lives[s]
        width = float(widths[s])
        length = float(bar_widths[s])
        for row in range(firsts[s] + cursor[1], lasts[s]):
            if count > room:
                cursor[1] = row - firsts[s]
                return count
            begin = float(time[row])
            if begin <= bar_of[POSITION]:
                if begin < bar_of[POSITION]:
                    bar_of[LATE] += 1.0
                continue
            end = begin + width
            before = life[STATE]
            for turn in range(2):
                if turn == 1:
                    _advance(life, begin, end, opens[row], highs[row], lows[row], closes[row])
                    if before == 1.0 and life[STATE] != 1.0 and life[STARTED_AT] == life[STARTED_AT]:
                        _event(events, count, s, row, STARTED, life, out)
                        count += 1
                    if before > 0.0 and before < 3.0 and life[STATE] >= 3.0:
                        _event(events, count, s, row, ENDED, life, out)
                        count += 1
                    bucket = np.floor(begin / length) * length
                    if bar_of[BAR] != bucket:
                        bar_of[BAR] = bucket
                        bar_of[2] = opens[row]
                        bar_of[3] = highs[row]
                        bar_of[4] = lows[row]
                        bar_of[6] = 0.0
                    else:
                        bar_of[3] = max(bar_of[3], highs[row])
                        bar_of[4] = min(bar_of[4], lows[row])
                    bar_of[5] = closes[row]
                    bar_of[6] += volumes[row]
                    bar_of[LAST] = closes[row]
                    bar_of[POSITION] = begin
                limit = begin if turn == 0 else end
                if bar_of[BAR] == bar_of[BAR] and bar_of[BAR] + length <= limit:
                    closed_at = bar_of[BAR] + length
                    for k in range(5):
                        bars[0, k] = bar_of[2 + k]
                    bar_of[BAR] = np.nan
                    wish[0] = np.nan
                    for k in range(OUT):
                        out[k] = np.nan
                    step(params[s], memory[s], bars, wish, out)
                    completed[s] = 1
                    open_alert = life[STATE] == 1.0 or life[STATE] == 2.0
                    if quiet[s] == 0 and not open_alert and (wish[0] == 1.0 or wish[0] == -1.0):
                        side = wish[0]
                        risk = side * (out[0] - out[2])
                        aim = side * (out[1] - out[0])
                        if risk > 0.0 and aim > 0.0 and risk < np.inf and aim < np.inf:
                            trailing = params[s, 1] * risk if params[s, 1] > 0.0 else np.nan
                            _begin(life, side, out[0], out[1], out[2], trailing, params[s, 2] * risk, bars[0, 3],
                                   closed_at, closed_at + params[s, 0] * length)
                            _event(events, count, s, row, DETECTED, life, out)
                            count += 1
                    before = life[STATE]
        cursor[0] += 1
        cursor[1] = 0
    return count


@dataclass(frozen=True, kw_only=True, slots=True)
class Happening:
    """One step in an alert's life: `kind` DETECTED, STARTED or ENDED; `life` as it was then; `row` the candle's place;
    `out` what the step had to say, by name (of a detection only)."""

    market: str
    detector: str
    kind: float
    row: int
    life: np.ndarray
    out: Mapping[str, float]

    @property
    def at(self) -> int:
        """When it happened, microseconds."""
        return int(self.life[{DETECTED: DETECTED_AT, STARTED: STARTED_AT, ENDED: ENDED_AT}[self.kind]])


@dataclass(kw_only=True, eq=False)
class Slot:
    """One detector on one market: what it is, and all it remembers. Widths in seconds, `params` complete."""

    market: str
    detector: Detector
    params: Mapping[str, Any]
    resolution: int = 60
    bar: int = 0
    quiet: bool = False
    gathered: np.ndarray = field(default_factory=lambda: np.zeros(0))
    memory: np.ndarray = field(default_factory=lambda: np.zeros(0))
    life: np.ndarray = field(default_factory=lambda: np.zeros(LIFE))

    def __post_init__(self) -> None:
        self.bar = self.bar or self.detector.bar
        if not len(self.gathered):
            self.gathered = np.zeros(GATHERED)
            self.gathered[POSITION] = -np.inf
            self.gathered[BAR] = np.nan
        if not len(self.memory):
            self.memory = np.zeros(self.detector.strategy.state_size(self.params, 1))

    @property
    def position(self) -> int | None:
        """The open of the last candle taken in, microseconds; None before the first."""
        at = self.gathered[POSITION]
        return int(at) if np.isfinite(at) else None


Columns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""time (int64), open, high, low, close, volume."""


def walk(slots: Sequence[Slot], columns: Columns, firsts: Sequence[int], lasts: Sequence[int]) -> tuple[
        list[Happening], np.ndarray]:
    """Move slots of one detector on, each by its own rows firsts[i] to lasts[i] (exclusive) of the columns.

    Returns what happened, slot by slot in order of time, and which slots' steps saw a bar (their memory changed).
    """
    if not slots:
        return [], np.zeros(0, np.int64)
    detector = slots[0].detector
    strategy = detector.strategy
    params = np.array([strategy.vector(slot.params) for slot in slots])
    memory = np.zeros((len(slots), max(len(slot.memory) for slot in slots)))
    for each, slot in zip(memory, slots, strict=True):
        each[: len(slot.memory)] = slot.memory
    gathered = np.array([slot.gathered for slot in slots])
    lives = np.array([slot.life for slot in slots])
    quiet = np.array([slot.quiet for slot in slots], np.int64)
    widths = np.array([slot.resolution * times.SECOND for slot in slots], np.int64)
    bar_widths = np.array([slot.bar * times.SECOND for slot in slots], np.int64)
    completed = np.zeros(len(slots), np.int64)
    begin, end = np.asarray(firsts, np.int64), np.asarray(lasts, np.int64)
    events = np.empty((min(4096, _MOST * int((end - begin).sum())) + _MOST, WIDTH))
    cursor = np.zeros(2, np.int64)
    step = strategy.load()
    names = [each.name for each in strategy.indicators]
    found: list[Happening] = []
    while cursor[0] < len(slots):
        count = _walk(step, params, memory, gathered, lives, quiet, widths, bar_widths, completed, begin, end,
                      *columns, cursor, events)
        for row in events[:count]:
            slot = slots[int(row[0])]
            said = dict(zip(names, row[3 + LIFE :].tolist(), strict=False)) if row[2] == DETECTED else {}
            found.append(Happening(market=slot.market, detector=detector.key, kind=float(row[2]), row=int(row[1]),
                                   life=row[3 : 3 + LIFE].copy(), out=said))
    for place, slot in enumerate(slots):
        slot.gathered = gathered[place]
        slot.memory = memory[place, : len(slot.memory)]
        slot.life = lives[place]
    return found, completed


def slot_of(market: str, key: str, params: Mapping[str, Any] | None = None, **more: Any) -> Slot:
    """A fresh slot; raises `Invalid` for an unknown detector or parameters that do not fit."""
    detector = detectors.get(key)
    return Slot(market=market, detector=detector, params=detector.resolve(params or {}), **more)


def warm_up() -> None:
    """Compile every detector's step, or load it from disk."""
    for key in detectors.names():
        detectors.get(key).strategy.load()
