"""The live views against a real server in this process: what they read, what they hear, what they let go."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from engine import times
from engine.activity import Model, Order
from engine.analysis import sparkline
from engine.errors import Unavailable
from engine.model import Event
from engine.plots import live as pictures
from engine.plots.render import draw
from tests.harness import running_server, until
from workbench import theme
from workbench.client import AsyncClient
from workbench.views import live_rows, model_figures, model_match, model_output, model_price, model_rows, model_symbols
from workbench.views.drawing import grow
from workbench.views.live_rows import LiveRows
from workbench.views.model_live import ModelLive
from workbench.views.models import AllModels, row_of

pytestmark = pytest.mark.anyio
NOW = times.parse("2024-03-01T12:00:00Z")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Any]:
    async with running_server(tmp_path, rate_limit=0) as server:
        yield server


@pytest.fixture
async def client(server: Any) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.url, server.services.admin_token) as client:
        yield client


async def report(client: AsyncClient, model: str, *entries: dict[str, Any]) -> None:
    async with httpx.AsyncClient(base_url=client.url, headers=client._http.headers) as http:
        answer = await http.post("/workbench/api/events", params={"model": model},
                                 content="\n".join(map(json.dumps, entries)),
                                 headers={"Content-Type": "application/x-ndjson"})
        assert answer.is_success, answer.text


def placed(id: str, **more: Any) -> dict[str, Any]:
    return {"kind": "order", "id": id, "symbol": "BTC-USD", "side": "buy", "size": 1.0, "price": 100.0} | more


def order(id: str = "o", **more: Any) -> Order:
    given: dict[str, Any] = {"model": "m", "id": id, "symbol": "BTC-USD", "side": "buy", "kind": "limit", "at": NOW,
                             "received_at": NOW, "size": 2.0, "price": 50.0}
    return Order(**(given | more))


def ids(table: LiveRows) -> list[str]:
    return [str(row["id"]) for row in table.rows]


async def test_a_model_is_read_once_and_then_heard(client: AsyncClient) -> None:
    await report(client, "m", placed("a"), placed("b", symbol="ETH-USD"), {"kind": "log", "line": "hello"})
    view = ModelLive(client, "m", look="light")
    await view.load()
    await view._open("Log")
    assert ids(view.trading.orders) == ["b", "a"]
    await report(client, "m", placed("between"), {"kind": "log", "line": "between"})
    following = asyncio.create_task(view.follow())
    try:
        await until(lambda: ids(view.trading.orders) == ["between", "b", "a"])
        await until(lambda: [row["line"] for row in view.log.view.rows] == ["hello", "between"])
        await report(client, "m", placed("a", status="done"),
                     {"kind": "annotation", "id": "b", "annotation": "why not"},
                     {"kind": "lifecycle", "running": False, "message": "Bye"})
        await until(lambda: view.model is not None and view.model.running is False)
        rows = {row["id"]: row for row in view.trading.orders.rows}
        assert rows["a"]["status"] == "done" and rows["b"]["note"] == "why not"
        assert ids(view.trading.orders) == ["between", "b", "a"], "a change is no new row"
    finally:
        following.cancel()


async def test_orders_of_detached_backtests_are_not_live(client: AsyncClient) -> None:
    await report(client, "m", placed("live"))
    view = ModelLive(client, "m", look="dark")
    await view.load()
    following = asyncio.create_task(view.follow())
    try:
        await report(client, "m", placed("tested", run="run-1"), placed("later"))
        await until(lambda: ids(view.trading.orders) == ["later", "live"])
    finally:
        following.cancel()


async def test_rows_stay_while_the_chart_cannot_be_read(client: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    await report(client, "m", placed("a"))
    view = ModelLive(client, "m", look="light")
    answers = [Unavailable("the server is away", remedy="wait")]
    load = view.trading.load

    async def fails_once(symbols: tuple[str, ...]) -> None:
        if answers:
            raise answers.pop()
        await load(symbols)

    monkeypatch.setattr(view.trading, "load", fails_once)
    with pytest.raises(Unavailable):
        await view.load()
    assert ids(view.trading.orders) == ["a"] and view.trading.view in view._places["Trading"]
    await report(client, "m", placed("meanwhile"))
    following = asyncio.create_task(view.follow())
    try:
        await until(lambda: view.trading._chart is not None and ids(view.trading.orders) == ["meanwhile", "a"])
    finally:
        following.cancel()


async def test_a_storm_is_bounded_and_what_left_can_be_read_again(client: AsyncClient) -> None:
    await report(client, "m", {"kind": "log", "line": "first"})
    view = ModelLive(client, "m", look="light")
    await view.load()
    await view._open("Log")
    following = asyncio.create_task(view.follow())
    try:
        for part in range(3):
            await report(client, "m", *({"kind": "log", "line": f"{part * 1000 + i}"} for i in range(1000)))
        await until(lambda: view.log.view.rows[-1]["line"] == "2999")
        kept = [row["line"] for row in view.log.view.rows]
        assert kept == [str(number) for number in range(2000, 3000)]
        await view.log._asked("more", {})
        assert [row["line"] for row in view.log.view.rows] == [str(number) for number in range(1700, 3000)]
    finally:
        following.cancel()


async def test_a_search_finds_what_is_far_back_and_filters_what_comes(client: AsyncClient) -> None:
    await report(client, "m", {"kind": "log", "line": "NEEDLE one"},
                 *({"kind": "log", "line": f"hay {number}"} for number in range(800)))
    log = model_output.Log(client, "m", theme.LIGHT)
    await log.load()
    assert len(log.view.rows) == model_output.TAIL and log.last == 801
    await log._asked("search", {"text": "needle", "type": ""})
    assert [row["line"] for row in log.view.rows] == ["NEEDLE one"]
    log.put([{"id": "900", "type": "stdout", "line": "more hay"}, {"id": "901", "type": "stdout", "line": "a needle"}])
    assert [row["line"] for row in log.view.rows] == ["NEEDLE one", "a needle"]
    await log._asked("search", {"text": "", "type": "stderr"})
    assert log.view.rows == []


async def test_a_paused_tail_counts_and_reads_again(client: AsyncClient) -> None:
    await report(client, "m", {"kind": "log", "line": "one"})
    log = model_output.Log(client, "m", theme.LIGHT)
    await log.load()
    await log._asked("pause", {"on": True, "last": "1"})
    await report(client, "m", {"kind": "log", "line": "two"})
    log.heard([Event(id=1, stream="model/m/log", seq=2, type="log", at=NOW,
                     data={"line": "two", "type": "stdout", "at": times.iso(NOW)})])
    assert [row["line"] for row in log.view.rows] == ["one"]
    await log._asked("pause", {"on": False})
    assert [row["line"] for row in log.view.rows] == ["one", "two"]


async def test_what_was_on_its_way_while_the_tail_was_paused_counts(client: AsyncClient) -> None:
    await report(client, "m", *({"kind": "log", "line": line} for line in ("one", "two", "three")))
    log = model_output.Log(client, "m", theme.LIGHT)
    await log.load()
    await log._asked("pause", {"on": True, "last": "1"})  # the browser showed the first line when it was told
    assert log.view.whole()["note"] == "paused; 2 new"
    await log._asked("pause", {"on": False})
    assert [row["line"] for row in log.view.rows] == ["one", "two", "three"] and not log.view.whole()["note"]


async def test_a_search_while_the_tail_rests_leaves_out_what_is_newer(client: AsyncClient) -> None:
    await report(client, "m", *({"kind": "log", "line": line} for line in ("a needle", "hay")))
    log = model_output.Log(client, "m", theme.LIGHT)
    await log.load()
    await log._asked("pause", {"on": True, "last": "2"})
    await report(client, "m", *({"kind": "log", "line": line} for line in ("more hay", "another needle")))
    await log._asked("search", {"text": "needle", "type": ""})
    assert [row["line"] for row in log.view.rows] == ["a needle"]
    assert log.view.whole()["note"] == "paused; 1 new"
    await log._asked("pause", {"on": False})
    assert [row["line"] for row in log.view.rows] == ["a needle", "another needle"]


async def test_of_searches_that_overlap_the_last_one_stays(client: AsyncClient) -> None:
    await report(client, "m", placed("one"), placed("two"),
                 *({"kind": "log", "line": line} for line in ("a needle", *map(str, range(700)))))
    log = model_output.Log(client, "m", theme.LIGHT)
    texts = ("needle", "", "needle", "699")
    await asyncio.gather(*(log._asked("search", {"text": text, "type": ""}) for text in texts))
    assert [row["line"] for row in log.view.rows] == ["699"]
    view = ModelLive(client, "m", look="light")
    await view.load()
    await asyncio.gather(*(view.trading._asked("search", {"text": text}) for text in ("two", "", "two", "one")))
    assert ids(view.trading.orders) == ["one"]


async def test_a_chart_finds_the_candles_of_a_bots_symbol(client: AsyncClient) -> None:
    minutes = np.arange(300) * 60 + 1_709_290_800
    price = np.linspace(100, 130, 300)
    await client.upload({"time": minutes, "open": price, "high": price + 1, "low": price - 1, "close": price,
                         "volume": np.ones(300)}, "kraken:BTC/USD", "1m")
    first = order("first", at=times.parse(float(minutes[10])), price=101.0)
    chart = await model_price.PriceChart.make(client, "BTC-USD", [first, order("unpriced", price=None)], theme.LIGHT)
    assert chart._drawing is not None
    assert "kraken:BTC/USD" in chart.message and "1 without a price" in chart.message
    assert len(chart._drawing.sources["bodies"].data["time"]) > 10
    assert len(chart._drawing.sources["line"].data["time"]) == 0
    before = chart._drawing.figure.x_range.end
    chart.put([order("second", side="sell", at=times.parse(float(minutes[200])), price=120.0, annotation="enough")])
    assert list(chart._drawing.sources["Sell"].data["id"]) == ["second"]
    assert list(chart._drawing.sources["notes"].data["text"]) == ["enough"]
    assert chart._drawing.figure.x_range.end > before, "the view follows the newest order"
    chart.centre("first")
    axis = chart._drawing.figure.x_range
    assert (axis.start + axis.end) / 2 == pytest.approx(minutes[10] * 1000)
    chart.put([order("second", side="sell", at=times.parse(float(minutes[200])), price=121.0)])
    assert list(chart._drawing.sources["Sell"].data["price"]) == [121.0]


def test_symbols_are_resolved_by_pair_time_and_exchange() -> None:
    def entry(market: str, resolution: str, first: int, last: int) -> dict[str, Any]:
        exchange, _, pair = market.partition(":")
        asset, _, currency = pair.partition("/")
        return {"market": market, "exchange": exchange, "asset": asset, "currency": currency,
                "resolution": resolution, "first": first * 10**6, "last": last * 10**6}

    stored = [entry("a:BTC/USD", "1d", 0, 10**9), entry("a:BTC/USD", "1m", 0, 10**9),
              entry("b:BTC/USD", "1h", 0, 10**9), entry("a:ETH/USD", "1m", 0, 10**9)]
    at = 5 * 10**8 * 10**6

    def found(symbol: str, exchange: str = "", when: int = at) -> str | None:
        dataset = model_symbols.resolve(symbol, exchange, stored, when)
        return dataset and f"{dataset['market']} {dataset['resolution']}"

    assert found("BTC-USD") == "a:BTC/USD 1m"
    assert found("btc/usd", "B") == "b:BTC/USD 1h"
    assert found("BTCUSD") == "a:BTC/USD 1m"
    assert found("ETH") == "a:ETH/USD 1m"
    assert found("BTC-EUR") is None
    assert found("BTC-USD", when=2 * 10**9 * 10**6) is None


def test_rows_keep_their_bounds_and_order() -> None:
    table = LiveRows(theme.LIGHT, columns=[], most=3, newest="first")
    table.reset([{"id": "b"}, {"id": "a"}])
    assert table.put([{"id": "c"}, {"id": "a", "x": 1}]) is None
    assert ids(table) == ["c", "b", "a"] and table.rows[2]["x"] == 1
    oldest = table.put([{"id": "d"}])
    assert oldest is not None and oldest["id"] == "b" and ids(table) == ["d", "c", "b"]
    table.older([{"id": "b", "x": 2}, {"id": "a"}], more=False)
    assert ids(table) == ["d", "c", "b", "a"] and "x" not in table.rows[2]
    said: list[Any] = []
    table._send_msg = said.append  # type: ignore[method-assign]
    table.put([{"id": "d", "x": 3}])
    assert not said, "nobody listens yet"
    asyncio.run(table._handle_msg({"ask": "ready"}))
    assert [row["id"] for row in json.loads(said[0])["rows"]] == ["d", "c", "b"]
    table.put([{"id": "e"}])
    assert [row["id"] for row in json.loads(said[1])["rows"]] == ["e"]


def test_an_order_shows_its_amount_in_its_own_unit() -> None:
    assert model_rows.order_row(order(size=2.0))["unit"] == "BTC"
    funded = model_rows.order_row(order(size=None, funds=150.0, fee=0.0, extra={"desk": "north", "tries": 2}))
    assert (funded["amount"], funded["unit"], funded["fee"]) == (150.0, "USD", 0.0)
    assert funded["detail"]["desk"] == "north" and funded["detail"]["tries"] == "2"
    assert "Version" not in funded["detail"]


def model(id: str = "m", **more: Any) -> Model:
    return Model(id=id, project="default", name=more.pop("name", id), created_at=NOW, **more)


def test_the_state_says_what_is_known() -> None:
    heard, old = times.now(), times.parse("2020-01-01T00:00:00Z")
    states = [row_of(model(**facts), {})["state"] for facts in (
        {}, {"heard_at": heard}, {"heard_at": heard, "running": True}, {"heard_at": old, "running": True},
        {"heard_at": heard, "running": False})]
    assert states == [["never heard", ""], ["reporting", "good"], ["running", "good"], ["silent", "bad"],
                      ["stopped", "idle"]]


class Figured(AsyncClient):
    """A client with made-up figures, of the shapes that the server gives."""

    async def overview(self, **params: Any) -> dict[str, Any]:
        return {"items": [{"id": "m", "equity": [0.0, 5.0, 3.0], "today": {"USD": 3.0},
                           "total": {"USD": 3.0, "BTC": -0.5}, "exposure": {"USD": 100.0}}]}

    async def positions(self, id: str, **params: Any) -> dict[str, Any]:
        return {"items": [
            {"symbol": "ETH-USD", "currency": "USD", "quantity": 0.0, "realised": 4.0},
            {"symbol": "BTC-USD", "currency": "USD", "quantity": 1.0, "average_cost": 100.0, "price": 103.0,
             "value": 103.0, "unrealised": 3.0, "realised": 0.0, "fees": 0.25}]}

    async def pnl(self, id: str, **params: Any) -> dict[str, Any]:
        return {"totals": {"USD": {"total": 7.0, "today": -1.0, "unrealised": 3.0, "exposure": 103.0}}, "unpriced": 2}

    async def equity(self, id: str, **params: Any) -> dict[str, Any]:
        return {"curves": {"USD": {"time": ["2024-03-01T00:00:00Z", "2024-03-01T01:00:00Z", "2024-03-01T02:00:00Z"],
                                   "value": [0.0, 9.0, 7.0]}}}


async def test_profit_positions_and_the_overview_are_shown(server: Any) -> None:
    async with Figured(server.url, server.services.admin_token) as client:
        await report(client, "m", placed("a"), {"kind": "log", "line": "broken", "type": "error"})
        view = ModelLive(client, "m", look="light")
        await view.load()
        drawn = view.trading._profit[0].sources["Profit"].data
        assert drawn["value"].tolist() == [0.0, 9.0, 7.0] and drawn["below"].tolist() == [0.0, 0.0, -2.0]
        assert [row["name"] for row in view.trading.positions.rows] == ["BTC-USD", "ETH-USD"], "open ones come first"
        assert ("Profit", "+7.00 USD", "gain") in view._tiles.tiles
        assert ("Today", "−1.00 USD", "loss") in view._tiles.tiles
        assert "2 orders without any price" in view.trading._curve_note.object
        assert "broken" in view._head.object
        everything = AllModels(client, theme.LIGHT)
        await everything.load()
        (row,) = everything.table.rows
        assert row["equity"] == [0.0, 5.0, 3.0] and row["total"] == {"USD": 3.0, "BTC": -0.5}
        assert row["error"] == "broken" and row["orders"] == 1


async def test_the_overview_hears_of_new_and_deleted_models(client: AsyncClient) -> None:
    await report(client, "one", placed("a"))
    everything = AllModels(client, theme.LIGHT)
    await everything.load()
    following = asyncio.create_task(everything.follow())
    try:
        await report(client, "two", placed("a"))
        await until(lambda: sorted(ids(everything.table)) == ["one", "two"])
        await report(client, "one", placed("b"))
        await until(lambda: {row["id"]: row["orders"] for row in everything.table.rows} == {"one": 2, "two": 1})
        await client.delete_model("one")
        await until(lambda: ids(everything.table) == ["two"])
    finally:
        following.cancel()


def test_pictures_of_many_orders_stay_small() -> None:
    many = [{"time": number * 10**6, "price": 1.0, "side": "buy" if number % 2 else "sell", "amount": "1",
             "note": "a reason that is rather long indeed", "id": str(number), "status": ""} for number in range(5000)]
    drawn = pictures.marks(many)
    assert len(drawn["Buy"]["id"]) + len(drawn["Sell"]["id"]) == pictures.MARKS
    assert drawn["Buy"]["id"][-1] == "4999"
    assert len(drawn["notes"]["text"]) == pictures.NOTES and drawn["notes"]["text"][0].endswith("…")


def test_a_profit_curve_knows_how_far_it_is_below_its_peak() -> None:
    time_, value = np.arange(5) * 10**6, np.array([0.0, 10.0, 4.0, 12.0, 3.0])
    assert pictures.profit_columns(time_, value)["below"].tolist() == [0, 0, -6, 0, -9]
    long = pictures.profit_columns(np.arange(100_000) * 10**6, np.sin(np.arange(100_000) / 900))
    assert len(long["time"]) <= pictures.POINTS + 10
    assert long["value"].max() == pytest.approx(1.0, abs=1e-6)


def test_of_a_curve_that_grew_only_the_end_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    value = np.array([0.0, np.nan, 2.0, 1.0, 3.0, 2.0])
    columns = pictures.profit_columns(3_600_000_000 * np.arange(6), value)
    drawing = draw(pictures.profit({name: each[:4] for name, each in columns.items()}, theme.LIGHT), theme.LIGHT)
    source = drawing.sources["Profit"]
    streamed: list[Any] = []
    stream = type(source).stream
    monkeypatch.setattr(type(source), "stream", lambda self, tail: (streamed.append(tail), stream(self, tail)))
    grow(drawing, "Profit", {name: each[:4] for name, each in columns.items()})
    assert not streamed, "nothing is new"
    grow(drawing, "Profit", columns)
    assert [len(each) for each in streamed[0].values()] == [2, 2, 2]
    changed = {**columns, "value": np.where(np.arange(6) == 3, 9.0, columns["value"])}
    grow(drawing, "Profit", changed)
    assert len(streamed) == 1 and np.array_equal(source.data["value"], changed["value"], equal_nan=True)


def test_a_flat_stretch_of_profit_is_two_points() -> None:
    values = [0.0, 0.0, 0.0, 5.0, 5.0, 5.0, 5.0, 3.0, None, None, 3.0]
    times_ = [1000 * number for number in range(11)]
    figures = model_figures.read({}, {}, {"curves": {"USD": {"time": times_, "value": values}}})
    drawn = model_figures.curve_of(figures, "USD")
    assert np.array_equal(drawn["value"], [0, 0, 5, 5, 3, np.nan, np.nan, 3], equal_nan=True)
    assert drawn["time"].astype("datetime64[ms]").astype(int).tolist() == [0, 2, 3, 6, 7, 8, 9, 10]


def test_sparklines_keep_their_extremes() -> None:
    curve = [0.0] * 500 + [9.0] + [0.0] * 500
    few = sparkline(curve)
    assert len(few) <= 42 and max(few) == 9.0
    assert sparkline([1.0, None, 2.0]) == [1.0, 2.0]  # type: ignore[list-item]


def test_a_thousand_models_are_rows_within_a_moment() -> None:
    began = time.process_time()
    rows = [row_of(model(f"m{number}", last_error="<b>"), {"equity": list(range(200))}) for number in range(1000)]
    assert time.process_time() - began < 3.0
    assert rows[1]["href"] == "/model?id=m1" and len(json.dumps(rows)) < 1_500_000


def test_the_script_and_style_of_rows_are_there() -> None:
    assert len(LiveRows(theme.LIGHT).get_root().bundle) == 64, "browsers would translate it at every visit"
    folder = Path(live_rows.__file__).parent
    assert "innerHTML" not in (folder / "live_rows.js").read_text(), "nothing that bots say may become markup"
    assert ":host" in live_rows.sheet(theme.DARK)


def test_a_match_lists_what_both_did() -> None:
    assert model_match.rows({}) == []
