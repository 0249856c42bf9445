"""Profit of bots on each database: books that grow, late prices, changes, series of their own, rules."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import times
from engine.activity import AutoPnl, Entry, Lifecycle, OrderChange, OrderPlaced, PnlSeries
from engine.candle_store import CandleStore
from engine.candles import Candles
from engine.errors import NotFound
from engine.model import Market, Principal
from server.services import profit as profits
from server.services.activity import Activity
from server.services.markets import Markets
from server.services.profit import Profit
from server.services.profit_overview import overview
from server.services.profit_views import equity, metrics, pnl, positions, roundtrips
from server.services.rules import Rules
from server.services.users import Users
from server.store.database import Database
from server.store.events import EventLog
from tests.harness import until

pytestmark = pytest.mark.anyio
ADMIN = Principal(name="admin", scopes=frozenset({"admin"}))
DAY = times.micros(times.parse("2026-03-02T00:00:00Z"))
HOUR, MINUTE = 3600 * times.SECOND, 60 * times.SECOND
BTC = Market("kraken", "BTC", "USD")


class Desk:
    """Bots, candles and their profit on a clock of ours."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.db = database
        self.folder = folder
        self.events = EventLog(database)
        self.activity = Activity(db=database, events=self.events, users=Users(database))
        self.store = CandleStore(folder / "candles")
        self.markets = Markets(store=self.store, db=database, events=self.events)
        self.now = DAY + 12 * HOUR
        self.profit = self.another()

    def another(self) -> Profit:
        return Profit(db=self.db, events=self.events, store=self.store, now=lambda: self.now)

    async def say(self, *entries: Entry) -> None:
        await self.activity.record(entries, principal=ADMIN)

    async def minutes(self, start: int, closes: list[float], market: Market = BTC) -> None:
        price = np.array(closes, float)
        await self.markets.write(Candles(
            market=market, resolution=60, time=start + MINUTE * np.arange(len(price)), open=price, high=price,
            low=price, close=price, volume=np.ones(len(price))), overwrite=True)

    async def total(self, currency: str = "USD") -> float:
        return (await self.profit.figures("bot")).totals[currency].total


@pytest.fixture
async def desk(database: Database, tmp_path: Path) -> AsyncIterator[Desk]:
    desk = Desk(database, tmp_path)
    await desk.profit.start()
    await desk.say(Lifecycle(model="bot", running=True))
    yield desk
    await desk.profit.close()
    await desk.markets.close()
    await desk.activity.close()


def order(n: int, side: str, size: float | None, price: float | None, *, at: int | None = None,
          **more: Any) -> OrderPlaced:
    return OrderPlaced(model="bot", **{"id": f"o{n:05}", "symbol": "BTC-USD", "exchange": "kraken", "side": side,
                                       "size": size, "price": price,
                                       "at": times.iso(DAY + n * MINUTE if at is None else at), **more})


async def test_a_book_grows_with_the_orders_and_is_the_same_after_a_restart(desk: Desk) -> None:
    await desk.say(order(1, "buy", 2, 100, fee=1), order(2, "sell", 1, 110, fee=1))
    assert await desk.total() == pytest.approx(10 - 2 + 10)
    book = desk.profit._books["bot"]
    await desk.say(order(3, "sell", 1, 120))
    found = (await desk.profit.figures("bot")).totals["USD"]
    assert (found.total, found.realised, found.unrealised, found.exposure) == pytest.approx((28, 28, 0, 0))
    assert desk.profit._books["bot"] is book, "it grew, it was not made anew"
    assert await desk.another().figures("bot") == await desk.profit.figures("bot")


async def test_late_and_changed_orders_are_put_in_their_place(desk: Desk) -> None:
    await desk.say(order(1, "buy", 1, 100), order(5, "sell", 1, 120), order(6, "buy", 1, None))
    assert await desk.total() == pytest.approx(20)
    book = desk.profit._books["bot"]
    await desk.say(order(3, "buy", 1, 110), OrderChange(model="bot", id="o00006", changes={"price": 130.0}))
    assert await desk.total() == pytest.approx(-100 - 110 + 120 - 130 + 2 * 130)
    await desk.say(OrderChange(model="bot", id="o00005", changes={"status": "canceled"}))
    assert await desk.total() == pytest.approx(-100 - 110 - 130 + 3 * 130)
    assert desk.profit._books["bot"] is book and not book.ledger.unpriced
    assert await desk.another().figures("bot") == await desk.profit.figures("bot")


async def test_what_changes_long_ago_is_computed_anew(desk: Desk) -> None:
    await desk.say(*(order(n, "buy" if n % 2 else "sell", 1, 100 + n) for n in range(200)))
    before = await desk.total()
    await desk.say(OrderChange(model="bot", id="o00001", changes={"price": 91.0}), order(199, "sell", 3, 5, id="x"))
    assert await desk.total() != before
    assert await desk.another().figures("bot") == await desk.profit.figures("bot")


