"""An exchange on loopback: a real HTTP server that answers as Binance and Kraken do, so that the unmodified ccxt
clients work with it, and that fails on request. Its trades are made from their time alone, so that a test can say what
a minute must be.

    with ExchangeSimulator() as simulator:
        simulator.options_file(tmp_path)       # for --exchanges: sections "sim" (binance) and "simkraken"
        simulator.fail("429", "429", path="klines")
        simulator.hidden |= {minute}           # minutes that are in no answer
"""

import asyncio
import contextlib
import hashlib
import hmac
import itertools
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from tornado.httpserver import HTTPServer
from tornado.web import Application, HTTPError, RequestHandler
from tornado.websocket import WebSocketClosedError, WebSocketHandler

__all__ = ["BEGIN", "ExchangeSimulator", "SimOrder", "expected", "trades_of"]

BEGIN = 1_700_000_040  # the first minute there is; a whole minute
KEY, SECRET = "sim-key-0123456789abcdef", "sim-secret-fedcba9876543210"
SIZE = 1000  # rows of one answer
Row = tuple[int, float, float, float, float, float, int]
_QUIET = 17  # every so many minutes there are no trades


def trades_of(minute: int) -> list[tuple[int, int, float, float]]:
    """(id, milliseconds, price, amount) of the trades of a minute that starts at these seconds."""
    number = minute // 60
    if minute < BEGIN or number % _QUIET == 5:
        return []
    base = 100 + 10 * math.sin(number / 50)
    return [(number * 10 + each, minute * 1000 + each * 9_700 + number % 7,
             round(base + math.cos(number * 3 + each), 2), round(0.1 + (number * 7 + each * 3) % 11 / 10, 4))
            for each in range(1 + number % 5)]


def expected(first: int, end: int) -> list[dict[str, float]]:
    """The minutes from `first` to before `end` by Gekko's rule: quiet ones repeat the close before them."""
    found: list[dict[str, float]] = []
    for minute in range(first, end, 60):
        trades = trades_of(minute)
        if trades:
            prices, amounts = [each[2] for each in trades], [each[3] for each in trades]
            volume = value = 0.0
            for price, amount in zip(prices, amounts, strict=True):
                volume += amount
                value += price * amount
            found.append({"start": minute, "open": prices[0], "high": max(prices), "low": min(prices),
                          "close": prices[-1], "vwp": value / volume, "volume": volume, "trades": len(trades)})
        elif found:
            close = found[-1]["close"]
            found.append({"start": minute, **dict.fromkeys(("open", "high", "low", "close", "vwp"), close),
                          "volume": 0.0, "trades": 0})
    return found


@dataclass(kw_only=True)
class SimOrder:
    """An order on the simulator."""

    id: int
    client_id: str
    side: str
    kind: str
    amount: float
    price: float
    at: int
    filled: float = 0.0
    cost: float = 0.0
    canceled: bool = False

    @property
    def status(self) -> str:
        if self.canceled:
            return "CANCELED"
        return "FILLED" if self.filled >= self.amount - 1e-12 else "PARTIALLY_FILLED" if self.filled else "NEW"

    def json(self, pair: str) -> dict[str, Any]:
        return {"symbol": pair, "orderId": self.id, "orderListId": -1, "clientOrderId": self.client_id,
                "price": f"{self.price:.2f}", "origQty": f"{self.amount:.8f}", "executedQty": f"{self.filled:.8f}",
                "cummulativeQuoteQty": f"{self.cost:.8f}", "status": self.status, "timeInForce": "GTC",
                "type": self.kind, "side": self.side, "time": self.at, "transactTime": self.at, "updateTime": self.at,
                "workingTime": self.at, "isWorking": True, "origQuoteOrderQty": "0.0"}


@dataclass(kw_only=True)
class _Fault:
    kind: str
    path: str


