"""Live instances as Gekko's clients know them: states, messages, the configuration that is merged under theirs."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from engine import times
from engine.model import Event, Market
from server.services.instance_rows import LISTED, Instance

__all__ = ["BASE", "error_text", "instance_message", "merged", "replay_capabilities",
           "state_of"]

BASE: Final[Mapping[str, Any]] = {
    "silent": False, "debug": True, "tradingAdvisor": {}, "candleWriter": {"enabled": False},
    "backtestResultExporter": {"enabled": False, "writeToDisk": False, "data": {
        "stratUpdates": False, "roundtrips": True, "stratCandles": True, "trades": True}},
    "childToParent": {"enabled": True}, "adapter": "sqlite",
    "sqlite": {"path": "plugins/sqlite", "version": 0.1, "dataDirectory": "history", "journalMode": "WAL",
               "dependencies": [{"module": "sqlite3", "version": "3.1.4"}]},
    "adviceWriter": {"enabled": False, "muteSoft": True}, "backtest": {"daterange": "scan", "batchSize": 50},
    "importer": {"daterange": {"from": "2016-06-01 12:00:00"}},
}
"""What Gekko's server merges under every configuration. Its settings of other databases are left out."""

_ENDS: Final = {"created": "gekko_new", "stopped": "gekko_stopped", "failed": "gekko_error",
                "archived": "gekko_archived"}


def merged(base: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` over `base`: objects by key, lists by index; null overrides."""
    found = dict(base)
    for name, value in config.items():
        below = found.get(name)
        if isinstance(value, Mapping):
            found[name] = merged(below if isinstance(below, Mapping) else {}, value)
        elif isinstance(value, list) and isinstance(below, list):
            found[name] = value + below[len(value):]
        else:
            found[name] = value
    return found


def error_text(error: str | None) -> str:
    """A reason as Gekko writes it."""
    return f"\n ERROR: {error}\n"


def replay_capabilities(markets: Sequence[Market]) -> list[dict[str, Any]]:
    """The exchange "replay" among the others, as far as there is something to be played."""
    if not markets:
        return []
    return [{
        "name": "Replay of stored candles", "slug": "replay", "tradable": False, "requires": [],
        "currencies": sorted({each.currency for each in markets}), "assets": sorted({each.asset for each in markets}),
        "markets": [{"pair": [each.currency, each.asset], "minimalOrder": {"amount": 0, "unit": "asset"}}
                    for each in markets],
        "providesHistory": False, "providesFullHistory": False, "tid": "date", "fetchTimespan": 60}]


def _milliseconds(at: Any) -> str:
    return times.instant(times.micros(at)).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def state_of(instance: Instance) -> dict[str, Any]:
    """An instance's state as GET /api/gekkos shows it."""
    events: dict[str, Any] = {"initial": instance.initial, "latest": instance.latest}
    events |= {name: instance.lists[name] for name in LISTED if name in instance.lists}
    state = _state(instance.id, instance.kind, instance.config, _milliseconds(instance.started_at), events)
    failed = instance.state == "failed"
    state |= {"active": instance.live, "stopped": not instance.live, "errored": failed,
              "errorMessage": error_text(instance.error) if failed else False}
    if instance.updated_at is not None:
        state["latestUpdate"] = _milliseconds(instance.updated_at)
    return state


def _state(id: str, kind: str, config: Mapping[str, Any], start: str, events: Mapping[str, Any]) -> dict[str, Any]:
    market = config.get("market")
    type = "watcher" if kind == "watcher" else str((market or {}).get("type", "leech"))
    return {"mode": "realtime", "config": config, "id": id, "type": type, "logType": kind, "active": True,
            "stopped": False, "errored": False, "errorMessage": False, "events": events, "start": start}


def instance_message(event: Event) -> dict[str, Any]:
    """The message that tells clients of an instance's event."""
    id = event.stream.partition("/")[2]
    kind = _ENDS.get(event.type)
    if kind is None:
        return {"type": "gekko_event", "id": id, "event": {"type": event.type, "payload": event.data.get("payload")}}
    message: dict[str, Any] = {"type": kind, "id": id}
    if kind == "gekko_new":
        started = times.parse(event.data["started_at"])
        message["state"] = _state(id, event.data["kind"], event.data["config"], _milliseconds(started),
                                  {"initial": {}, "latest": {}})
    elif kind == "gekko_error":
        message["error"] = error_text(event.data.get("error"))
    return message
