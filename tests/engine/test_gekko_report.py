"""The figures of Gekko's performance report at their edges."""

import math

import numpy as np
import pytest

from engine.gekko_report import deviation, divide, fixed, humanize, performance, plain, quarter

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


@pytest.mark.parametrize(("length", "words"), [
    (0, "a few seconds"), (44_499, "a few seconds"), (44_500, "a minute"), (89_999, "a minute"), (90_000, "2 minutes"),
    (44.4 * MINUTE, "44 minutes"), (44.5 * MINUTE, "an hour"), (89 * MINUTE, "an hour"), (90 * MINUTE, "2 hours"),
    (21.4 * HOUR, "21 hours"), (21.5 * HOUR, "a day"), (35.9 * HOUR, "a day"), (36 * HOUR, "2 days"),
    (25.4 * DAY, "25 days"), (25.5 * DAY, "a month"), (45 * DAY, "a month"), (46 * DAY, "2 months"),
    (319 * DAY, "10 months"), (320 * DAY, "a year"), (547 * DAY, "a year"), (548 * DAY, "2 years"),
    (3653 * DAY, "10 years"),
])
def test_lengths_in_words(length, words):
    assert humanize(length) == words


@pytest.mark.parametrize(("value", "text"), [
    (100.0, "100.0000"), (0.0, "0.0000"), (0.00015, "0.0001"), (66.66666666666667, "66.6667"), (0.00005, "0.0001"),
    (1.00005, "1.0001"), (8.345, "8.3450"), (math.nan, "NaN"), (-0.5, "-0.5000"),
])
def test_four_decimals_of_the_exact_value(value, text):
    assert fixed(value) == text  # 0.00015 is a little less than it looks, 0.00005 and 1.00005 a little more


def test_numbers_as_javascript_writes_them():
    assert [plain(value) for value in (math.nan, math.inf, -math.inf, -0.0, 3.0, 2.5, 1e300)] \
        == [None, None, None, 0, 3, 2.5, 1e300]
    assert isinstance(plain(3.0), int) and str(plain(-0.0)) == "0"
    assert divide(1, 0) == math.inf and divide(-1, 0) == -math.inf and math.isnan(divide(0, 0))


def test_deviation_and_quarter():
    assert math.isnan(deviation(np.array([]))) and deviation(np.array([2.0, 2.0])) == 0
    assert deviation(np.array([1.0, math.nan, 3.0, math.inf])) == 1.0
    assert math.isnan(quarter(np.array([])))
    assert quarter(np.array([-3.0])) == -3.0
    assert quarter(np.array([-1.0, -3.0])) == -3.0  # place 0
    assert quarter(np.array([-1.0, -3.0, -2.0])) == 0.75 * -3 + 0.25 * -2
    assert quarter(-np.arange(1.0, 7.0)) == -5.0  # place 1


def trips(*profits, balance=100.0):
    profits = np.array(profits, float)
    after = balance * (1 + profits / 100)
    return {"id": np.arange(len(profits)), "entryBalance": np.full(len(profits), balance), "exitBalance": after,
            "pnl": after - balance, "profit": profits, "duration": np.full(len(profits), HOUR)}


def report(trades, *profits, **changes):
    given = {"start": 0, "end": 86_400 * 365, "start_price": 10.0, "end_price": 12.0, "start_balance": 100.0,
             "balance": 110.0, "trades": trades, "roundtrips": trips(*profits), "risk_free": 2.0}
    return performance(**{**given, **changes})


def test_sharpe_and_downside_where_they_are_undefined():
    assert report(1)["sharpe"] is None and report(1)["downside"] is None
    assert report(2, -1.0)["sharpe"] is None and report(2, -1.0)["downside"] is None
    assert report(4, 1.0, 1.0)["sharpe"] is None  # all equal
    assert report(3, 1.0)["downside"] is None  # no loss
    assert report(3, -1.0)["downside"] == -1 * math.sqrt(3)
    good = report(4, 1.0, 3.0)
    years = ((365 * 86400 * 1000 / 864e5) * 4800 / 146097) / 12
    assert good["sharpe"] == (10.000000000000014 / years - 2) / 1.0 / math.sqrt(2)
    assert report(4, 1.0, 3.0, risk_free=math.nan)["sharpe"] is None


def test_the_part_of_roundtrips_won():
    assert report(1)["ratioRoundTrips"] == 100 and report(3, 1.0, -1.0, 2.0)["ratioRoundTrips"] == "66.6667"
    assert report(2, 0.0)["ratioRoundTrips"] == "0.0000"


def test_other_figures():
    made = report(3, 1.0)
    assert list(made) == ["startTime", "endTime", "timespan", "market", "balance", "profit", "relativeProfit",
                          "yearlyProfit", "relativeYearlyProfit", "startPrice", "endPrice", "trades", "startBalance",
                          "exposure", "sharpe", "downside", "ratioRoundTrips", "alpha"]
    assert (made["startTime"], made["endTime"], made["timespan"]) == ("1970-01-01 00:00:00", "1971-01-01 00:00:00",
                                                                      "a year")
    assert made["market"] == 20 and made["profit"] == 10 and made["exposure"] == HOUR / (365 * DAY)
    assert made["alpha"] == 10.000000000000014 - 20


def test_a_balance_of_nothing_is_no_number():
    made = report(1, start_balance=0.0, balance=0.0)
    assert made["relativeProfit"] is None and made["alpha"] is None and made["balance"] == 0