@dataclass(kw_only=True, eq=False)
class ExchangeSimulator:
    """The server, on a thread of its own. Attributes may be changed while it runs.

    clock: seconds since 1970. hidden: minutes that no answer holds; hidden_once: missing in the first answer that
    should hold them. doubled: rows come twice; shuffled: the newest rows of a page come first. `fills`: what part of a
    new order is done at once. reject: words with which the next orders are refused. lose: orders are taken, but the
    connection breaks before the answer. history: minutes that candles reach back. stuck_from: questions for what is
    from this minute on get no answer.

    Sockets say every trade of `clock`'s past that came since they were opened; so a test lets time pass in steps, and
    waits with `spoken`. mute: they stay open and say nothing. no_sockets: none is opened. say_twice: every message
    comes twice. say_late: a minute's last trade comes after the first one of the next, and what was said before it
    again after that.
    """

    clock: Callable[[], float] = time.time
    hidden: set[int] = field(default_factory=set)
    hidden_once: set[int] = field(default_factory=set)
    doubled: bool = False
    shuffled: bool = False
    fills: float = 1.0
    reject: list[str] = field(default_factory=list)
    lose: int = 0
    history: int | None = None
    stuck_from: int | None = None
    mute: bool = False
    no_sockets: bool = False
    say_twice: bool = False
    say_late: bool = False
    balances: dict[str, float] = field(default_factory=lambda: {"BTC": 1.0, "USDT": 1000.0})
    orders: dict[int, SimOrder] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    port: int = 0

    def __post_init__(self) -> None:
        self.faults: list[_Fault] = []
        self.numbers = itertools.count(1001)
        self.go = threading.Event()
        self.lock = threading.RLock()
        self.sockets: set[_Stream] = set()
        self.opened = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def fail(self, *kinds: str, path: str = "") -> None:
        """The next requests whose path holds `path` end so: "429" (with Retry-After), "418", "500", "503", "timeout",
        "disconnect", "garbage" (a page instead of JSON), "empty" (no rows), "late" (answered once `go` is set)."""
        with self.lock:
            self.faults += [_Fault(kind=kind, path=path) for kind in kinds]

    def fault(self, path: str) -> str:
        with self.lock:
            for each in self.faults:
                if each.path in path:
                    self.faults.remove(each)
                    return each.kind
        return ""

    def questions(self, word: str) -> int:
        """How often a path with this word was asked for."""
        return sum(word in path for path, _ in list(self.asked))

    def options(self) -> dict[str, dict[str, Any]]:
        """Sections for the file of exchanges."""
        quick = {"base_url": self.url, "backoff": 0.01, "rateLimit": 1, "timeout": 25_000}
        return {"sim": {"class": "binance", **quick}, "simkraken": {"class": "kraken", **quick}}

    def options_file(self, folder: Path) -> Path:
        path = folder / "exchanges.json"
        path.write_text(json.dumps(self.options()))
        return path

    def fill(self, order_id: int, part: float = 1.0) -> None:
        """Let an open order be done up to this part."""
        with self.lock:
            order = self.orders[order_id]
            more = max(0.0, order.amount * part - order.filled)
            sign = 1 if order.side == "BUY" else -1
            order.filled += more
            order.cost += more * order.price
            self.balances["BTC"] += sign * more
            self.balances["USDT"] -= sign * more * order.price

    def price(self) -> float:
        """What the market gives now: the price of the newest trade."""
        minute = int(self.clock()) // 60 * 60
        while minute >= BEGIN:
            past = [each for each in trades_of(minute) if each[1] <= self.clock() * 1000]
            if past:
                return past[-1][2]
            minute -= 60
        return 100.0

    # -- sockets

    def spoken(self) -> bool:
        """Whether somebody listens, and everybody who does was told all that there is."""
        now = self.clock() * 1000
        with self.lock:
            return any(each.streams for each in self.sockets) and all(
                each.position >= now for each in self.sockets if each.streams)

    def hang_up(self) -> None:
        """Break every socket's connection."""
        self._over_there(lambda each: each.ws_connection and each.ws_connection.stream.close())

    def say(self, text: str) -> None:
        """Send a text of any kind to everybody."""
        self._over_there(lambda each: each.write_message(text))

    def _over_there(self, work: "Callable[[_Stream], Any]") -> None:
        done = threading.Event()

        def act() -> None:
            for each in list(self.sockets):
                work(each)
            done.set()

        assert self._loop is not None
        self._loop.call_soon_threadsafe(act)
        assert done.wait(60)

    async def _speak(self) -> None:
        while True:
            for each in list(self.sockets):
                each.speak()
            await asyncio.sleep(0.004)

    # -- rows

    def minutes(self, first: int) -> Iterator[int]:
        """Minutes with trades, from `first` to the one that runs now."""
        for minute in range(max(first, BEGIN) // 60 * 60, int(self.clock()) + 1, 60):
            if trades_of(minute) and minute not in self.hidden:
                yield minute

    def klines(self, since: int, limit: int, step: int = 60) -> list[Row]:
        """(start, open, high, low, close, volume, trades) of candles of `step` seconds."""
        found: dict[int, Row] = {}
        oldest = 0 if self.history is None else int(self.clock()) // 60 * 60 - self.history * 60
        for minute in self.minutes(max(oldest, -(-since // step) * step)):
            start = minute // step * step
            if start not in found and len(found) == limit:
                break
            if step == 60 and minute in self.hidden_once:
                self.hidden_once.discard(minute)
                continue
            past = [each for each in trades_of(minute) if each[1] <= self.clock() * 1000]
            if past:
                prices, volume, before = [each[2] for each in past], 0.0, found.get(start)
                for each in past:
                    volume += each[3]
                if before:
                    prices, volume = [before[1], before[2], before[3], *prices], before[5] + volume
                found[start] = (start, prices[0], max(prices), min(prices), prices[-1], volume, len(past))
        return self._upset(list(found.values()))

    def trades(self, since: float, until: float, limit: int) -> list[tuple[int, int, float, float]]:
        """Trades from `since` to `until` (milliseconds), the oldest first."""
        found: list[tuple[int, int, float, float]] = []
        now = self.clock() * 1000
        for minute in self.minutes(int(since // 60_000) * 60):
            for each in trades_of(minute):
                if since <= each[1] <= min(until, now):
                    found.append(each)
            if minute * 1000 > until or len(found) >= limit:
                break
        return self._upset(found[:limit])

    def _upset(self, rows: list[Any]) -> list[Any]:
        if self.doubled:
            rows = [each for row in rows for each in (row, row)]
        if self.shuffled:
            rows = rows[len(rows) // 2:] + rows[:len(rows) // 2]
        return rows

    # -- serving

    def __enter__(self) -> "ExchangeSimulator":
        ready = threading.Event()

        def work() -> None:
            loop = self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)

            async def serve() -> HTTPServer:
                server = HTTPServer(Application([
                    (r"/api/v3/(.+)", _Binance, {"simulator": self}),
                    (r"/0/public/(.+)", _Kraken, {"simulator": self}),
                    (r"/ws/.*", _BinanceStream, {"simulator": self}),
                    (r"/v2", _KrakenStream, {"simulator": self})]))
                server.listen(self.port, "127.0.0.1")
                self.port = next(iter(server._sockets.values())).getsockname()[1]
                return server

            server = loop.run_until_complete(serve())
            speaking = loop.create_task(self._speak())
            ready.set()
            loop.run_forever()
            speaking.cancel()
            server.stop()
            loop.run_until_complete(server.close_all_connections())
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0.01))
            loop.close()

        self._thread = threading.Thread(target=work, name="exchange-simulator", daemon=True)
        self._thread.start()
        assert ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None and self._thread is not None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)


class _Handler(RequestHandler):
    def initialize(self, simulator: ExchangeSimulator) -> None:
        self.simulator = simulator

    @property
    def given(self) -> dict[str, str]:
        text = "&".join(filter(None, (self.request.query, self.request.body.decode())))
        return {key: values[-1] for key, values in parse_qs(text).items()}

    async def misbehave(self, path: str) -> bool:
        """Whether the request was ended by a fault."""
        self.simulator.asked.append((f"{self.request.method} {path}", self.given))
        kind = self.simulator.fault(path)
        stuck, asked = self.simulator.stuck_from, self.given.get("startTime")
        if stuck is not None and asked is not None and int(asked) >= stuck * 1000:
            kind = "timeout"
        if not kind:
            return False
        if kind == "late":
            while not self.simulator.go.is_set():
                await asyncio.sleep(0.005)
            return False
        if kind == "timeout":
            await asyncio.sleep(120)
        elif kind == "disconnect":
            self.hang_up()
        elif kind == "garbage":
            self.finish("<html>maintenance</html>")
        elif kind == "empty":
            self.finish("[]")
        else:
            if kind == "429":
                self.set_header("Retry-After", "0.3")
            self.set_status(int(kind))
            self.finish(json.dumps({"code": -1003, "msg": "Way too much"}) if kind in ("429", "418") else "upset")
        return True

    def hang_up(self) -> None:
        self.request.connection.stream.close()  # type: ignore[union-attr]

    def log_exception(self, *_: Any) -> None:
        """Connections that we break ourselves are no news."""


class _Binance(_Handler):
    async def answer(self, path: str) -> None:
        if await self.misbehave(path):
            return
        given, simulator = self.given, self.simulator
        now = int(simulator.clock() * 1000)
        if path == "exchangeInfo":
            self.reply({"timezone": "UTC", "serverTime": now, "rateLimits": [], "symbols": [
                _pair("BTC", "USDT"), _pair("ETH", "USDT"), _pair("ETH", "BTC")]})
        elif path == "klines":
            step = {"1m": 60, "1d": 86400}[given["interval"]]
            rows = simulator.klines(int(given.get("startTime", now - 500 * 60_000)) // 1000,
                                    min(int(given.get("limit", 500)), SIZE), step)
            self.reply([[start * 1000, *(f"{each:.4f}" for each in figures), (start + step) * 1000 - 1, "0", count, "0",
                         "0", "0"] for start, *figures, count in rows])
        elif path == "aggTrades":
            since = int(given.get("startTime", now - 60_000))
            rows_ = simulator.trades(since, int(given.get("endTime", now)), min(int(given.get("limit", 500)), SIZE))
            self.reply([{"a": id, "p": f"{price:.2f}", "q": f"{amount:.4f}", "f": id, "l": id, "T": at, "m": False}
                        for id, at, price, amount in rows_])
        elif path == "ticker/24hr":
            price = simulator.price()
            self.reply({"symbol": given["symbol"], "lastPrice": f"{price:.2f}", "bidPrice": f"{price - 0.01:.2f}",
                        "askPrice": f"{price + 0.01:.2f}", "closeTime": now, "volume": "1", "quoteVolume": "100"})
        elif path in ("account", "order", "openOrders", "allOrders"):
            self.private(path, given, now)
        else:
            self.set_status(404)
            self.finish("{}")

    get = post = delete = answer

    def reply(self, value: Any) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(value))

    def refuse(self, code: int, words: str, status: int = 400) -> None:
        self.set_status(status)
        self.reply({"code": code, "msg": words})

    def private(self, path: str, given: dict[str, str], now: int) -> None:
        simulator = self.simulator
        text = "&".join(filter(None, (self.request.query, self.request.body.decode())))
        signed, _, signature = text.rpartition("&signature=")
        wanted = hmac.new(SECRET.encode(), signed.encode(), hashlib.sha256).hexdigest()
        if self.request.headers.get("X-MBX-APIKEY") != KEY:
            return self.refuse(-2015, "Invalid API-key, IP, or permissions for action.", 401)
        if signature != wanted:
            return self.refuse(-1022, "Signature for this request is not valid.")
        if path == "account":
            return self.reply({"balances": [{"asset": name, "free": f"{value:.8f}", "locked": "0"}
                                            for name, value in simulator.balances.items()], "updateTime": now})
        if path in ("openOrders", "allOrders"):
            found = [each for each in simulator.orders.values()
                     if path == "allOrders" or each.status in ("NEW", "PARTIALLY_FILLED")]
            return self.reply([each.json("BTCUSDT") for each in found])
        if self.request.method == "POST":
            return self.place(given, now)
        order = simulator.orders.get(int(given.get("orderId", 0)))
        if order is None:
            return self.refuse(-2013, "Order does not exist.")
        if self.request.method == "DELETE":
            if order.status not in ("NEW", "PARTIALLY_FILLED"):
                return self.refuse(-2011, "Unknown order sent.")
            order.canceled = True
        return self.reply(order.json(given["symbol"]))

    def place(self, given: dict[str, str], now: int) -> None:
        simulator = self.simulator
        with simulator.lock:
            if simulator.reject:
                return self.refuse(-2010, simulator.reject.pop(0))
            amount = float(given["quantity"])
            price = float(given.get("price", 0)) or simulator.price()
            free = simulator.balances["USDT"] / price if given["side"] == "BUY" else simulator.balances["BTC"]
            if amount > free + 1e-9:
                return self.refuse(-2010, "Account has insufficient balance for requested action.")
            number = next(simulator.numbers)
            order = SimOrder(id=number, client_id=given.get("newClientOrderId", f"x{number}"), side=given["side"],
                             kind=given["type"], amount=amount, price=price, at=now)
            simulator.orders[number] = order
            simulator.fill(number, simulator.fills)
            if simulator.lose:
                simulator.lose -= 1
                return self.hang_up()
        return self.reply(order.json(given["symbol"]))


def _pair(asset: str, currency: str) -> dict[str, Any]:
    return {"symbol": asset + currency, "status": "TRADING", "baseAsset": asset, "quoteAsset": currency,
            "baseAssetPrecision": 8, "quotePrecision": 8, "isSpotTradingAllowed": True, "permissions": ["SPOT"],
            "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET"],
            "filters": [
                {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "1000000", "tickSize": "0.01"},
                {"filterType": "LOT_SIZE", "minQty": "0.00010", "maxQty": "9000", "stepSize": "0.00010"},
                {"filterType": "NOTIONAL", "minNotional": "5.0"}]}


class _Kraken(_Handler):
    async def answer(self, path: str) -> None:
        if await self.misbehave(path):
            return
        given, simulator = self.given, self.simulator
        now = simulator.clock()
        if path == "Assets":
            self.reply({"XXBT": {"altname": "XBT", "decimals": 10, "status": "enabled"},
                        "ZUSD": {"altname": "USD", "decimals": 4, "status": "enabled"}})
        elif path == "AssetPairs":
            self.reply({"XXBTZUSD": {"altname": "XBTUSD", "wsname": "XBT/USD", "base": "XXBT", "quote": "ZUSD",
                                     "pair_decimals": 2, "lot_decimals": 8, "ordermin": "0.0001", "costmin": "0.5",
                                     "status": "online", "fees": [[0, 0.26]], "fees_maker": [[0, 0.16]],
                                     "leverage_buy": [], "tick_size": "0.01"}})
        elif path == "OHLC":  # only the newest, whatever is asked for
            rows = simulator.klines(max(int(given.get("since", 0)), int(now) // 60 * 60 - 719 * 60), 720)
            self.reply({"XXBTZUSD": [[start, *(f"{each:.4f}" for each in (*figures[:4], figures[3], figures[4])), count]
                                     for start, *figures, count in rows], "last": int(now)})
        elif path == "Trades":
            rows_ = simulator.trades(float(given.get("since", now - 60)) * 1000, now * 1000,
                                     min(int(given.get("count", SIZE)), SIZE))
            self.reply({"XXBTZUSD": [[f"{price:.2f}", f"{amount:.8f}", at / 1000, "b", "l", "", id]
                                     for id, at, price, amount in rows_], "last": str(int(now * 1e9))})
        else:
            self.set_status(404)
            self.finish("{}")

    get = post = answer

    def reply(self, value: Any) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps({"error": [], "result": value}))


class _Stream(WebSocketHandler):
    """What the sockets of all exchanges have in common; `streams` are what the client subscribed to."""

    def initialize(self, simulator: ExchangeSimulator) -> None:
        self.simulator = simulator
        self.streams: list[str] = []
        self.position = 0.0
        self.held: tuple[int, int, float, float] | None = None

    def prepare(self) -> None:
        if self.simulator.no_sockets:
            raise HTTPError(503)

    def log_exception(self, *_: Any) -> None:
        """As above."""

    def open(self) -> None:
        with self.simulator.lock:
            self.simulator.sockets.add(self)
            self.simulator.opened += 1

    def on_close(self) -> None:
        with self.simulator.lock:
            self.simulator.sockets.discard(self)

    def tell(self, content: Any) -> None:
        with contextlib.suppress(WebSocketClosedError):
            for _ in range(2 if self.simulator.say_twice else 1):
                self.write_message(json.dumps(content))

    def speak(self) -> None:
        """Say what was traded since the last time."""
        simulator = self.simulator
        if not self.streams or simulator.mute:
            return
        now = simulator.clock() * 1000
        for minute in simulator.minutes(int(self.position // 60_000) * 60):
            for each in trades_of(minute):
                if not self.position < each[1] <= now:
                    continue
                if simulator.say_late and each == trades_of(minute)[-1]:
                    late, self.held = self.held, each
                    if each != trades_of(minute)[0]:
                        continue
                else:
                    late, self.held = self.held, None
                    self.trade(each)
                if late is not None:
                    self.trade(late)
        with simulator.lock:
            self.position = now

    def trade(self, trade: tuple[int, int, float, float]) -> None:
        """Say one trade, and what became of its minute."""
        raise NotImplementedError

    def minute(self, trade: tuple[int, int, float, float]) -> Iterator[Row]:
        """The minute of a trade with all that was traded in it until then; what it was before is said once more when
        it comes late."""
        minute = trade[1] // 60_000 * 60
        past = [each for each in trades_of(minute) if each[1] <= trade[1]]
        yield _candle(minute, past)
        if self.simulator.say_late and len(past) > 1:
            yield _candle(minute, past[:-1])


def _candle(minute: int, trades: list[tuple[int, int, float, float]]) -> Row:
    prices, volume = [each[2] for each in trades], 0.0
    for each in trades:
        volume += each[3]
    return minute, prices[0], max(prices), min(prices), prices[-1], volume, len(trades)


class _BinanceStream(_Stream):
    """Streams of trades and minutes: {"method": "SUBSCRIBE", "params": ["btcusdt@kline_1m"], "id": 1}."""

    def on_message(self, message: str | bytes) -> None:
        asked = json.loads(message)
        if asked["method"] == "SUBSCRIBE":
            self.streams += asked["params"]
            self.position = self.simulator.clock() * 1000
        self.tell({"result": None, "id": asked["id"]})

    def trade(self, trade: tuple[int, int, float, float]) -> None:
        id, at, price, amount = trade
        for stream in self.streams:
            pair, _, kind = stream.upper().partition("@")
            if kind == "TRADE":
                self.tell({"e": "trade", "E": at, "s": pair, "t": id, "p": f"{price:.2f}", "q": f"{amount:.4f}",
                           "T": at, "m": False, "M": True})
            elif kind == "KLINE_1M":
                for start, first, high, low, close, volume, count in self.minute(trade):
                    self.tell({"e": "kline", "E": at, "s": pair, "k": {
                        "t": start * 1000, "T": start * 1000 + 59_999, "s": pair, "i": "1m", "f": id, "L": id,
                        "o": f"{first:.4f}", "c": f"{close:.4f}", "h": f"{high:.4f}", "l": f"{low:.4f}",
                        "v": f"{volume:.4f}", "n": count, "x": count == len(trades_of(start)),
                        "q": "0", "V": "0", "Q": "0", "B": "0"}})


class _KrakenStream(_Stream):
    """Channels of the second version: numbers instead of texts, dates of nanoseconds, lists of rows, and first of all
    a snapshot of what was before: {"method": "subscribe", "params": {"channel": "ohlc", "symbol": ["BTC/USD"],
    "interval": 1}, "req_id": 1}."""

    def open(self) -> None:
        super().open()
        self.tell({"channel": "status", "type": "update", "data": [
            {"system": "online", "api_version": "v2", "connection_id": 1, "version": "2.0.0"}]})

    def on_message(self, message: str | bytes) -> None:
        asked = json.loads(message)
        if asked["method"] == "ping":
            self.tell({"method": "pong", "req_id": asked.get("req_id")})
            return
        wanted, now = asked["params"], self.simulator.clock()
        self.tell({"method": "subscribe", "success": True, "req_id": asked["req_id"],
                   "result": {**wanted, "symbol": wanted["symbol"][0], "snapshot": True}})
        begin = int(now) // 60 * 60 - 600
        if wanted["channel"] == "ohlc":
            rows = [self.row(each) for each in self.simulator.klines(begin, 720)]
        else:
            rows = [self.row(each) for each in self.simulator.trades(begin * 1000, now * 1000, SIZE)[-50:]]
        self.tell({"channel": wanted["channel"], "type": "snapshot", "data": rows})
        self.streams.append(wanted["channel"])
        self.position = now * 1000

    def trade(self, trade: tuple[int, int, float, float]) -> None:
        self.tell({"channel": "heartbeat"})
        for channel in self.streams:
            for each in self.minute(trade) if channel == "ohlc" else (trade,):
                self.tell({"channel": channel, "type": "update", "data": [self.row(each)]})

    @staticmethod
    def row(what: Row | tuple[int, int, float, float]) -> dict[str, Any]:
        if len(what) == 4:
            id, at, price, amount = what
            return {"symbol": "BTC/USD", "side": "buy", "price": price, "qty": amount, "ord_type": "market",
                    "trade_id": id, "timestamp": _date(at)}
        start, first, high, low, close, volume, count = what
        return {"symbol": "BTC/USD", "open": first, "high": high, "low": low, "close": close, "trades": count,
                "volume": volume, "vwap": close, "interval": 1, "interval_begin": _date(start * 1000, "000"),
                "timestamp": _date(start * 1000 + 60_000)}


def _date(milliseconds: int, finer: str = "") -> str:
    at = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}000{finer}Z"
