"""The pictures: columns go in, the right shapes come out, and never more of them than a screen can show."""

import numpy as np
import pytest

from engine import analysis, times
from engine.plots import candles, equity, returns, sweep, trades
from engine.plots.render import draw, link, span_of
from tests.workbench.report_samples import market, result
from workbench.theme import DARK, LIGHT


@pytest.fixture(scope="module")
def made():
    return result()


def test_boxes_are_centred_on_what_they_cover_and_never_without_height():
    bars = market(10, 86400, 1)
    bars["open"][3] = bars["close"][3]
    boxes = candles.boxes(analysis.aggregate_candles(bars, 10), 86400, LIGHT)
    day = np.timedelta64(1, "D")
    assert ((boxes["right"] - boxes["left"]) / day == pytest.approx(np.full(10, 0.7), abs=1e-6))
    assert (boxes["top"] > boxes["bottom"]).all()
    assert boxes["color"][4] == (LIGHT.gain if bars["close"][4] >= bars["open"][4] else LIGHT.loss)
    assert boxes["bars"].tolist() == [1] * 10
    joined = candles.boxes(analysis.aggregate_candles(market(12, 60, 1), 4), 60, LIGHT)
    assert joined["bars"].tolist() == [3] * 4


def test_boxes_of_bars_joined_elsewhere_reach_to_the_next_one():
    bars = analysis.aggregate_candles(market(12, 60, 1), 4)
    del bars["last"]
    assert candles.boxes(bars, 60, LIGHT)["bars"].tolist() == [3] * 4


def test_fills_become_triangles_by_side_and_stay_below_the_limit(made):
    fills = made[0].tables["fills"]
    shown = candles.marks(fills, LIGHT)
    assert len(shown["Buy"]["time"]) + len(shown["Sell"]["time"]) == len(fills["time"])
    assert len(shown["Buy"]["time"]) == (fills["side"] > 0).sum()
    many = {name: np.resize(column, 50_000) for name, column in fills.items()}
    assert sum(len(part["time"]) for part in candles.marks(many, LIGHT).values()) <= candles.MARKS


def test_the_price_chart_names_its_sources_so_that_they_can_be_filled_again(made):
    bars = analysis.aggregate_candles(made[1]["demo:AAPL/USD"], 100)
    boxes = candles.boxes(bars, 86400, LIGHT)
    drawing = draw(candles.price(boxes, LIGHT, {"fast": {"time": bars["time"], "figure": bars["close"]}}), LIGHT)
    assert set(drawing.sources) == {"focus", "wicks", "bodies", "fast", "trades", "Buy", "Sell"}
    fewer = {name: column[:7] for name, column in boxes.items()}
    for label in ("wicks", "bodies"):
        drawing.fill(label, fewer)
        assert {len(column) for column in drawing.sources[label].data.values()} == {7}
    volumes = draw(candles.volume(boxes, LIGHT), LIGHT)
    volumes.fill("volume", candles.volumes(fewer))
    assert volumes.sources["volume"].data["top"].tolist() == fewer["volume"].tolist()
    assert set(volumes.sources["volume"].data["bottom"]) == {0.0}


def test_equity_keeps_its_extremes_when_it_is_thinned():
    made, _ = result(bars=60_000, resolution=60, symbols=1, hold=500, weekdays=False)
    whole = equity.prepare(made.tables["equity"])
    few = equity.window(whole, None, None, 900)
    assert len(few["time"]) <= 900
    assert few["value"].max() == whole["value"].max()
    assert few["value"].min() == whole["value"].min()
    assert few["drawdown"].min() == whole["drawdown"].min()
    part = equity.window(whole, int(whole["time"][100]), int(whole["time"][200]), 900)
    assert len(part["time"]) == 101
    assert part["drawdown"][0] == whole["drawdown"][100], "the peak is that of all time, not of the view"


def test_a_curve_without_a_benchmark_or_a_drawdown_is_drawn(made):
    table = dict(made[0].tables["equity"])
    del table["benchmark"]
    columns = equity.window(equity.prepare(table), None, None)
    drawing = draw(equity.equity(columns, LIGHT, worst=[]), LIGHT)
    assert set(drawing.sources) == {"Strategy"}


@pytest.mark.parametrize("style", [LIGHT, DARK], ids=lambda style: style.name)
def test_every_picture_is_dressed_in_its_style(made, style):
    tables = made[0].tables
    day, value = analysis.daily(tables["equity"]["time"], tables["equity"]["value"])
    gains, trips = analysis.returns(value), tables["roundtrips"]
    years, months, totals = analysis.monthly_returns(day, value)
    grid = np.repeat(np.arange(3), 3), np.tile(np.arange(3), 3), np.arange(9.0)
    elements = [
        returns.monthly(years, months, totals, style), returns.yearly(years, totals, style),
        returns.histogram(gains, style), returns.quantiles(gains, style),
        returns.rolling(day[1:], {"6 months": analysis.rolling_beta(gains, gains, 50)}, style, ylabel="Beta"),
        trades.outcomes(trips, style), trades.holding(trips, style), trades.excursions(trips, style, which="mae"),
        trades.excursions(trips, style, which="mfe"), trades.clock(trips, style),
        trades.contribution(analysis.group_trades(trips["symbol"], trips), style),
        equity.compared({"a": (day, value), "b": (day, value)}, style),
        sweep.heatmap(*grid, style, xlabel="fast", ylabel="slow", objective="sharpe"),
        sweep.scores(grid[0], grid[2], style, xlabel="fast", objective="sharpe"),
        sweep.parallel({"fast": grid[0], "slow": grid[1]}, grid[2], style, objective="sharpe"),
    ]
    for element in elements:
        figure = draw(element, style).figure
        assert figure.background_fill_color == style.surface
        assert all(axis.major_label_text_color == style.muted for axis in (*figure.xaxis, *figure.yaxis))


def test_the_heatmap_shows_the_best_of_each_pair_in_order():
    element = sweep.heatmap(np.array([10, 2, 2]), np.array([1, 1, 1]), np.array([0.5, 0.1, 0.9]), LIGHT, xlabel="x",
                            ylabel="y", objective="o")
    cells = dict(zip(element["x"], element["score"], strict=True))
    assert cells == {"2": 0.9, "10": 0.5}
    assert draw(element, LIGHT).figure.x_range.factors == ["2", "10"]


def test_clouds_of_trades_keep_their_extremes():
    values = np.random.default_rng(1).normal(size=30_000)
    rows = trades.sample(values)
    assert len(rows) <= trades.MOST_DOTS
    assert {int(values.argmax()), int(values.argmin())} <= set(rows.tolist())


def test_linked_figures_share_one_range():
    time = np.arange(5, dtype=np.int64) * times.DAY
    figures = [draw(equity.compared({"a": (time, np.arange(5.0))}, LIGHT), LIGHT).figure for _ in range(2)]
    link(figures, crosshair="#000000")
    assert figures[0].x_range is figures[1].x_range
    assert figures[1].toolbar_location is None


def test_span_of_ignores_what_is_not_finite():
    assert span_of([np.array([np.nan, 1.0]), np.array([3.0, np.inf])], 0.0) == (pytest.approx(1.0, abs=0.1),
                                                                               pytest.approx(3.0, abs=0.1))
    assert span_of([np.array([np.nan]), np.empty(0)]) is None
    low, high = span_of([np.array([5.0])])
    assert low < 5 < high
