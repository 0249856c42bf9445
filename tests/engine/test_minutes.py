"""Minutes out of trades and rows."""

import itertools

import numpy as np
import pytest

from engine.errors import Invalid
from engine.minutes import Gathering, Minute, Trade, candles_of, fill, flat, read_rows
from engine.model import Market

M = 1_700_000_040  # a whole minute


def trade(second: float, price: float, amount: float = 1.0, id: str = "") -> Trade:
    return Trade(at=int((M + second) * 1000), price=price, amount=amount, id=id)


def test_a_minute_worked_by_hand() -> None:
    gathering = Gathering(M)
    assert gathering.push([trade(0, 10, 1), trade(20, 12, 2), trade(59.999, 9, 1), trade(60, 11, 5)]) == 4
    assert gathering.take() == [{"start": M, "open": 10, "high": 12, "low": 9, "close": 9, "vwp": (10 + 24 + 9) / 4,
                                 "volume": 4.0, "trades": 3}]
    assert gathering.take() == []  # the newest is held back
    assert gathering.take(end=M + 120) == [{"start": M + 60, "open": 11, "high": 11, "low": 11, "close": 11,
                                            "vwp": 11.0, "volume": 5.0, "trades": 1}]
    assert gathering.latest == (M + 60) * 1000


def test_quiet_minutes_repeat_the_close_and_have_no_volume() -> None:
    gathering = Gathering(M, close=7.0)
    gathering.push([trade(130, 8), trade(250, 9), trade(300, 1)])
    found = gathering.take()
    assert found == [flat(M, 7.0), flat(M + 60, 7.0), found[2], flat(M + 180, 8.0), found[4]]
    assert [each["start"] for each in found] == [M + 60 * number for number in range(5)]
    assert flat(M, 7.0) == {"start": M, "open": 7.0, "high": 7.0, "low": 7.0, "close": 7.0, "vwp": 7.0, "volume": 0.0,
                            "trades": 0}


def test_a_quiet_time_longer_than_allowed_stays_a_hole() -> None:
    gathering = Gathering(M, close=7.0, longest=2)
    gathering.push([trade(120, 8), trade(360, 9), trade(420, 9)])
    assert [(each["start"] - M) // 60 for each in gathering.take()] == [0, 1, 2, 6]


def test_doubles_late_and_empty_trades_are_left_out() -> None:
    gathering = Gathering(M)
    assert gathering.push([trade(1, 10, id="a"), trade(1, 10, id="a"), trade(2, 11, 0.0), trade(3, 12, -1.0)]) == 1
    gathering.push([trade(70, 20, id="b"), trade(5, 13, id="c")])  # late, but its minute is still open
    assert [(each["open"], each["close"], each["trades"]) for each in gathering.take()] == [(10, 13, 2)]
    assert gathering.push([trade(10, 99, id="d"), trade(-5, 99, id="e")]) == 0
    assert gathering.late == 2


def test_the_order_in_which_trades_come_does_not_matter() -> None:
    trades = [trade(second, 10 + second % 7, 1.0 + second % 3, str(second)) for second in range(0, 400, 23)]
    results = []
    for size, turn in itertools.product((1, 3, 18), (1, -1)):
        gathering, found = Gathering(M), list[Minute]()
        parts = [trades[first:first + size][::turn] for first in range(0, len(trades), size)]
        for part in parts:
            gathering.push(part)
            found += gathering.take()
        results.append(found)
    assert all(each == results[0] for each in results) and len(results[0]) == 6


def test_rows_are_cut_sorted_and_of_doubles_the_last_counts() -> None:
    rows = [[(M + 60) * 1000 + 500, 1, 2, 0.5, 1.5, 3], [M * 1000, 5, 6, 4, 5, None], [M * 1000, 7, 8, 6, 7, 1],
            [(M + 120) * 1000, 9, 9, 9, 9, 9], [(M - 60) * 1000, 9, 9, 9, 9, 9], [M * 1000 + 1, None, 1, 1, 1, 1],
            [M * 1000, float("nan"), 1, 1, 1, 1], ["x"]]
    found = read_rows(rows, M, M + 120)
    assert [(each["start"], each["open"], each["volume"]) for each in found] == [(M, 7.0, 1.0), (M + 60, 1.0, 3.0)]


def test_holes_up_to_a_length_are_filled_and_the_others_counted() -> None:
    minutes = [flat(M + 60 * number, float(number)) for number in (2, 5, 20)]
    found, missing = fill(minutes, M, None, 3)
    assert [(each["start"] - M) // 60 for each in found] == [2, 3, 4, 5, 20] and missing == 2 + 14
    assert [each["close"] for each in found[:4]] == [2.0, 2.0, 2.0, 5.0]
    found, missing = fill(minutes, M, 0.5)
    assert len(found) == 21 and missing == 0 and found[0]["close"] == 0.5


def test_minutes_become_columns() -> None:
    market = Market("sim", "BTC", "USDT")
    candles = candles_of(market, [flat(M, 1.0), flat(M + 60, 2.0)]).checked()
    assert (candles.market, candles.resolution, candles.time.tolist()) == (market, 60, [M * 10**6, (M + 60) * 10**6])
    assert np.array_equal(candles.close, [1.0, 2.0]) and set(candles.extra) == {"vwp", "trades"}
    with pytest.raises(Invalid):
        candles_of(market, [])
