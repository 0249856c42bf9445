"""A second Gekko for tests: events in queues, plain Python, written from the description of the original's behaviour.

Slow and simple on purpose: every minute passes through the three producers one event at a time, indicators keep whole
lists, nothing is shared with the engine.
"""

import math
from collections import deque


def js(a, b):
    """a / b in JavaScript."""
    if b == 0:
        return math.nan if a == 0 or a != a else math.copysign(math.inf, a) * math.copysign(1, b)
    return a / b


class Ema:
    def __init__(self, weight):
        self.weight, self.y, self.result = weight, None, None

    def update(self, price):
        k = 2 / (self.weight + 1)
        y = price if self.y is None else self.y
        self.y = self.result = price * k + y * (1 - k)
        return self.result


class Sma:
    def __init__(self, n):
        self.n, self.values, self.at, self.sum = n, {}, 0, 0

    def update(self, price):
        tail = self.values.get(self.at, 0)
        self.values[self.at] = price
        self.sum += price - tail
        self.at = (self.at + 1) % self.n
        self.result = self.sum / len(self.values)
        return self.result


class Smma:
    def __init__(self, n):
        self.n, self.seen, self.sma, self.result = n, 0, Sma(n), 0

    def update(self, price):
        self.seen += 1
        if self.seen <= self.n:
            self.sma.update(price)
            if self.seen == self.n:
                self.result = self.sma.result
        else:
            self.result = (self.result * (self.n - 1) + price) / self.n
        return self.result


class Rsi:
    def __init__(self, n):
        self.last, self.up, self.down = None, Smma(n), Smma(n)

    def update(self, price):
        last, self.last = self.last, price
        if last is None:
            return 0
        up = self.up.update(max(price - last, 0))
        down = self.down.update(max(last - price, 0))
        if down == 0:
            return 100 if up != 0 else 0
        return 100 - 100 / (1 + up / down)


class Tsi:
    def __init__(self, short, long):
        self.last = None
        self.averages = [Ema(long), Ema(long), Ema(short), Ema(short)]

    def update(self, price):
        last, self.last = self.last, price
        if last is None:
            return 0
        inner, size, outer, outer_size = self.averages
        a = outer.update(inner.update(price - last))
        b = outer_size.update(size.update(abs(price - last)))
        return js(100 * a, b)


class Uo:
    def __init__(self, windows):
        self.last, self.windows = 0, [(weight, Sma(n), Sma(n)) for weight, n in windows]

    def update(self, candle):
        bottom = min(candle["low"], self.last)
        pressure, reach = candle["close"] - bottom, max(candle["high"], self.last) - bottom
        self.last = candle["close"]
        (w1, a1, b1), (w2, a2, b2), (w3, a3, b3) = self.windows
        r = [js(a.update(pressure), b.update(reach)) for a, b in ((a1, b1), (a2, b2), (a3, b3))]
        return js(100 * (w1 * r[0] + w2 * r[1] + w3 * r[2]), w1 + w2 + w3)


class Trend:
    def __init__(self, persistence, first, second):
        self.persistence, self.says = persistence, (first, second)
        self.direction, self.duration, self.persisted, self.advised = None, 0, False, False

    def check(self, a, b):
        if not (a or b):
            return None
        direction = self.says[0] if a else self.says[1]
        if self.direction != direction:
            self.direction, self.duration, self.persisted, self.advised = direction, 0, False, False
        self.duration += 1
        if self.duration >= self.persistence:
            self.persisted = True
        if self.persisted and not self.advised:
            self.advised = True
            return direction
        return None


