"""What notices say: the topics that channels choose from, and words for people."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from engine import times
from engine.model import Event

__all__ = ["TOPICS", "chosen", "notice", "words"]

TOPICS: Final[Mapping[str, str]] = {
    "alert.working": "an alert was detected", "alert.onGoing": "an alert reached its start",
    "alert.closed": "an alert was closed", "alert.aborted": "an alert was invalidated",
    "rule.firing": "a rule on a bot holds", "rule.resolved": "it holds no longer", "test": "a test",
}
STREAMS: Final[Mapping[str, str]] = {"alerts": "alert", "rules": "rule"}
"""Streams whose events become notices, and what their topics begin with."""


def notice(event: Event) -> dict[str, Any] | None:
    """The JSON of an event's notice; None for an event that nobody is told of."""
    topic = f"{STREAMS.get(event.stream, '')}.{event.type}"
    if topic not in TOPICS:
        return None
    return {"topic": topic, "at": times.iso(event.at), "id": f"{event.stream}:{event.seq}", "data": dict(event.data)}


def chosen(topic: str, data: Mapping[str, Any], topics: Sequence[str], filters: Mapping[str, Sequence[str]]) -> bool:
    """Whether a channel with these topics and filters wants a notice. An empty filter lets everything through."""
    if topic not in topics:
        return False
    fields = (("instruments", "instrument"), ("durations", "duration_strategy")) if topic.startswith("alert.") else (
        ("rules", "rule"), ("models", "model"))
    return all(not filters.get(name) or data.get(field) in filters[name] for name, field in fields)


def words(told: Mapping[str, Any]) -> tuple[str, str]:
    """Title and text for people."""
    topic, data = told["topic"], told["data"]
    if topic.startswith("alert."):
        side = "Buy" if data.get("direction") == "BUY" else "Sell"
        levels = f"start {_price(data['start'])}, target {_price(data['target'])}, stop {_price(data['stop'])}"
        about = f"{data['instrument'].lower()}, {data['duration_strategy']}"
        if topic == "alert.closed":
            return (f"{data['ticker']}: alert closed at {_price(data['exit'])}",
                    f"{side}, gain {_price(data['gain'])}\n{levels}\n{about}")
        what = {"alert.working": f"{side.lower()} alert", "alert.onGoing": "alert has started",
                "alert.aborted": "alert aborted"}[topic]
        return f"{data['ticker']}: {what}", f"{levels}\n{about}"
    if topic.startswith("rule."):
        state = "" if topic == "rule.firing" else "Over: "
        return f"{state}{data['name']} ({data['model']})", str(data["message"])
    return "Test", "This channel works."


def _price(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) and abs(value) < 1e5 else f"{value}"
