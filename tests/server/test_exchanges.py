"""The real ccxt clients against an exchange on loopback that misbehaves as exchanges do."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.errors import Busy, Conflict, Forbidden, Invalid, NotFound, Unavailable, WorkbenchError
from engine.model import Market
from server.exchanges.account import Account
from server.exchanges.catalogue import KNOWN
from server.exchanges.directory import Exchanges
from server.exchanges.exchange import Exchange
from server.exchanges.faults import clean
from server.exchanges.options import ExchangeOptions, read_options
from tests.exchange_simulator import BEGIN, KEY, SECRET, ExchangeSimulator, expected
from tests.harness import until
from tests.server.exchange_fakes import BTC, XBT, Clock, directory

pytestmark = pytest.mark.anyio

VALUES = {"key": KEY, "secret": SECRET}
FIGURES = ("start", "open", "high", "low", "close", "volume")


@pytest.fixture
def clock() -> Clock:
    return Clock(2000.5)


@pytest.fixture
def simulator(clock: Clock) -> Iterator[ExchangeSimulator]:
    with ExchangeSimulator(clock=clock) as running:
        yield running


@pytest.fixture
async def exchanges(simulator: ExchangeSimulator, tmp_path: Path) -> AsyncIterator[Exchanges]:
    async with directory(simulator, tmp_path) as opened:
        yield opened


async def history(exchanges: Exchanges, market: Market, start: int, end: int) -> list[dict[str, float]]:
    """Page after page of a range, as an import asks for them."""
    found: list[dict[str, float]] = []
    close = None
    while start < end:
        page = await exchanges.page(market, start, end, close=close)
        if page.until <= start:
            break
        found += page.minutes
        start, close = page.until, page.minutes[-1]["close"] if page.minutes else close
    return found


def figures(minutes: list[dict[str, float]]) -> list[tuple[float, ...]]:
    return [tuple(round(each[name], 6) for name in FIGURES) for each in minutes]


async def test_markets_are_loaded_once_and_known_after_a_restart(simulator: ExchangeSimulator, exchanges: Exchanges,
                                                                 tmp_path: Path) -> None:
    listing = await exchanges.listing(Market("sim", "btc", "usdt"))
    assert (listing.market, listing.symbol, listing.least_amount, listing.least_cost) == (BTC, "BTC/USDT", 0.0001, 5.0)
    await exchanges.listing(Market("sim", "ETH", "BTC"))
    assert simulator.questions("exchangeInfo") == 1
    with pytest.raises(NotFound, match=r"does not trade BTX for USDT.*BTC/USDT"):
        await exchanges.listing(Market("sim", "BTX", "USDT"))
    with pytest.raises(NotFound, match=r"no exchange 'binanse'.*binance"):
        await exchanges.listing(Market("binanse", "BTC", "USDT"))
    later = Exchanges(tmp_path / "exchanges", {})
    try:
        kept = {each["slug"]: each for each in await later.capabilities()}
    finally:
        await later.close()
    assert kept["sim"]["markets"][0] == {"pair": ["USDT", "BTC"], "minimalOrder": {
        "amount": 0.0001, "unit": "asset", "price": 0.01, "order": 5.0}}
    assert kept["sim"] | {"markets": []} == {
        "name": "Binance", "slug": "sim", "currencies": ["USDT", "BTC"], "assets": ["BTC", "ETH"], "markets": [],
        "requires": ["key", "secret"], "maxTradesAge": 60, "maxHistoryFetch": None, "fetchTimespan": 60, "tid": "tid",
        "providesHistory": "date", "providesFullHistory": True, "tradable": True}
    assert ["USDT", "BTC"] in [each["pair"] for each in kept["poloniex"]["markets"]]
    assert kept["poloniex"]["providesFullHistory"] is True and kept["poloniex"]["tradable"] is True


async def test_a_list_of_exchanges_loads_the_operator_s_own_and_asks_no_other(simulator: ExchangeSimulator,
                                                                              exchanges: Exchanges) -> None:
    first = {each["slug"]: each for each in await exchanges.capabilities()}
    assert first["sim"]["markets"] == []

    async def loaded() -> bool:
        found = {each["slug"]: each["markets"] for each in await exchanges.capabilities()}
        return bool(found["sim"] and found["simkraken"])

    await until(loaded)


async def test_history_comes_in_pages_and_is_complete(simulator: ExchangeSimulator, exchanges: Exchanges) -> None:
    end = BEGIN + 1900 * 60
    minutes = await history(exchanges, BTC, BEGIN, end)
    assert figures(minutes) == figures(expected(BEGIN, end))
    assert simulator.questions("klines") <= 2 * (1 + 8) + 1  # pages of a thousand, and up to eight holes in each


async def test_history_before_a_market_s_first_day_is_passed_over_quickly(simulator: ExchangeSimulator,
                                                                          exchanges: Exchanges) -> None:
    end = BEGIN + 100 * 60
    minutes = await history(exchanges, BTC, BEGIN - 400 * 86400, end)
    assert figures(minutes) == figures(expected(BEGIN, end))
    assert simulator.questions("klines") < 15


async def test_the_minute_that_runs_is_never_there(clock: Clock, exchanges: Exchanges) -> None:
    now = int(clock()) // 60 * 60 + 240
    assert expected(now - 120, now)[0]["trades"] and expected(now - 60, now)[0]["trades"]
    for seconds, last in ((1.0, now - 120), (3.0, now - 60), (59.9, now - 60)):
        clock.now = now + seconds
        minutes = await history(exchanges, BTC, now - 600, now + 86400)
        assert minutes[-1]["start"] == last
    assert figures(minutes) == figures(expected(now - 600, now))


@pytest.mark.parametrize("kind", ["429", "418", "500", "503", "timeout", "disconnect", "garbage"])
async def test_a_fault_costs_a_moment_and_no_minute(simulator: ExchangeSimulator, tmp_path: Path, kind: str) -> None:
    rest = {"rateLimit": 1, "timeout": 500 if kind == "timeout" else 25_000}
    async with directory(simulator, tmp_path, rest=rest) as exchanges:
        await exchanges.listing(BTC)
        simulator.fail(kind, kind, path="klines")
        began = time.monotonic()
        minutes = await history(exchanges, BTC, BEGIN, BEGIN + 60 * 60)
        assert figures(minutes) == figures(expected(BEGIN, BEGIN + 3600))
        assert not simulator.faults
        if kind == "429":
            assert time.monotonic() - began >= 0.6  # Retry-After, twice


@pytest.mark.parametrize(("kind", "error", "words"), [
    ("503", Unavailable, "sim cannot be reached"), ("429", Busy, "sim limits how often"),
    ("timeout", Unavailable, "sim did not answer in time"), ("garbage", WorkbenchError, "sim")])
async def test_an_exchange_that_stays_away_is_given_up_with_a_reason(simulator: ExchangeSimulator, tmp_path: Path,
                                                                     kind: str, error: Any, words: str) -> None:
    rest = {"rateLimit": 1, "timeout": 1500 if kind == "timeout" else 25_000}
    async with directory(simulator, tmp_path, retries=2, rest=rest) as exchanges:
        await exchanges.listing(BTC)
        simulator.fail(*[kind] * 9, path="klines")
        with pytest.raises(error, match=words) as caught:
            await exchanges.page(BTC, BEGIN, BEGIN + 3600)
        assert len(simulator.faults) == 6 and "symbol=" not in str(caught.value) and caught.value.__suppress_context__


async def test_a_time_to_wait_longer_than_our_patience_is_said_at_once(simulator: ExchangeSimulator,
                                                                       tmp_path: Path) -> None:
    async with directory(simulator, tmp_path, patience=0.2) as exchanges:
        await exchanges.listing(BTC)
        simulator.fail("429", path="klines")
        with pytest.raises(Busy):
            await exchanges.page(BTC, BEGIN, BEGIN + 3600)
        asked = simulator.questions("klines")
        with pytest.raises(Busy, match="left alone"):  # other questions wait too, and are not asked
            await exchanges.page(BTC, BEGIN, BEGIN + 3600)
        assert simulator.questions("klines") == asked


async def test_minutes_that_were_missing_are_asked_for_again(simulator: ExchangeSimulator,
                                                             exchanges: Exchanges) -> None:
    simulator.hidden_once |= {BEGIN + number * 60 for number in (*range(20, 24), 40, *range(70, 75))}
    minutes = await history(exchanges, BTC, BEGIN, BEGIN + 100 * 60)
    assert figures(minutes) == figures(expected(BEGIN, BEGIN + 100 * 60)) and not simulator.hidden_once


@pytest.mark.parametrize("candles", [True, False])
async def test_an_empty_answer_is_not_believed_at_once(simulator: ExchangeSimulator, tmp_path: Path,
                                                       candles: bool) -> None:
    async with directory(simulator, tmp_path, candles=candles) as exchanges:
        await exchanges.listing(BTC)
        simulator.fail("empty", path="klines" if candles else "aggTrades")
        end = BEGIN + 100 * 60
        assert figures(await history(exchanges, BTC, BEGIN, end)) == figures(expected(BEGIN, end))


async def test_short_holes_are_quiet_times_and_long_ones_stay_holes(simulator: ExchangeSimulator,
                                                                    exchanges: Exchanges) -> None:
    short, long = range(100, 130), range(200, 300)
    simulator.hidden |= {BEGIN + number * 60 for number in (*short, *long)}
    page = await exchanges.page(BTC, BEGIN, BEGIN + 400 * 60)
    there = [int(each["start"] - BEGIN) // 60 for each in page.minutes]
    gone = [number for number in range(400) if number not in there]
    assert set(long) <= set(gone) and page.missing == len(gone) < 103
    quiet = [each for each in page.minutes if (each["start"] - BEGIN) // 60 in short]
    assert len(quiet) == len(short) and {(each["volume"], each["trades"]) for each in quiet} == {(0.0, 0)}
    assert len({each["close"] for each in quiet}) == 1


async def test_doubles_and_disorder_change_nothing(simulator: ExchangeSimulator, exchanges: Exchanges) -> None:
    simulator.doubled = simulator.shuffled = True
    end = BEGIN + 900 * 60
    assert figures(await history(exchanges, BTC, BEGIN, end)) == figures(expected(BEGIN, end))
    assert await history(exchanges, XBT, BEGIN, BEGIN + 300 * 60) == expected(BEGIN, BEGIN + 300 * 60)


async def test_trades_become_minutes_where_candles_do_not_reach(simulator: ExchangeSimulator, exchanges: Exchanges,
                                                                clock: Clock) -> None:
    """Kraken's candles end after twelve hours."""
    end = BEGIN + 1000 * 60
    assert await history(exchanges, XBT, BEGIN, end) == expected(BEGIN, end)
    assert simulator.questions("Trades") > 1 and not simulator.questions("OHLC")
    late = int(clock()) // 60 * 60 - 600 * 60
    minutes = await history(exchanges, XBT, late, late + 3600)
    assert figures(minutes) == figures(expected(late, late + 3600)) and simulator.questions("OHLC")


