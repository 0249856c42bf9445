"""The life of an alert: the table of `engine.alert_life` by hand, and what holds for every price."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from engine.alert_life import (
    DETECTED_AT,
    ENDED_AT,
    ENTRY,
    EXIT,
    LEVEL,
    REASON,
    REASONS,
    STARTED_AT,
    STATE,
    advance,
    gain,
    life_of,
    live,
    switch_off,
)

Prices = tuple[float, float, float, float]


def rows(*candles: Prices, first: int = 0) -> list[tuple[float, ...]]:
    """Candles of one time unit each: (time, end, open, high, low, close)."""
    return [(float(at), float(at + 1), *prices) for at, prices in enumerate(candles, first)]


def story(life: np.ndarray) -> tuple[Any, ...]:
    """State and reason (first word), entry and its time, exit and its time; None where there is none."""
    plain = [None if math.isnan(value) else float(value) for value in
             (life[ENTRY], life[STARTED_AT], life[EXIT], life[ENDED_AT])]
    return (("", "working", "onGoing", "closed", "aborted")[int(life[STATE])],
            REASONS[int(life[REASON])].partition(" ")[0].strip(":"), *plain)


# A BUY at 100 aiming at 110, wrong at 95; detected with the price at 103 (it has to come back), or at 98 (it has to
# rise). Each row: where the price stood, the distance of trailing, candles, and what has become of it.
TABLE: list[tuple[str, float, float | None, list[Prices], tuple[Any, ...]]] = [
    ("waits", 103, None, [(103, 105, 101, 104)], ("working", "", None, None, None, None)),
    ("comes-back", 103, None, [(103, 104, 100, 101)], ("onGoing", "", 100.0, 1.0, None, None)),
    ("opens-at-the-start", 103, None, [(100, 101, 99, 100)], ("onGoing", "", 100.0, 0.0, None, None)),
    ("gap-below-the-start", 103, None, [(98, 99, 97, 98)], ("onGoing", "", 98.0, 0.0, None, None)),
    ("gap-below-the-stop", 103, None, [(94, 101, 93, 100)], ("aborted", "invalidated", None, None, None, 0.0)),
    ("gap-onto-the-stop", 103, None, [(95, 96, 95, 96)], ("aborted", "invalidated", None, None, None, 0.0)),
    ("gap-above-the-target", 103, None, [(111, 112, 99, 100)], ("aborted", "missed", None, None, None, 0.0)),
    ("target-first", 103, None, [(103, 110, 101, 109)], ("aborted", "missed", None, None, None, 1.0)),
    ("start-and-target-in-one", 103, None, [(103, 111, 99, 105)], ("onGoing", "", 100.0, 1.0, None, None)),
    ("start-and-close-above-target", 103, None, [(103, 112, 99, 111)], ("closed", "target", 100.0, 1.0, 110.0, 1.0)),
    ("falls-through-both", 103, None, [(103, 103, 94, 94)], ("closed", "stop", 100.0, 1.0, 95.0, 1.0)),
    ("gap-below-the-start-then-stop", 103, None, [(97, 98, 94, 96)], ("closed", "stop", 97.0, 0.0, 95.0, 1.0)),
    ("rises-to-the-start", 98, None, [(98, 101, 97, 99)], ("onGoing", "", 100.0, 1.0, None, None)),
    ("gap-above-the-start", 98, None, [(102, 103, 101, 102)], ("onGoing", "", 102.0, 0.0, None, None)),
    ("stop-first", 98, None, [(98, 99, 95, 96)], ("aborted", "invalidated", None, None, None, 1.0)),
    ("start-and-stop-in-one", 98, None, [(98, 101, 94, 100)], ("closed", "stop", 100.0, 1.0, 95.0, 1.0)),
    ("stop", 103, None, [(103, 103, 100, 101), (101, 102, 95, 96)], ("closed", "stop", 100.0, 1.0, 95.0, 2.0)),
    ("gap-through-the-stop", 103, None, [(103, 103, 100, 101), (90, 91, 89, 90)],
     ("closed", "stop", 100.0, 1.0, 90.0, 1.0)),
    ("target", 103, None, [(103, 103, 100, 101), (101, 110, 99, 109)], ("closed", "target", 100.0, 1.0, 110.0, 2.0)),
    ("gap-through-the-target", 103, None, [(103, 103, 100, 101), (115, 116, 114, 115)],
     ("closed", "target", 100.0, 1.0, 115.0, 1.0)),
    ("stop-and-target-in-one", 103, None, [(103, 103, 100, 101), (101, 112, 94, 111)],
     ("closed", "stop", 100.0, 1.0, 95.0, 2.0)),
    ("high-below-open", 103, None, [(103, 103, 100, 101), (110, 105, 104, 105)],
     ("closed", "target", 100.0, 1.0, 110.0, 1.0)),
    # trailing at 4, at 1 once the target was reached
    ("not-yet-trailing", 103, 4, [(103, 103, 100, 101), (101, 103.5, 99, 100), (100, 100, 96, 97)],
     ("onGoing", "", 100.0, 1.0, None, None)),
    ("trailed-at-the-entry", 103, 4, [(103, 103, 100, 101), (101, 104, 101, 103), (103, 103, 100, 101)],
     ("closed", "profit", 100.0, 1.0, 100.0, 3.0)),
    ("trailed-higher", 103, 4, [(103, 103, 100, 101), (101, 108, 101, 107), (107, 107, 103, 104)],
     ("closed", "profit", 100.0, 1.0, 104.0, 3.0)),
    ("gap-through-the-level", 103, 4, [(103, 103, 100, 101), (101, 108, 101, 107), (99, 100, 98, 99)],
     ("closed", "profit", 100.0, 1.0, 99.0, 2.0)),
    ("target-is-not-the-end", 103, 4, [(103, 103, 100, 101), (101, 110, 101, 110), (110, 114, 109.5, 114)],
     ("onGoing", "", 100.0, 1.0, None, None)),
    ("tight-beyond-the-target", 103, 4, [(103, 103, 100, 101), (101, 110, 101, 110), (110, 114, 109.5, 114),
                                         (114, 114, 112, 112)], ("closed", "profit", 100.0, 1.0, 113.0, 4.0)),
    ("level-and-new-high-in-one", 103, 4, [(103, 103, 100, 101), (101, 108, 101, 107), (107, 120, 104, 119)],
     ("closed", "profit", 100.0, 1.0, 104.0, 3.0)),
    ("high-of-the-start-is-not-counted", 103, 4, [(103, 109, 100, 101), (101, 101, 96, 97)],
     ("onGoing", "", 100.0, 1.0, None, None)),
    ("close-of-the-start-counts", 103, 4, [(103, 109, 100, 106), (106, 106, 102, 103)],
     ("closed", "profit", 100.0, 1.0, 102.0, 2.0)),
    ("times-out", 103, None, [(103, 104, 102, 103)] * 7, ("aborted", "timed", None, None, None, 5.0)),
    ("start-in-the-last-candle", 103, None, [*[(103.0, 104.0, 102.0, 103.0)] * 4, (103, 103, 100, 100)],
     ("onGoing", "", 100.0, 5.0, None, None)),
]


def buy(price: float, trailing: float | None) -> np.ndarray:
    return life_of("BUY", 100, 110, 95, price=price, trailing=trailing, tight=1 if trailing else None, expires_at=5)


def sell(price: float, trailing: float | None) -> np.ndarray:
    return life_of("SELL", 100, 90, 105, price=200 - price, trailing=trailing, tight=1 if trailing else None,
                   expires_at=5)


@pytest.mark.parametrize(("price", "trailing", "candles", "expected"), [row[1:] for row in TABLE],
                         ids=[row[0] for row in TABLE])
def test_the_table_for_a_buy(price: float, trailing: float | None, candles: list[Prices], expected: Any) -> None:
    life = buy(price, trailing)
    live(life, rows(*candles))
    assert story(life) == expected


@pytest.mark.parametrize(("price", "trailing", "candles", "expected"), [row[1:] for row in TABLE],
                         ids=[row[0] for row in TABLE])
def test_a_sell_is_its_mirror(price: float, trailing: float | None, candles: list[Prices], expected: Any) -> None:
    life = sell(price, trailing)
    live(life, rows(*((200 - o, 200 - low, 200 - high, 200 - c) for o, high, low, c in candles)))
    entry, exit = (None if expected[at] is None else 200 - expected[at] for at in (2, 4))
    assert story(life) == (*expected[:2], entry, expected[3], exit, expected[5])


def test_missing_candles_are_judged_by_the_next_ones_open() -> None:
    life = buy(103, None)
    live(life, rows((103, 104, 102, 103)))
    live(life, rows((99, 99, 99, 99), first=40))
    assert story(life) == ("aborted", "timed", None, None, None, 5.0)


def test_ticks_are_candles_of_one_price() -> None:
    life = buy(103, 4)
    for at, price in enumerate([103, 100.5, 99.5, 104, 105, 101, 100.9]):
        advance(life, at / 10, at / 10, price, price, price, price)
    assert story(life) == ("closed", "profit", 99.5, 0.2, 101.0, 0.5)
    assert gain(life) == 1.5


def test_switching_off_ends_what_is_open() -> None:
    waiting, begun = buy(103, None), buy(103, None)
    live(begun, rows((103, 103, 100, 101)))
    for life in (waiting, begun):
        switch_off(life, 101.5, 9.0)
    assert story(waiting) == ("aborted", "detection", None, None, None, 9.0)
    assert story(begun) == ("closed", "detection", 100.0, 1.0, 101.5, 9.0)
    again = begun.copy()
    switch_off(again, 1.0, 10.0)
    assert np.array_equal(again, begun, equal_nan=True)


price = some.floats(85, 115).map(lambda value: round(value, 1))


@some.composite
def candle(draw: Any) -> Prices:
    """Any candle; its high and low hold the open and the close."""
    first, last = draw(price), draw(price)
    return (first, max(first, last) + draw(some.floats(0, 5)), min(first, last) - draw(some.floats(0, 5)), last)


@some.composite
def beginning(draw: Any) -> np.ndarray:
    up = draw(some.booleans())
    start = draw(some.floats(95, 105))
    risk, aim = draw(some.floats(0.1, 8)), draw(some.floats(0.1, 12))
    side = 1 if up else -1
    trailing = draw(some.one_of(some.none(), some.floats(0.05, 6)))
    return life_of("BUY" if up else "SELL", start, start + side * aim, start - side * risk, price=draw(price),
                   trailing=trailing, tight=trailing and trailing * draw(some.floats(0.1, 1)),
                   expires_at=draw(some.integers(1, 30)))


@given(beginning(), some.lists(candle(), max_size=40), some.data())
def test_what_holds_for_every_life(life: np.ndarray, candles: list[Prices], data: Any) -> None:
    whole = life.copy()
    side = life[1]
    level = side * life[LEVEL]
    path = []
    for row in rows(*candles):
        before = life.copy()
        advance(life, *row)
        path.append(int(life[STATE]))
        if before[STATE] >= 3:
            assert np.array_equal(before, life, equal_nan=True)  # no end is ever undone
        assert side * life[LEVEL] >= level  # the level only rises
        level = side * life[LEVEL]
        if not math.isnan(before[ENTRY]):
            assert life[ENTRY] == before[ENTRY] and life[STARTED_AT] == before[STARTED_AT]
        if before[STATE] < 3 <= life[STATE] and life[STATE] == 3:
            reach = (min(row[2:]), max(row[2:]))
            assert reach[0] <= life[EXIT] <= reach[1]  # it was traded at, or gapped to
    assert path == sorted(path) and 4 not in (path if 2 in path else [])  # what began is never aborted
    state = int(life[STATE])
    if state == 3:
        assert life[DETECTED_AT] <= life[STARTED_AT] <= life[ENDED_AT]
        word = REASONS[int(life[REASON])]
        assert gain(life) == side * (life[EXIT] - life[ENTRY])
        if word == "stop hit":
            assert side * life[EXIT] <= side * life[4]
        if word == "target reached":
            assert gain(life) > 0
    if state == 4:
        assert math.isnan(life[ENTRY]) and math.isnan(life[EXIT])
    # one at a time is all at once, wherever it is cut; a restart in between is a copy of the vector
    cut = data.draw(some.integers(0, len(candles)))
    live(whole, rows(*candles[:cut]))
    kept = np.frombuffer(whole.tobytes()).copy()
    live(kept, rows(*candles[cut:], first=cut))
    assert np.array_equal(kept, life, equal_nan=True)
