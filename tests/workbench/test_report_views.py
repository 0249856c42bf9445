"""The report and its parts: figures with units, tabs when opened, honest empty states, zoom on the server side."""

import numpy as np
import panel as pn
import pytest
from bokeh.models.widgets.inputs import Checkbox

from engine import times
from engine.errors import NotFound
from engine.model import Metric
from engine.plots import candles as pictures
from tests.workbench.report_samples import result
from workbench.views import tables, tiles
from workbench.views.compare import Compare
from workbench.views.data import Cache, ClientRun, LocalRun, RunData, drive, run_data
from workbench.views.report import TABS, Report
from workbench.views.report_trades import Inspector

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # Bokeh's, with pandas 3.1


def report(look: str = "light", **options) -> Report:
    made, candles = result(**options)
    return Report(LocalRun(made, candles, {"id": "01RUN", "name": "", "state": "completed"}), look=look)


def text_of(view) -> str:
    """All HTML of a view."""
    return " ".join(str(pane.object) for pane in view._root.select(lambda part: type(part).__name__ == "HTML"))


@pytest.mark.parametrize(
    ("unit", "value", "shown"),
    [
        ("fraction", 0.18565, ("18.57", "%")),
        ("fraction", -0.161, ("−16.10", "%")),
        ("fraction", 25.0, ("2,500", "%")),
        ("ratio", 1.234, ("1.23", "")),
        ("currency", 7750.756, ("7,750.76", "USD")), ("currency", -95278.36, ("−95,278", "USD")),
        ("currency", 1234567.8, ("1,234,568", "USD")),
        ("count", 78.0, ("78", "")),
        ("days", 12.34, ("12.3", "days")), ("days", 0.5, ("12", "hours")), ("days", 0.02, ("28.8", "minutes")),
        ("days", 0.0, ("0", "days")),
        ("ratio", None, ("–", "")),
        ("ratio", float("inf"), ("∞", "")),
        ("ratio", float("nan"), ("–", "")),
    ],
)
def test_figures_are_shown_in_their_units(unit, value, shown):
    assert tiles.shown(Metric(key="k", name="n", unit=unit, formula=""), value, "USD") == shown


def test_signed_figures_print_a_plus_and_take_a_colour():
    up, down = tiles.tile("total_return", 0.1), tiles.tile("total_return", -0.1)
    assert "wb-gain" in up
    assert ">+" in up
    assert "wb-loss" in down
    assert "−" in down
    assert 'tabindex="0"' in up
    assert 'aria-label="' in up
    assert "not defined" in tiles.tile("calmar", None)


def test_text_from_runs_is_escaped():
    made, _ = result(bars=30)
    summary = {
        **made.summary(),
        "spec": {**made.spec, "strategy": "<script>x</script>"},
        "warnings": [{"code": "<b>", "message": "<img src=x>"}],
    }
    found = (
        tiles.header(summary, {"name": "<i>n</i>", "state": "<u>"})
        + tables.warnings(summary["warnings"])
        + tables.facts("f", {"<a>": "<b>"})
        + tables.log(["<hr>"])
    )
    for tag in ("<script", "<i>", "<u>", "<img", "<hr", "<a>"):
        assert tag not in found


def test_only_the_opened_tab_is_built():
    view = report(bars=300)
    assert view._built == {"Overview"}
    drive(view.open("Details"))
    assert view._built == {"Overview", "Details"}
    assert "is being drawn" in text_of(view), "the others still wait"
    for name in TABS:
        drive(view.open(name))
    assert "is being drawn" not in text_of(view)


def test_header_tells_what_makes_a_run_repeatable():
    head = text_of(report(bars=300))
    for fact in (
        "sma_cross",
        "fast 20, slow 50",
        "demo:AAPL/USD",
        "1d",
        "2019-01-02 to",
        "fee 0.1 %, slippage 0.05 %",
        "252 trading days a year",
        "9f2c4e1ab07d",
        "equal-weight",
        "100,000 USD",
    ):
        assert fact in head


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bars": 1, "trades": False}, ["one bar only", "two days", "never entered"]),
        (
            {"bars": 60, "trades": False},
            ["do not vary", "never entered", "126 daily returns; this run has 60", "no fills"],
        ),
        ({"bars": 2, "trades": False}, ["never entered"]),
    ],
)
def test_nothing_to_show_is_said_plainly(options, said):
    view = report(**options)
    for name in TABS:
        drive(view.open(name))
    for words in said:
        assert words in text_of(view)


def test_a_result_without_candles_says_so():
    made, _ = result(bars=100)
    view = Report(LocalRun(made), look="dark")
    drive(view.open("Trades"))
    assert "there are no candles of demo:AAPL/USD" in text_of(view)


def test_a_range_with_a_worthless_portfolio_is_drawn():
    made, candles = result(bars=300)
    value = made.tables["equity"]["value"]
    value[200:] = -5.0
    view = Report(LocalRun(made, candles), look="light")
    assert "log" not in view.parts["Overview"]._drawings
    drive(view.open("Returns"))


@pytest.fixture(scope="module")
def long_run():
    return result(bars=120_000, resolution=60, symbols=1, hold=6, weekdays=False)