async def test_trades_are_asked_for_where_an_exchange_forgets_its_candles(simulator: ExchangeSimulator,
                                                                          exchanges: Exchanges, clock: Clock) -> None:
    simulator.history = 300
    end = int(clock()) // 60 * 60 - 240
    start = end - 400 * 60
    minutes = await history(exchanges, BTC, start, end)
    assert figures(minutes) == figures(expected(start, end))
    assert simulator.questions("aggTrades") and [each["trades"] for each in minutes[:60]] == [
        each["trades"] for each in expected(start, start + 3600)]


async def test_trades_may_be_preferred(simulator: ExchangeSimulator, tmp_path: Path) -> None:
    async with directory(simulator, tmp_path, candles=False) as exchanges:
        simulator.fail("503", "disconnect", "429", "garbage", path="aggTrades")
        end = BEGIN + 500 * 60
        assert await history(exchanges, BTC, BEGIN, end) == expected(BEGIN, end)
        assert not simulator.questions("klines")


@pytest.mark.parametrize("candles", [True, False])
async def test_live_minutes_come_in_order_without_holes_or_doubles(
        simulator: ExchangeSimulator, clock: Clock, tmp_path: Path, candles: bool) -> None:
    async with directory(simulator, tmp_path, candles=candles) as exchanges:
        since = int(clock()) // 60 * 60 - 50 * 60
        found: list[dict[str, float]] = []

        async def listen() -> None:
            async for minute in exchanges.candles(BTC, since, interval=0.02):
                found.append(minute)

        task = asyncio.create_task(listen())
        try:
            await until(lambda: len(found) >= 45)
            simulator.fail("disconnect", "503")
            for _ in range(40):
                clock.pass_minutes(1)
                await asyncio.sleep(0.03)
            last = int(clock()) // 60 * 60
            simulator.hidden.discard(last)
            await until(lambda: found[-1]["start"] >= last - 5 * 60)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        end = int(found[-1]["start"]) + 60
        assert figures(found) == figures(expected(since, end))
        assert max(each["start"] for each in found) < last