async def test_thousands_of_orders_in_one_transaction_are_heard(desk: Desk) -> None:
    await desk.say(order(1, "buy", 1, 100))
    assert await desk.total() == 0
    await desk.say(*(order(n, "sell" if n % 2 else "buy", 1, 100 + n % 2, at=DAY + n * 1000 + MINUTE)
                     for n in range(2, 7002)))
    assert await desk.total() == pytest.approx(3501)
    assert len(desk.profit._books["bot"].ledger.fills) == 7001
    assert await desk.another().figures("bot") == await desk.profit.figures("bot")


async def test_an_order_without_a_price_is_apart_until_candles_arrive(desk: Desk) -> None:
    await desk.say(order(10, "buy", 1, None), order(20, "sell", 1, 130), order(10, "buy", 5, None, id="odd",
                                                                                symbol="NONE-EUR"))
    figures = await desk.profit.figures("bot")
    assert figures.unpriced == 2 and figures.totals["USD"].total == 0 and "EUR" not in figures.totals
    items = (await desk.profit.ask("bot", positions))["items"]
    assert [(item["symbol"], item["quantity"], item["unpriced"]) for item in items] == [
        ("BTC-USD", -1.0, 1), ("NONE-EUR", 0.0, 1)]
    await desk.minutes(DAY + 7 * MINUTE, [100.0, 101.0])  # 101 is the close of 00:09

    async def priced() -> bool:
        return (await desk.profit.figures("bot")).unpriced == 1

    await until(priced)
    assert await desk.total() == pytest.approx(130 - 101)
    await desk.minutes(DAY + 9 * MINUTE, [104.0])  # the bar that ends at 00:10, later still

    async def corrected() -> bool:
        return abs(await desk.total() - (130 - 104)) < 1e-9

    await until(corrected)


async def test_a_bar_that_has_not_ended_or_is_old_prices_nothing(desk: Desk) -> None:
    await desk.minutes(DAY + 10 * MINUTE, [100.0])  # ends at 00:11
    await desk.say(order(10, "buy", 1, None), order(15, "buy", 1, None))
    assert (await desk.profit.figures("bot")).unpriced == 2, "one too early, one more than three bars too late"
    await desk.say(order(11, "buy", 1, None), order(14, "buy", 1, None))
    assert (await desk.profit.figures("bot")).unpriced == 2


async def test_what_is_held_is_worth_the_latest_candle(desk: Desk) -> None:
    await desk.say(order(10, "buy", 2, 100))
    assert await desk.total() == 0
    await desk.minutes(DAY + 8 * MINUTE, [50.0, 60.0, 70.0, 107.0])

    async def moved() -> bool:
        return await desk.total() == 14

    await until(moved)
    [item] = (await desk.profit.ask("bot", positions))["items"]
    assert (item["price"], item["price_source"], item["value"], item["unrealised"]) == (107, "candle", 214, 14)
    assert item["price_at"] == times.iso(DAY + 12 * MINUTE)
    await desk.say(order(30, "buy", 1, 90))
    [item] = (await desk.profit.ask("bot", positions))["items"]
    assert (item["price"], item["price_source"]) == (90, "fill"), "the fill is the younger price"


async def test_today_drawdown_exposure_and_the_base(desk: Desk) -> None:
    await desk.say(order(0, "buy", 1, 100, at=DAY - 20 * HOUR), order(1, "sell", 1, 150, at=DAY - 10 * HOUR),
                   order(2, "buy", 2, 100, at=DAY + HOUR), order(3, "sell", 1, 80, at=DAY + 2 * HOUR))
    found = (await desk.profit.figures("bot")).totals["USD"]
    assert (found.total, found.today, found.exposure, found.base) == (10, -40, 80, 200)
    assert (found.drawdown, found.max_drawdown) == (40, 40)
    assert found.drawdown_fraction == pytest.approx(40 / 250)
    desk.now += times.DAY
    assert (await desk.profit.figures("bot")).totals["USD"].today == 0, "another day"


async def test_currencies_are_kept_apart(desk: Desk) -> None:
    await desk.say(order(1, "buy", 1, 100), order(2, "sell", 1, 110), order(3, "buy", 1, 10, symbol="ETH-EUR"),
                   order(4, "sell", 1, 7, symbol="ETH-EUR", fee=0.5, fee_currency="BNB"))
    told = await desk.profit.ask("bot", pnl)
    assert {currency: each["total"] for currency, each in told["totals"].items()} == {"USD": 10, "EUR": -3}
    assert told["outside_fees"] == {"BNB": 0.5} and told["source"] == "computed from its orders at average cost"
    trips = await desk.profit.ask("bot", lambda view: roundtrips(view, symbol="", descending=True, limit=1, offset=0))
    assert trips["total"] == 2 and trips["next"] == 1 and trips["items"][0]["pnl"] == -3


