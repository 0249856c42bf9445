"""Live instances in words and rows."""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from engine import times
from workbench.views.live_rows import Row
from workbench.views.tiles import number

__all__ = ["COLUMNS", "KINDS", "clock", "millis", "named", "price", "row_of", "state_of", "title_of"]

KINDS: Final = {"watcher": "Watcher", "papertrader": "Paper trader", "tradebot": "Trade bot"}
COLUMNS: Final = [
    {"key": "name", "title": "Bot", "kind": "link"}, {"key": "kind", "title": "Type", "kind": "text"},
    {"key": "state", "title": "State", "kind": "state"}, {"key": "since", "title": "Since", "kind": "ago"},
    {"key": "profit", "title": "Profit", "kind": "percent"}, {"key": "trades", "title": "Trades", "kind": "number",
                                                              "digits": 0},
    {"key": "candle", "title": "Last candle", "kind": "text"},
    {"key": "advice", "title": "Last advice", "kind": "text"},
    {"key": "error", "title": "Error", "kind": "text"}]


def millis(at: Any) -> float | None:
    """An instant as milliseconds, as browsers have it."""
    return None if at is None or at == "" else times.micros(times.parse(at)) / 1000


def clock(at: Any) -> str:
    """An instant as `2024-01-31 14:30`; a dash for none."""
    return "–" if at is None else times.iso(times.parse(at))[:16].replace("T", " ")


def price(value: Any) -> str:
    """A price with as many digits as it needs."""
    if not isinstance(value, int | float) or value != value:
        return "–"
    return number(float(value), 2 if abs(value) >= 10 else 4 if abs(value) >= 0.1 else 8)


def named(exchanges: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Exchanges (by slug) to choose from: slugs by what to call them. Two may be of one kind, so of one name."""
    names = [entry["name"] for entry in exchanges.values()]
    return {entry["name"] if names.count(entry["name"]) == 1 else f"{entry['name']} ({slug})": slug
            for slug, entry in exchanges.items()}


def title_of(instance: Mapping[str, Any]) -> str:
    """What to call it."""
    return str(instance["strategy"] or "Watcher")


def state_of(instance: Mapping[str, Any]) -> tuple[str, str]:
    """Its state as a word and a tone."""
    if instance["state"] != "live":
        return str(instance["state"]), "bad" if instance["state"] == "failed" else "idle"
    if instance.get("silent_because"):
        return "hears nothing", "bad"
    return ("live", "good") if instance.get("candle") else ("starting", "unknown")


def row_of(instance: Mapping[str, Any]) -> Row:
    """An instance of a list as a row."""
    candle, advice = instance.get("candle") or {}, instance.get("advice") or {}
    report = instance.get("report") or {}
    state, title = state_of(instance), title_of(instance)
    trades = instance["kind"] != "watcher"
    return {
        "id": instance["id"], "name": title, "name_by": title.lower(), "under": instance["market"],
        "href": f"/bot?id={quote(instance['id'], safe='')}", "kind": KINDS.get(instance["kind"], instance["kind"]),
        "state": list(state), "state_by": state[0],
        "since": millis(instance["started_at"] if instance["state"] == "live" else instance["ended_at"]),
        "profit": None if report.get("relativeProfit") is None else report["relativeProfit"] / 100,
        "trades": instance["trades"] if trades else None,
        "candle": f"{clock(candle['start'])} · {price(candle['close'])}" if candle else "–",
        "advice": f"{advice['recommendation']} · {clock(advice.get('date'))}" if advice else "–",
        "error": str(instance.get("error") or instance.get("silent_because") or "")[:200],
        "find": f"{instance['id']} {title} {instance['market']} {instance['kind']} {state[0]}"}