async def test_without_a_beginning_live_minutes_start_with_the_one_that_runs(clock: Clock,
                                                                             exchanges: Exchanges) -> None:
    running = int(clock()) // 60 * 60
    stream = exchanges.candles(BTC, interval=0.02)
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.1)
    assert not first.done()
    clock.pass_minutes(3)
    assert (await first)["start"] == expected(running, running + 180)[0]["start"]
    await stream.aclose()


# ---- accounts


@pytest.fixture
async def account(exchanges: Exchanges) -> AsyncIterator[Account]:
    opened = await exchanges.account("sim", VALUES)
    yield opened
    await opened.close()


async def test_an_order_is_placed_and_filled_in_parts(simulator: ExchangeSimulator, account: Account) -> None:
    assert await account.balance(BTC) == (1.0, 1000.0)
    ticker = await account.ticker(BTC)
    assert ticker.bid is not None and ticker.ask is not None and ticker.bid < ticker.ask
    simulator.fills = 0.25
    placed = await account.create(BTC, side="buy", amount=0.4, price=100.123, id="mine-1")
    assert (placed.status, placed.filled, placed.remaining, placed.price, placed.client_id) == (
        "open", 0.1, pytest.approx(0.3), pytest.approx(100.12), "mine-1")
    simulator.fill(int(placed.id), 0.5)
    assert (await account.fetch(BTC, placed.id)).filled == pytest.approx(0.2)
    simulator.fill(int(placed.id))
    done = await account.fetch(BTC, placed.id)
    assert (done.status, done.filled, done.cost) == ("closed", 0.4, pytest.approx(40.048))
    assert (await account.cancel(BTC, placed.id)).status == "closed"
    assert (await account.balance(BTC))[0] == pytest.approx(1.4)