class Strategy:
    """update(candle) then, when warm, check() -> None, "long", "short" (or with a trailing stop, a dictionary)."""

    def __init__(self, config):
        method = config["tradingAdvisor"]["method"]
        s = self.s = config[method]
        t = self.t = s.get("thresholds", {})
        self.method, self.candles, self.closes = method, [], []
        p = t.get("persistence", 0)
        if method in ("MACD", "PPO"):
            self.short, self.long = Ema(s["short"]), Ema(s["long"])
            self.signal, self.trend = Ema(s["signal"]), Trend(p, "long", "short")
        elif method == "DEMA":
            self.inner, self.outer, self.sma = Ema(s["weight"]), Ema(s["weight"]), Sma(s["weight"])
            self.trend = Trend(0, "long", "short")
        elif method == "TMA":
            self.averages = [Sma(s[key]) for key in ("short", "medium", "long")]
        elif method in ("RSI", "StochRSI"):
            self.index, self.history, self.trend = Rsi(s["interval"]), [], Trend(p, "short", "long")
        elif method == "TSI":
            self.index, self.trend = Tsi(s["short"], s["long"]), Trend(p, "short", "long")
        elif method == "UO":
            self.index = Uo([(s[k]["weight"], s[k]["period"]) for k in ("first", "second", "third")])
            self.trend = Trend(p, "short", "long")
        elif method == "CCI":
            self.trend = Trend(p, None, None)
        self.turn = 0

    def update(self, candle):
        self.candles.append(candle)
        price = candle["close"]
        self.closes.append(price)
        if self.method == "MACD":
            macd = self.short.update(price) - self.long.update(price)
            self.value = macd - self.signal.update(macd)
        elif self.method == "PPO":
            short, long = self.short.update(price), self.long.update(price)
            ppo = 100 * js(short - long, long)
            self.value = ppo - self.signal.update(ppo)
        elif self.method == "DEMA":
            inner = self.inner.update(price)
            self.value = self.sma.update(price) - (2 * inner - self.outer.update(inner))
        elif self.method == "TMA":
            for average in self.averages * 2:
                average.update(price)
        elif self.method in ("RSI", "TSI"):
            self.value = self.index.update(price)
        elif self.method == "UO":
            self.value = self.index.update(candle)
        elif self.method == "StochRSI":
            rsi = self.index.update(price)
            self.history = [*self.history, rsi][-self.s["interval"]:]
            low, high = min(self.history), max(self.history)
            self.value = js(rsi - low, high - low) * 100
        elif self.method == "CCI":
            n = self.s["history"]
            typical = [(each["high"] + each["close"] + each["low"]) / 3 for each in self.candles[-n:]]
            self.value = None
            if len(typical) == n:
                mean = 0.0
                for each in typical:
                    mean += each
                mean /= n
                off = 0.0
                for each in typical:
                    off += abs(each - mean)
                self.value = js(typical[-1] - mean, self.s["constant"] * (off / n))

    def check(self):
        t = self.t
        if self.method in ("MACD", "PPO", "DEMA"):
            return self.trend.check(self.value > t["up"], self.value < t["down"])
        if self.method in ("RSI", "TSI", "UO"):
            return self.trend.check(self.value > t["high"], self.value < t["low"])
        if self.method == "StochRSI":
            high, low = self.value > t["high"], self.value < t["low"]
            if not high and not low:
                self.trend.duration = 0
            return self.trend.check(high, low)
        if self.method == "TMA":
            short, medium, long = (each.result for each in self.averages)
            if short > medium and medium > long:
                return "long"
            return "short" if (short < medium and medium > long) or (short > medium and medium < long) else None
        if self.method == "CCI":
            return self.cci()
        self.turn += 1
        if self.method == "DEBUG_toggle-advice":
            return {0: "short", 3: "long"}.get((self.turn - 1) % 6)
        if self.method == "DEBUG_single-advice":
            return {"trail": 0.5} if self.turn == 1 else None
        return None

    def cci(self):
        trend, p = self.trend, self.trend.persistence
        if self.value is None:
            return None
        for hit, name, says in ((self.value >= self.t["up"], "overbought", "short"),
                                (self.value <= self.t["down"], "oversold", "long")):
            if not hit:
                continue
            if (trend.persisted or p == 0) and not trend.advised and trend.direction == name:
                trend.advised, trend.duration = True, trend.duration + 1
                return says
            if trend.direction != name:
                trend.direction, trend.duration, trend.persisted, trend.advised = name, 1, False, p == 0
                return says if p == 0 else None
            trend.duration += 1
            if trend.duration >= p:
                trend.persisted = True
            return None
        if trend.direction != "nodirection":
            trend.direction, trend.duration, trend.persisted, trend.advised = "nodirection", 0, False, False
        return None


