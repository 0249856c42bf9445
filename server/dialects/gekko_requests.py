"""What Gekko's clients send: bodies read as its server reads them, and the run that a configuration asks for."""

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson

from engine import times
from engine.errors import Invalid, NotFound, TooLarge, WorkbenchError
from engine.gekko_ranges import read_range
from engine.gekko_settings import METHODS, Settings, read_settings
from engine.spec import BacktestSpec
from server.dialects.failures import Malformed
from server.services.histories import MINUTE, Histories

__all__ = ["MOST_BODY", "read_body", "read_size", "spec_of"]

MOST_BODY: Final = 2**20
MOST_FORM: Final = 56 * 1024
DEEPEST: Final = 32
JSON_TYPES: Final = ("application/json", "application/json-patch+json", "application/vnd.api+json",
                     "application/csp-report")
FORM_TYPE: Final = "application/x-www-form-urlencoded"
SECTIONS: Final = ("watch", "backtest", "tradingAdvisor", "paperTrader", "performanceAnalyzer",
                   "backtestResultExporter", "debug")
"""What a backtest reads, beside the settings of its strategy. All else that clients send, such as keys of accounts, is
neither kept nor looked at."""


def read_body(body: bytes, content_type: str) -> dict[str, Any]:
    """The configuration in a body: JSON, a form, or nothing when it is of another type.

    Raises `Malformed` for what is no JSON, or JSON that is neither object nor list; `Invalid` for a list.
    """
    if content_type in JSON_TYPES:
        if not body.strip():
            return {}
        try:
            config = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise Malformed(f"the body is not JSON: {error}") from None
        if not isinstance(config, dict | list):
            raise Malformed("the body is neither an object nor a list")
    elif content_type == FORM_TYPE:
        if len(body) > MOST_FORM:
            raise TooLarge("the form is too large", remedy=f"send at most {MOST_FORM} bytes, or JSON")
        config = _form(body)
    else:
        return {}
    if not isinstance(config, dict):
        raise Invalid("the body is a list", remedy="send a configuration, which is an object")
    if _deeper(config, DEEPEST):
        raise Invalid(f"the body has more than {DEEPEST} levels", remedy="send a configuration")
    return config


def _deeper(value: Any, levels: int) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_deeper(each, levels - 1) for each in inside if isinstance(each, dict | list))


def _form(body: bytes) -> dict[str, Any]:
    """`watch[exchange]=x&watch[asset]=y` as nested objects; all values are texts."""
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=1000)
    except ValueError:  # UnicodeError is one
        raise Malformed("the body is not a form") from None
    found: dict[str, Any] = {}
    for name, value in pairs:
        *outer, key = re.findall(r"[^\[\]]+", name)[:DEEPEST] or [""]
        place = found
        for each in outer:
            if not isinstance(place.get(each), dict):
                place[each] = {}
            place = place[each]
        place[key] = value
    return found


def read_size(value: Any) -> int:
    """The candleSize of a request for candles. Raises `Invalid`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value < 1e9 or value != int(value):
        raise Invalid(f"{value!r} is not a number of minutes"[:200], field="candleSize",
                      remedy="give a whole number of at least 1, not text")
    return int(value)


def spec_of(config: Mapping[str, Any], histories: Histories) -> BacktestSpec:
    """The backtest that a configuration asks for. Blocks (reads the disk).

    Raises `Invalid` with all that is known now to be wrong with it, where Gekko itself would answer 500 or never.
    """
    settings = read_settings(config)
    try:
        market = histories.resolve(config.get("watch"))
    except NotFound as error:
        raise Invalid(error.message, field="watch", remedy=error.remedy) from None
    backtest = config.get("backtest")
    daterange = backtest.get("daterange", "scan") if isinstance(backtest, Mapping) else "scan"
    ranges = histories.of(market).ranges
    if daterange == "scan":
        if len(ranges) != 1:
            raise Invalid(f"the market has {len(ranges)} ranges of candles, not one", field="backtest.daterange",
                          remedy='give {"from": …, "to": …}; /api/scan lists the ranges')
        start, end = ranges[0]
    else:
        start, end = read_range(daterange)
    return BacktestSpec.read({
        "strategy": settings.strategy.name, "markets": [market.key], "resolution": times.resolution_name(MINUTE),
        "start": _instant(start, "from"), "end": _instant(end, "to"), "cash": _cash(settings),
        "currency": market.currency if re.fullmatch(r"[A-Z0-9]{2,10}", market.currency) else "USD",
        "costs": {"fee_rate": settings.fee_percent / 100} if 0 <= settings.fee_percent < 100 else {},
        "fill_model": "gekko", "fill_options": {"config": _kept(config, settings)}})


def _instant(second: int, name: str) -> str:
    try:
        text = times.iso(times.instant(second * times.SECOND))
        times.parse(text)
    except (OverflowError, ValueError, WorkbenchError):
        raise Invalid("this date is far from all candles", field=f"backtest.daterange.{name}",
                      remedy="a number means milliseconds since 1970") from None
    return text


def _cash(settings: Settings) -> float:
    """What is shown as the capital; the worth of the asset held at the start is known only to the engine."""
    return settings.currency if 0 < settings.currency <= 1e12 else 1.0


def _kept(config: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    names = {*SECTIONS, settings.method}
    if settings.method == "varPPO":
        names |= {"PPO", str((config.get("varPPO") or {}).get("momentum"))} & METHODS.keys()
    return {name: value for name, value in config.items() if name in names}
