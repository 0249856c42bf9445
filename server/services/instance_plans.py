"""What a configuration asks to be started: which kind of instance, on which market, fed by what."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from engine.errors import Invalid
from engine.gekko_ranges import read_date
from engine.model import Market
from server.services.instance_feeds import INTERVAL, REPLAY, Replay, replay_of
from server.services.instance_limits import Limits, limits_of
from server.services.instance_runner import settings_of
from server.store.encoding import encode

__all__ = ["Plan", "new_id", "plan_of"]

MOST_CONFIG: Final = 2**16
LONGEST_INTERVAL: Final = 3600.0
SECRETS: Final = ("key", "secret", "username", "passphrase", "password", "apikey", "privatekey", "token")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`since` (seconds): minutes of the past that it wants to hear first. `limits`: of a tradebot."""

    kind: str
    market: Market
    config: Mapping[str, Any]
    replay: Replay | None = None
    since: int | None = None
    interval: float = INTERVAL
    limits: Limits | None = None


def plan_of(config: Mapping[str, Any], markets: Sequence[Market]) -> Plan:
    """The plan of a live configuration; `markets` are those of which the store has minutes.

    Raises `Invalid` with the field for what cannot work. The plan's configuration holds no secrets.
    """
    if config.get("mode", "realtime") != "realtime":
        raise Invalid(f"{config['mode']!r} is no mode of a live instance"[:200], field="mode", remedy="use realtime")
    watch = config.get("watch")
    if not isinstance(watch, Mapping):
        raise Invalid("the section watch is missing", field="watch",
                      remedy='send "watch": {"exchange": …, "currency": …, "asset": …}')
    for name in ("exchange", "currency", "asset"):
        if not isinstance(watch.get(name), str) or not watch[name]:
            raise Invalid(f"{watch.get(name)!r} names no {name}"[:200], field=f"watch.{name}", remedy="give a text")
    kind = _kind(config)
    config = _without_secrets(config)
    if len(encode(config, field="config")) > MOST_CONFIG:
        raise Invalid("the configuration is too large", remedy=f"send at most {MOST_CONFIG} bytes")
    limits = None
    if kind != "watcher":
        settings = settings_of(config)
        if kind == "tradebot":
            limits = limits_of(config["trader"])
        elif not settings.trading:
            raise Invalid("nobody would trade on the advice", field="paperTrader.enabled",
                          remedy="set paperTrader.enabled or trader.enabled to true")
    replay = None
    if watch["exchange"].casefold() == REPLAY:
        if kind == "tradebot":
            raise Invalid("a replay takes no orders", field="trader.enabled", remedy="use the paper trader")
        replay = replay_of(watch, list(markets))
        market = Market(REPLAY, replay.source.asset, replay.source.currency)
        config = {**config, "watch": {**config["watch"], "source": replay.source.exchange, "speed": replay.speed}}
    else:
        market = Market(watch["exchange"].lower(), watch["asset"].upper(), watch["currency"].upper())
    return Plan(kind=kind, market=market, config=config, replay=replay, since=_since(config), limits=limits,
                interval=_interval(watch.get("tickrate")))


def _kind(config: Mapping[str, Any]) -> str:
    market = config.get("market")
    if market is None:
        return "watcher"
    if not isinstance(market, Mapping) or market.get("type", "leech") != "leech":
        raise Invalid("this is no type of market", field="market.type", remedy='use "leech", or leave market out')
    trader = config.get("trader")
    return "tradebot" if isinstance(trader, Mapping) and trader.get("enabled") else "papertrader"


def _since(config: Mapping[str, Any]) -> int | None:
    market = config.get("market")
    if not isinstance(market, Mapping) or market.get("from") is None:
        return None
    return read_date(market["from"], field="market.from") // 60 * 60


def _interval(value: object) -> float:
    if value is None:
        return INTERVAL
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.05 <= value <= LONGEST_INTERVAL:
        raise Invalid(f"{value!r} is no number of seconds"[:100], field="watch.tickrate",
                      remedy=f"use 0.05 to {LONGEST_INTERVAL:g}")
    return float(value)


def _without_secrets(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keys belong into the key store: what a client sends here, in whatever section, would be told to every other one.
    A number may be a strategy's parameter of that name, but not in the section of the trader."""
    return {name: _bare(value, numbers=name == "trader") for name, value in config.items()
            if not _secret(name, value, numbers=False)}


def _bare(value: Any, *, numbers: bool) -> Any:
    if isinstance(value, Mapping):
        return {name: _bare(each, numbers=numbers) for name, each in value.items()
                if not _secret(name, each, numbers=numbers)}
    if isinstance(value, list):
        return [_bare(each, numbers=numbers) for each in value]
    return value


def _secret(name: str, value: Any, *, numbers: bool) -> bool:
    return name.casefold() in SECRETS and (numbers or not isinstance(value, int | float))


def new_id(kind: str, at: datetime) -> str:
    """An id as Gekko makes them."""
    return f"{at:%Y-%m-%d-%H-%M}-{kind}-{random.randrange(10**14, 10**15)}"