class Gekko:
    """One backtest: feed minutes (dictionaries), then read trades, roundtrips, values."""

    def __init__(self, config, trail=0.0):
        self.config, self.trail = config, trail
        self.size, self.history = config["tradingAdvisor"]["candleSize"], config["tradingAdvisor"].get("historySize")
        self.strategy = Strategy(config)
        trader = config["paperTrader"]
        self.percent = trader["feeMaker"] if trader["feeUsing"] == "maker" else trader["feeTaker"]
        self.fee = 1 - self.percent / 100
        self.asset, self.currency = (trader["simulationBalance"][key] for key in ("asset", "currency"))
        self.small, self.age, self.warm, self.direction, self.pending, self.advices = [], 0, False, None, None, []
        self.trader_warm = self.analyzer_warm = self.told = False
        self.exposed, self.stop, self.number, self.last_advice = self.asset > 0, None, 0, None
        self.trades, self.roundtrips, self.candles, self.open = [], [], [], {"id": 0, "entry": None, "exit": None}
        self.start_balance = self.balance = 0
        self.queues = {name: deque() for name in ("advisor", "trader", "analyzer")}

    def feed(self, minute):
        self.minute = minute
        self.advisor(minute)
        self.trader(minute)
        self.analyzer(minute)
        while queue := next((queue for queue in self.queues.values() if queue), None):
            kind, data = queue.popleft()
            getattr(self, "on_" + kind, lambda data: None)(data)

    def emit(self, who, kind, data=None):
        self.queues[who].append((kind, data))

    def advisor(self, minute):
        self.small.append(minute)
        if len(self.small) % self.size:
            return
        small, self.small = self.small, []
        volume = trades = weighted = None
        for each in small:
            weighted = each["vwp"] * each["volume"] + (0 if weighted is None else weighted)
            volume = each["volume"] + (0 if volume is None else volume)
            trades = each["trades"] + (0 if trades is None else trades)
        candle = {"start": small[0]["start"], "open": small[0]["open"], "high": max(each["high"] for each in small),
                  "low": min(each["low"] for each in small), "close": small[-1]["close"],
                  "vwp": weighted / volume if volume else small[0]["open"], "volume": volume, "trades": trades}
        self.candles.append(candle)
        self.strategy.update(candle)
        self.age += 1
        if not self.warm and self.history is not None and self.history <= self.age:
            self.warm = True
            self.emit("advisor", "warm")
        if self.warm and (said := self.strategy.check()):
            trail = said["trail"] if isinstance(said, dict) else self.trail if said == "long" else 0
            direction = "long" if isinstance(said, dict) else said
            if direction != self.direction:
                self.direction = direction
                self.advices.append((direction, minute["start"] + 60))
                self.pending = len(self.advices) if trail and direction == "long" else None
                value = trail / 100 * candle["close"] if trail else 0
                self.emit("advisor", "advice", (len(self.advices), direction, minute["start"] + 60, value))

    def trader(self, minute):
        if not self.trader_warm:
            return
        self.price = minute["close"]
        if not self.told:
            self.told = True
            self.emit("trader", "value", self.worth())
        if self.exposed:
            self.emit("trader", "value", self.worth())
        if self.stop:
            if self.price > self.stop["point"] + self.stop["trail"]:
                self.stop["point"] = self.price - self.stop["trail"]
            if self.price <= self.stop["point"]:
                self.stop = None
                self.trade("sell", minute["start"] + 60, self.last_advice)

    def worth(self):
        return self.currency + self.price * self.asset

    def analyzer(self, minute):
        if not self.analyzer_warm:
            return
        self.end, self.end_price = minute["start"] + 60, minute["close"]
        if not hasattr(self, "start"):
            self.start, self.start_price = minute["start"], minute["close"]

    def on_warm(self, _):
        self.trader_warm = True
        self.trader(self.minute)
        self.analyzer_warm = True
        self.analyzer(self.minute)

    def on_advice(self, advice):
        number, direction, date, trail = advice
        self.stop, self.last_advice = None, number
        self.number += 1
        if direction == "long":
            if trail:
                self.stop = {"trail": trail, "point": self.price - trail}
            self.trade("buy", date, number)
        else:
            self.trade("sell", date, number)

    def trade(self, action, date, advice):
        if action == "buy":
            cost = (1 - self.fee) * self.currency
            self.asset += math.floor(self.currency / self.price * 1e8 * self.fee) / 1e8
            self.currency, amount, self.exposed = 0, self.asset, True
        else:
            cost = (1 - self.fee) * (self.asset * self.price)
            self.currency += math.floor(self.asset * self.price * 1e8 * self.fee) / 1e8
            self.asset, amount, self.exposed = 0, self.currency / self.price, False
        self.emit("trader", "value", self.worth())
        self.emit("trader", "trade", {
            "id": f"trade-{self.number}", "adviceId": f"advice-{advice}", "action": action, "cost": cost,
            "amount": amount, "price": self.price, "after": {"asset": self.asset, "currency": self.currency},
            "balance": self.worth(), "date": date, "effectivePrice": self.price * self.fee,
            "feePercent": self.percent})

    def on_value(self, balance):
        self.balance = balance
        self.start_balance = self.start_balance or balance

    def on_trade(self, trade):
        if trade["action"] == "sell" and self.pending and trade["adviceId"] == f"advice-{self.pending}":
            self.direction, self.pending = "short", None
        self.trades.append(trade)
        self.balance = trade["balance"]
        here = (trade["date"], trade["price"], trade["after"]["currency"] + trade["after"]["asset"] * trade["price"])
        trip = self.open
        if trade["action"] == "buy":
            if trip["exit"]:
                trip["id"] += 1
                trip["exit"] = None
            trip["entry"] = here
        elif trip["entry"]:
            trip["exit"] = here
            (t0, p0, b0), (t1, p1, b1) = trip["entry"], here
            self.roundtrips.append({
                "id": trip["id"], "entryAt": t0, "entryPrice": p0, "entryBalance": b0, "exitAt": t1, "exitPrice": p1,
                "exitBalance": b1, "duration": (t1 - t0) * 1000, "pnl": b1 - b0, "profit": js(100 * b1, b0) - 100})