async def test_a_model_may_report_its_profit_itself(desk: Desk) -> None:
    await desk.say(order(1, "buy", 1, 100), AutoPnl(model="bot", enabled=False))
    figures = await desk.profit.figures("bot")
    assert figures.reported and not figures.totals
    await desk.say(PnlSeries(model="bot", values=[{"time": times.iso(DAY - HOUR), "value": 5.0},
                                                  {"time": times.iso(DAY + HOUR), "value": 9.0},
                                                  {"time": times.iso(DAY + 2 * HOUR), "value": 7.5}]))
    found = await desk.profit.figures("bot")
    totals = found.totals["USD"]
    assert (totals.total, totals.today, totals.drawdown, totals.realised) == (7.5, 2.5, 1.5, None)
    curve = (await desk.profit.ask("bot", lambda view: equity(view, None, None)))
    assert curve["reported"] and curve["curves"]["USD"]["value"] == [5.0, 9.0, 7.5]
    await desk.say(AutoPnl(model="bot", enabled=True))
    assert not (await desk.profit.figures("bot")).reported


async def test_live_metrics_are_those_of_backtests(desk: Desk) -> None:
    """The same figures by hand: 1000 at work, closes of ten days, one fill a day."""
    await desk.say(*(order(n, "buy" if n % 2 == 0 else "sell", 10, 100 + n * (-1) ** n, at=DAY + n * times.DAY + HOUR)
                     for n in range(10)))
    desk.now = DAY + 10 * times.DAY
    told = await desk.profit.ask("bot", lambda view: metrics(view, 1000.0))
    figures = told["currencies"]["USD"]["metrics"]
    gains = [10 * ((100 - (n + 1)) - (100 + n)) for n in range(0, 10, 2)]
    assert figures["total_return"] == pytest.approx(sum(gains) / 1000)
    assert figures["trades"] == 5 and figures["fills"] == 10 and figures["win_rate"] == 0
    assert figures["expectancy"] == pytest.approx(np.mean(gains)) and figures["periods_per_year"] == 365
    assert figures["max_drawdown"] == pytest.approx(sum(gains) / 1000) and figures["benchmark_return"] is None
    ends = 1000 + np.concatenate(([0.0], np.repeat(np.cumsum(gains), 2)))[:10]  # what each of the ten days ends with
    daily = ends / np.concatenate(([1000.0], ends[:-1])) - 1
    assert figures["sharpe"] == pytest.approx(daily.mean() / daily.std(ddof=1) * 365 ** 0.5)
    assert "365" in told["currencies"]["USD"]["periods"] and told["base_source"] == "as stated"


async def test_equity_is_thinned_and_stands_on_its_base(desk: Desk) -> None:
    await desk.say(*(order(n, "buy" if n % 2 else "sell", 1, 100 + n % 7) for n in range(1, 401)))
    whole = (await desk.profit.ask("bot", lambda view: equity(view, None, None)))["curves"]["USD"]
    few = (await desk.profit.ask("bot", lambda view: equity(view, 50, 500.0)))["curves"]["USD"]
    assert len(few["time"]) <= 50 < 400 < len(whole["time"])
    assert few["value"][-1] == whole["value"][-1] and whole["time"][0] == DAY + MINUTE - 1
    assert few["equity"][0] == 500 and whole["base"] == max(100 + n % 7 for n in range(1, 401))
    assert max(whole["drawdown"]) <= 0


async def test_books_that_nobody_asks_for_go_and_come_back(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profits, "BOOKS", 2)
    for name in ("a", "b", "c"):
        await desk.say(OrderPlaced(model=name, id="1", symbol="BTC-USD", side="buy", size=1, price=5,
                                   at=times.iso(DAY)))
        assert (await desk.profit.figures(name)).totals["USD"].exposure == 5
    assert list(desk.profit._books) == ["b", "c"]
    await desk.say(OrderPlaced(model="a", id="2", symbol="BTC-USD", side="sell", size=1, price=9,
                               at=times.iso(DAY + MINUTE)))
    assert (await desk.profit.figures("a")).totals["USD"].total == 4