async def test_an_order_is_cancelled_and_keeps_what_was_filled(simulator: ExchangeSimulator, account: Account) -> None:
    simulator.fills = 0.5
    placed = await account.create(BTC, side="sell", amount=0.2, price=200.0)
    found = await account.cancel(BTC, placed.id)
    assert (found.status, found.filled) == ("canceled", 0.1)


async def test_what_the_exchange_rejects_is_said(simulator: ExchangeSimulator, account: Account) -> None:
    simulator.reject.append("Account has insufficient balance for requested action.")
    with pytest.raises(Conflict, match="insufficient balance"):
        await account.create(BTC, side="buy", amount=1.0)
    with pytest.raises(Invalid, match="less than sim takes"):
        await account.create(BTC, side="buy", amount=0.00001)
    with pytest.raises(NotFound):
        await account.fetch(BTC, "4711")
    assert not simulator.orders


async def test_an_order_whose_answer_was_lost_is_not_sent_again_and_can_be_found(simulator: ExchangeSimulator,
                                                                                account: Account) -> None:
    simulator.lose = 1
    with pytest.raises(Unavailable):
        await account.create(BTC, side="buy", amount=0.3, id="lost-1")
    assert len(simulator.orders) == 1
    found = await account.find(BTC, "lost-1")
    assert found is not None and (found.filled, found.status) == (0.3, "closed")
    assert await account.find(BTC, "never") is None


async def test_a_wrong_key_is_refused_without_being_shown(exchanges: Exchanges) -> None:
    account = await exchanges.account("sim", {"key": "wrong-key-of-mine", "secret": "wrong-secret-of-mine"})
    with pytest.raises(Forbidden, match="refuses the key") as caught:
        await account.balance(BTC)
    assert "of-mine" not in str(caught.value) and "signature" not in str(caught.value)
    await account.close()
    with pytest.raises(Invalid, match="lacks secret"):
        await exchanges.account("sim", {"key": "x"})


@pytest.mark.parametrize(("text", "said"), [
    ("binance GET https://x/api?apiKey=k&signature=abc failed", "binance GET https://x/api failed"),
    ("key tiny-secret refused", "key *** refused"), ("x" * 900, "***"), ("a\n\nb", "a b")])
def test_words_of_an_exchange_lose_what_is_secret(text: str, said: str) -> None:
    assert clean(text, ["tiny-secret"]) == said


# ---- options


@pytest.mark.parametrize(("content", "said"), [
    ("[binance]\nbase_url = 3", "base_url"), ("[binance]\nbase_url = 'x'", "no address"),
    ("[binance]\napiKey = 'x'", "does not belong"), ("[binance]\nretries = -1", "retries"),
    ("['../x']\na = 1", "no section"), ("nonsense", "neither TOML nor JSON"), ("binance = 3", "no section")])
def test_a_faulty_file_of_options_is_refused_with_its_fault(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "exchanges.toml"
    path.write_text(content)
    with pytest.raises(Invalid, match=said):
        read_options(path)


def test_options_go_to_ccxt_and_to_us(tmp_path: Path) -> None:
    path = tmp_path / "exchanges.json"
    path.write_text(json.dumps({"mine": {"class": "kraken", "retries": 2, "httpsProxy": "http://p:1"}}))
    mine = read_options(path)["mine"]
    assert (mine.kind, mine.retries, dict(mine.rest)) == ("kraken", 2, {"httpsProxy": "http://p:1"})
    assert read_options(None) == {}
    with pytest.raises(Invalid, match="cannot be read"):
        read_options(tmp_path / "nothing.toml")


def test_the_exchanges_that_are_listed_from_the_beginning_are_as_ccxt_has_them() -> None:
    import ccxt.async_support as ccxt

    for slug, (name, requires, pairs) in KNOWN.items():
        exchange = Exchange(slug, ExchangeOptions(kind=slug))
        assert slug in ccxt.exchanges and exchange.client.name == name and tuple(exchange.requires()) == requires, slug
        assert exchange.offers("fetchOHLCV", "fetchTrades", "createOrder", "fetchOrder", "cancelOrder"), slug
        assert "BTC" in set().union(*pairs.values())