def test_candles_are_joined_when_far_and_single_when_near(long_run):
    made, candles = long_run
    cache = Cache(LocalRun(made, candles))
    inspector = Inspector(cache, report(bars=30).look, made.tables["roundtrips"])
    drive(inspector.open())
    chart = inspector.chart
    bodies = chart._drawings["price"].sources["bodies"]
    assert 100 < len(bodies.data["left"]) <= pictures.BARS
    assert "joins up to" in chart.message
    time = candles["demo:AAPL/USD"]["time"]
    drive(chart.zoom.show(int(time[5000]), int(time[5100])))
    assert set(bodies.data["bars"]) == {1}
    assert len(bodies.data["left"]) == 151, "the view and a quarter of it on each side"
    seen = slice(5000, 5101)
    axis = chart._drawings["price"].figure.y_range
    low, high = candles["demo:AAPL/USD"]["low"][seen].min(), candles["demo:AAPL/USD"]["high"][seen].max()
    assert axis.start < low < high < axis.end
    assert axis.end - axis.start < 4 * (high - low)
    drive(chart.whole())
    assert chart.zoom.view[0] <= time[0]
    assert len(bodies.data["left"]) <= pictures.BARS


def test_choosing_a_trade_zooms_to_it_and_lights_it_up(long_run):
    made, candles = long_run
    trips = made.tables["roundtrips"]
    assert len(trips["pnl"]) > 10_000
    inspector = Inspector(Cache(LocalRun(made, candles)), report(bars=30).look, trips)
    drive(inspector.open())
    drive(inspector.show(7777))
    start, end = inspector.chart.zoom.view
    assert start < trips["entry_time"][7777] <= trips["exit_time"][7777] < end
    assert end - start < 200 * times.MINUTE
    focus = inspector.chart._drawings["price"].sources["focus"].data
    assert focus["y0"].tolist() == [trips["entry_price"][7777]]


def test_choosing_a_trade_of_another_market_changes_the_chart():
    made, candles = result(bars=400, symbols=2)
    trips = made.tables["roundtrips"]
    inspector = Inspector(Cache(LocalRun(made, candles)), report(bars=30).look, trips)
    drive(inspector.open())
    row = int(np.flatnonzero(trips["symbol"] == "demo:MSFT/USD")[0])
    drive(inspector.show(row))
    assert inspector.chart.symbol == "demo:MSFT/USD" == inspector.market.value
    start, end = inspector.chart.zoom.view
    assert start < trips["entry_time"][row] < end


def test_zooming_the_overview_fetches_finer_columns():
    made, candles = result(bars=60_000, resolution=60, symbols=1, hold=500, weekdays=False)
    view = Report(LocalRun(made, candles), look="light")
    part = view.parts["Overview"]
    source = part._drawings["linear"].sources["Strategy"]
    assert len(source.data["time"]) <= 2000
    time = made.tables["equity"]["time"]
    drive(part.zoom.show(int(time[1000]), int(time[1200])))
    assert len(source.data["time"]) == 301
    assert source.data["value"].max() == made.tables["equity"]["value"][950:1251].max()


def test_local_runs_keep_the_protocol():
    made, candles = result(bars=300)
    run = LocalRun(made, candles)
    assert isinstance(run, RunData)
    time = made.tables["equity"]["time"]
    part = run.table("equity", start=int(time[5]), end=int(time[9]))
    assert part["time"].tolist() == time[5:10].tolist()
    assert len(run.table("equity", points=50)["time"]) <= 50
    assert len(run.table("candles", symbol="demo:MSFT/USD", points=50)["time"]) <= 50
    assert set(run.table("fills", symbol="demo:MSFT/USD")["symbol"]) == {"demo:MSFT/USD"}
    with pytest.raises(NotFound, match="no table"):
        run.table("nonsense")
    with pytest.raises(NotFound, match="no candles"):
        run.table("candles", symbol="demo:NONE/USD")
    assert isinstance(run_data(made), LocalRun)


class Served:
    """An async client of one run, answering what a result holds."""

    def __init__(self) -> None:
        self.made, candles = result(bars=200)
        self._run = LocalRun(self.made, candles)

    async def run(self, run_id: str) -> dict:
        return {"id": run_id, "name": "served", "state": "completed"}

    async def result(self, run_id: str) -> dict:
        return self._run.summary

    async def table(self, run_id: str, name: str, **options) -> dict:
        return self._run.table(name, **options)


@pytest.mark.anyio
async def test_a_run_on_a_server_is_awaited():
    run = ClientRun(Served(), "01SERVED")
    cache = Cache(run)
    await cache.load()
    assert cache.spec["strategy"] == "sma_cross"
    assert len((await cache.table("equity"))["time"]) == 200


def test_a_notebook_run_is_called_to_its_end_and_shown_at_once():
    view = Report(ClientRun(Served(), "01SERVED", call=drive), look="light")
    assert "served" in text_of(view)
    assert view._built == {"Overview"}


def test_comparison_shows_differences_to_the_first():
    runs = [LocalRun(*result(seed=seed, params={"fast": 10 * seed, "slow": 50})) for seed in (1, 2)]
    view = Compare(runs, look="light")
    shown = text_of(view)
    boxes = [model for pane in view._root.select(pn.pane.Bokeh) for model in pane.object.select({"type": Checkbox})]
    assert sorted(box.label for box in boxes) == ["sma_cross fast 10, slow 50", "sma_cross fast 20, slow 50"]
    for box in boxes:  # each shows and hides its own line in both charts
        (change,) = box.js_property_callbacks["change:active"]
        assert len(change.args["lines"]) == 2
    assert "sma_cross fast 20, slow 50" in shown
    assert "params.fast" in shown
    assert "params.slow" not in shown, "equal in both"
    assert "Correlation of daily returns" in shown
    assert "choose two to" in text_of(Compare(runs[:1], look="light"))
    same = text_of(Compare([runs[0], runs[0]], look="light"))
    assert "the very same" in same and "slow 50 #2" in same