async def test_the_books_of_busy_models_are_made_at_the_start(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    await desk.say(*(order(n, "buy", 1.0, 100.0) for n in range(4)),
                   *(OrderPlaced(model=name, id=str(n), symbol="BTC-USD", side="buy", size=1.0, price=100.0)
                     for name, count in (("quiet", 3), ("busier", 6)) for n in range(count)))
    monkeypatch.setattr(profits, "MANY", 4)
    again = desk.another()
    await again.start()
    await until(lambda: {"bot", "busier"} <= again._books.keys())
    assert again.known("bot")[0] is not None and "quiet" not in again._books
    await again.close()
    monkeypatch.setattr(profits, "FILLS", 9)  # room for one of them
    third = desk.another()
    await third.start()
    assert list(third._wanted) == ["bot"]  # its task begins at the next turn of the loop
    await third.close()


async def test_orders_of_backtests_do_not_count(desk: Desk) -> None:
    await desk.say(order(1, "buy", 1, 100), order(2, "sell", 1, 900, run="6f1c2a52-7f0d-4a86-9a3c-5a3f0f0f7d11"))
    assert await desk.total() == 0
    await desk.say(order(3, "sell", 1, 800, run="6f1c2a52-7f0d-4a86-9a3c-5a3f0f0f7d11"))
    assert await desk.total() == 0


async def test_a_deleted_model_has_no_profit(desk: Desk) -> None:
    await desk.say(order(1, "buy", 1, 100))
    await desk.total()
    await desk.activity.delete_model("bot")
    await until(lambda: "bot" not in desk.profit._known)
    with pytest.raises(NotFound):
        await desk.profit.figures("bot")


async def test_followers_hear_of_changes_at_most_once_a_second(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profits, "TICK", 0.01)
    heard: list[Any] = []

    async def follow() -> None:
        async for event in desk.profit.follow("bot"):
            heard.append(event)

    await desk.say(order(1, "buy", 1, 100))
    task = asyncio.create_task(follow())
    await until(lambda: heard)
    assert heard[0].data["totals"]["USD"]["exposure"] == 100, "how it stands now"
    began = asyncio.get_running_loop().time()
    for n in range(2, 40):
        await desk.say(order(n, "sell" if n % 2 else "buy", 1, 100 + n))
    last = 100 + 39
    await until(lambda: heard[-1].data["totals"]["USD"]["exposure"] == last)
    passed = asyncio.get_running_loop().time() - began
    assert len(heard) <= 3 + passed, "no more than one a second"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await until(lambda: not desk.profit._watched)
    count = len(heard)
    await desk.say(order(50, "sell", 1, 500))
    await desk.total()
    assert len(await desk.events.page(profits.stream_of("bot"))) == count, "nobody follows"


async def test_the_overview_says_what_it_does_not_know_yet(desk: Desk) -> None:
    await desk.say(order(1, "buy", 1, 100), order(2, "sell", 1, 90))
    first = await overview(desk.db, desk.profit)
    assert first["pending"] == 1 and first["items"][0]["total"] is None and first["items"][0]["pending"]

    async def known() -> dict[str, Any]:
        found = await overview(desk.db, desk.profit)
        return found if not found["pending"] else {}

    [item] = (await until(known))["items"]
    assert (item["id"], item["running"], item["total"], item["today"]) == ("bot", True, {"USD": -10}, {"USD": -10})
    assert item["equity"][0] == 0 and item["equity"][-1] == -10 and len(item["equity"]) <= 60
    await desk.say(order(3, "buy", 1, 100))
    again = (await overview(desk.db, desk.profit))["items"][0]
    assert again["pending"] and again["total"] == {"USD": -10}, "the older figures until then"
    assert (await until(known))["items"][0]["exposure"] == {"USD": 100}


async def test_rules_watch_the_computed_profit(desk: Desk) -> None:
    rules = Rules(db=desk.db, events=desk.events, profit=desk.profit)
    await rules.create("drawdown", "drawdown", 20)
    await rules.create("loss", "daily_loss", 45)
    await desk.say(order(1, "buy", 1, 100), order(2, "sell", 1, 110), order(3, "buy", 1, 100), order(4, "sell", 1, 75))

    async def fired(name: str) -> bool:
        await rules.evaluate()
        return name in [event.data["condition"] for event in await desk.events.page("rules")]

    await until(lambda: fired("drawdown"))
    assert not await fired("daily_loss")
    await desk.say(order(5, "buy", 1, 100), order(6, "sell", 1, 65))
    await until(lambda: fired("daily_loss"))


async def test_a_restart_does_not_end_what_the_profit_fires(desk: Desk) -> None:
    """The figures are not there at the first look of another life."""
    rules = Rules(db=desk.db, events=desk.events, profit=desk.profit)
    await rules.create("drawdown", "drawdown", 20)
    await desk.say(order(1, "buy", 1, 100), order(2, "sell", 1, 75))

    async def fired() -> bool:
        await rules.evaluate()
        return bool(await desk.events.page("rules"))

    await until(fired)
    profit = desk.another()
    await profit.start()
    again = Rules(db=desk.db, events=desk.events, profit=profit)
    await again.evaluate()
    await until(lambda: profit.known("bot")[1])
    await again.evaluate()
    assert [event.type for event in await desk.events.page("rules")] == ["firing"]
    await profit.close()
