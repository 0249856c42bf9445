"""Blankly's words for what bots report.

    wire                                               here
    projectid | PROJECT_ID | api_key                   project
    modelid | MODEL_ID | model_id                      Entry.model
    versionid                                          OrderPlaced.version
    time (header)                                      Entry.at
    backtesting + backtestingid (headers)              Entry.run
    startAt | start_at, endAt | end_at                 Lifecycle.started_at, ended_at
    spot-market, spot-limit, spot-stop                 OrderPlaced.type
    active | activate                                  OrderPlaced.activate
    executed_time, canceled_time                       OrderPlaced.executed_at, canceled_at
    used-symbol, used-exchange                         UsedSymbol, UsedExchange
    live/event                                         Call
    set-custom-metric, set-pnl, auto-pnl               CustomMetrics, PnlSeries, AutoPnl

Known disagreements: `exchange` is optional here, as the first clients leave it out; a limit order with an activation
price is a stop order, as one kit sends it; an empty object of arguments does not arrive at all, so it may be missing.
A limit or stop order that says nothing of its state is done: the first clients report what was done and cannot say
more, the later ones say a `status` of what is open.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from engine import times
from engine.activity import (
    AnnotationChange,
    AutoPnl,
    Call,
    CustomMetrics,
    Entry,
    Lifecycle,
    LogLine,
    OrderChange,
    OrderPlaced,
    PnlSeries,
    ScreenerResult,
    UsedExchange,
    UsedSymbol,
)
from engine.errors import Invalid
from server.dialects.blankly_body import Fields, number_of
from server.dialects.blankly_dates import NUMBER, instant_of
from server.dialects.routes import Route

__all__ = ["ENTRIES", "switch_of"]

Words = Mapping[str, Any]
_KINDS: Final = {"spot-market": "market", "spot-limit": "limit", "spot-stop": "stop", "market": "market",
                 "limit": "limit", "stop": "stop"}
_ORDER: Final = frozenset({
    "symbol", "size", "funds", "id", "side", "price", "annotation", "exchange", "active", "activate", "status",
    "executed_time", "canceled_time", "executed_at", "canceled_at", "filled", "fee", "fee_currency", "time", "type"})
_RENAMED: Final = {"executed_time": "executed_at", "canceled_time": "canceled_at", "active": "activate"}
_NUMBERS: Final = frozenset({"size", "funds", "price", "activate", "filled", "fee"})


def switch_of(text: str, field: str) -> bool:
    return bool(Fields({field: text}).switch(field))


def _lifecycle(fields: Fields, words: Words) -> Entry:
    given: dict[str, Any] = {}
    if fields.has("message"):
        message = fields.text("message")
        given["message"] = None if message in ("null", "undefined") else message  # a form has no other way to reset it
    for name, aliases in (("started_at", ("startAt", "start_at", "started_at")),
                          ("ended_at", ("endAt", "end_at", "ended_at"))):
        if fields.has(*aliases):
            said = next(alias for alias in aliases if fields.has(alias))
            value = fields.instant(*aliases)
            given[name] = None if value is None else times.iso(times.parse(_plain(value), field=said))
    if fields.has("running"):
        given["running"] = fields.switch("running")
    return Lifecycle(**words, **given)


def _plain(value: Any) -> Any:
    """A time as text that is a number, as the number."""
    return float(value) if isinstance(value, str) and NUMBER.fullmatch(value.strip()) else value


def _order(kind: str) -> Callable[[Fields, Words], Entry]:
    def make(fields: Fields, words: Words) -> Entry:
        symbol, id, side = fields.needed_text("symbol"), fields.needed_text("id"), fields.needed_text("side")
        size, funds = fields.number("size"), fields.number("funds")
        if size is None and funds is None:
            raise Invalid("Missing required argument: size or funds", field="size", remedy="send one of them")
        activate = fields.number("active", "activate")
        actual = "stop" if kind == "limit" and activate is not None else kind
        price = fields.number("price")
        if price is None and actual != "market":
            raise Invalid("Missing required argument: price", field="price", remedy="send the limit price")
        if actual == "stop" and activate is None:
            raise Invalid("Missing required argument: active", field="active",
                          remedy="send the price that activates the order, as active or activate")
        words = dict(words)
        if words.get("at") is None and (at := fields.instant("time")) is not None:
            words["at"] = instant_of(str(at))
        executed = _when(fields, "executed_time", "executed_at")
        canceled = _when(fields, "canceled_time", "canceled_at")
        status, filled = fields.text("status"), fields.number("filled")
        if actual != "market" and (status, filled, executed, canceled) == (None,) * 4:
            status = "done"
        return OrderPlaced(
            **words, id=id, symbol=symbol, side=side.strip().lower(), type=actual,
            exchange=fields.text("exchange") or "", size=size, funds=funds, price=price, activate=activate,
            filled=filled, status=status, executed_at=executed, canceled_at=canceled, fee=fields.number("fee"),
            fee_currency=fields.text("fee_currency") or "", annotation=fields.text("annotation"),
            extra={name: value for name, value in fields.values.items() if name not in _ORDER})

    return make


def _when(fields: Fields, *names: str) -> Any:
    value = fields.instant(*names)
    return None if value is None else instant_of(str(value), names[0])


def _update_trade(fields: Fields, words: Words) -> Entry:
    id = fields.needed_text("id")
    changes: dict[str, Any] = {}
    for name, value in fields.values.items():
        known = _RENAMED.get(name, name)
        if name == "id":
            continue
        if known in ("executed_at", "canceled_at"):
            value = None if fields.instant(name) is None else instant_of(str(value), name)
        elif known in _NUMBERS:
            value = number_of(value, name)
        elif known == "type" and str(value) in _KINDS:
            value = _KINDS[str(value)]
        elif known == "side" and value is not None:
            value = str(value).strip().lower()
        elif known in ("symbol", "exchange", "status", "fee_currency", "annotation") and value is not None:
            value = fields.text(name)
        elif known in ("type", "kind", "version", "at", "model", "run", "extra"):
            changes.setdefault("extra", {})[name] = value  # their word, not ours
            continue
        changes[known] = value
    return OrderChange(**_of(words, "model", "at", "run"), id=id, changes=changes)


def _of(words: Words, *names: str) -> dict[str, Any]:
    return {name: words[name] for name in names if name in words}


def _event(fields: Fields, words: Words) -> Entry:
    args, response = fields.free("args"), fields.free("response")
    return Call(**words, type=fields.needed_text("type"), args={} if args is None else args,
                response={} if response is None else response, annotation=fields.text("annotation"))


def _log(fields: Fields, words: Words) -> Entry:
    return LogLine(**words, line=fields.needed_text("line"), type=fields.text("type") or "stdout")


def _symbol(fields: Fields, words: Words) -> Entry:
    return UsedSymbol(**words, symbol=fields.needed_text("symbol"))


def _exchange(fields: Fields, words: Words) -> Entry:
    return UsedExchange(**words, exchange=fields.needed_text("exchange"))


def _annotation(fields: Fields, words: Words) -> Entry:
    return AnnotationChange(**words, id=fields.needed_text("id"), annotation=fields.needed_text("annotation"))


def _auto_pnl(fields: Fields, words: Words) -> Entry:
    fields.need("enabled")
    enabled = fields.switch("enabled")
    if enabled is None:
        raise Invalid("Missing required argument: enabled", field="enabled", remedy="send true or false")
    return AutoPnl(**words, enabled=enabled)


def _set_pnl(fields: Fields, words: Words) -> Entry:
    fields.need("values")
    values = fields.free("values")
    if not isinstance(values, list) or not all(isinstance(point, Mapping) for point in values):
        raise Invalid("values are a list of points", field="values", remedy='send [{"time": 1644682832, "value": 10}]')
    points = [{"time": _plain(point.get("time")), "value": number_of(point.get("value"), f"values[{index}].value")}
              for index, point in enumerate(values)]
    return PnlSeries(**words, values=[  # a gap, as NaN or null, is no point
        point for point, said in zip(points, values, strict=True) if point["value"] is not None or "value" not in said])


def _metrics(fields: Fields, words: Words) -> Entry:
    fields.need("metrics")
    metrics = fields.free("metrics")
    if isinstance(metrics, str):
        metrics = [metrics]
    if isinstance(metrics, list):  # names only: that is all a form carries of an object
        metrics = {str(name): None for name in metrics}
    if not isinstance(metrics, dict):
        raise Invalid("metrics are an object", field="metrics", remedy='send {"name": {"value": 1, "type": "number"}}')
    return CustomMetrics(**words, metrics=metrics)


def _screener(fields: Fields, words: Words) -> Entry:
    fields.need("result")
    return ScreenerResult(**words, result=fields.free("result"))


ENTRIES: Final[Mapping[str, Callable[[Fields, Words], Entry]]] = {
    "/v1/model/lifecycle": _lifecycle, "/v1/model/used-symbol": _symbol, "/v1/model/used-exchange": _exchange,
    "/v1/live/event": _event, "/v1/live/spot-market": _order("market"), "/v1/live/spot-limit": _order("limit"),
    "/v1/live/spot-stop": _order("stop"), "/v1/live/update-trade": _update_trade,
    "/v1/live/update-annotation": _annotation, "/v1/live/log": _log, "/v1/live/auto-pnl": _auto_pnl,
    "/v1/live/set-pnl": _set_pnl, "/v1/live/set-custom-metric": _metrics, "/v1/live/screener-result": _screener,
}
"""What a route's body says, by path: (fields, what the headers say) -> entry."""


def with_errors(found: list[Route]) -> list[Route]:
    """The routes with the form of their errors: a text, which Blankly's clients print, and what is wrong with which
    field."""
    schema = {"type": "object", "required": ["error"], "properties": {
        "error": {"type": "string"}, "field": {"type": "string"}, "remedy": {"type": "string"},
        "code": {"type": "string"}, "request_id": {"type": "string"}}}
    return [replace(route, options={"error_schema": schema, **route.options}) for route in found]
