"""The alert stream's blocks, byte for byte.

    id: SEQ                     the event's number in the stream `alerts`; pings and errors have none
    event: NAME                 ping, working, aborted, onGoing, closed; error before the server ends the stream
    data: {…}                   one line of JSON
    (blank line)

Everything of an alert's event but the credit's token and state is the same for everybody, so it is encoded once.
"""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from engine import times
from engine.model import Event
from server.dialects.encoding import dumps

__all__ = ["ALERTS", "Block", "alert_json", "chunk", "error_block", "instant", "number", "ping_block"]

ALERTS: Final = frozenset({"working", "aborted", "onGoing", "closed"})
SETTLED: Final = ("aborted", "closed")


class Block:
    """An alert's event, ready for any credit."""

    __slots__ = ("alert", "duration", "head", "instrument", "name")

    def __init__(self, event: Event) -> None:
        data = event.data
        self.name = event.type
        self.alert = int(data["id"])
        self.instrument = str(data.get("instrument", ""))
        self.duration = str(data.get("duration_strategy", ""))
        told = dumps(_told(event.type, data))
        self.head = b"id: %d\nevent: %s\ndata: %s,\"token\":\"" % (event.seq, event.type.encode(), told[:-1])

    def of(self, token: str, state: str = "") -> bytes:
        """The block for who used this credit; `state`: what became of it, for events that end an alert."""
        if self.name in SETTLED:
            return b'%s%s","tokenState":"%s"}\n\n' % (self.head, token.encode(), state.encode())
        return b'%s%s"}\n\n' % (self.head, token.encode())


def _told(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """What an event says of its alert, in the order of the documented examples."""
    if name == "working":
        return {"durationStrategy": data["duration_strategy"], "id": int(data["id"]), "instrument": data["instrument"],
                "start": number(data["start"]), "startedAt": instant(data["detected_at"]), "stop": number(data["stop"]),
                "target": number(data["target"]), "ticker": data["ticker"]}
    if name == "closed":
        return {"id": int(data["id"]), "exit": number(data["exit"]), "gain": number(data["gain"]),
                "closedAt": instant(data["ended_at"])}
    return {"id": int(data["id"])}


def ping_block() -> bytes:
    """A ping with the time in nanoseconds, as the documented example has it."""
    now = time.time_ns()
    second = datetime.fromtimestamp(now // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f'event: ping\ndata: {{"ping":"{second}.{now % 10**9:09d}Z"}}\n\n'.encode()


def error_block(body: Mapping[str, Any]) -> bytes:
    """The last block of a stream that the server ends."""
    return b"event: error\ndata: %s\n\n" % dumps(body)


def chunk(block: bytes) -> bytes:
    """A block as HTTP/1.1 sends it when the length of the whole is not known (RFC 9112, section 7.1)."""
    return b"%x\r\n%s\r\n" % (len(block), block)


def number(value: Any) -> Any:
    """A price as JSON: whole ones without a fraction, as the documented examples have them."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def instant(value: Any) -> str | None:
    """RFC 3339 in UTC with milliseconds."""
    if value is None:
        return None
    at = value if isinstance(value, datetime) else times.parse(value)
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"


def alert_json(alert: Any) -> dict[str, Any]:
    """What lists say of an alert (`engine.alerts.Alert`)."""
    return {"id": alert.id, "ticker": alert.ticker, "instrument": alert.instrument,
            "durationStrategy": alert.duration_strategy, "direction": alert.direction, "start": number(alert.start),
            "target": number(alert.target), "stop": number(alert.stop), "exit": number(alert.exit),
            "gain": number(alert.gain), "status": status(alert.state, alert.gain),
            "startedAt": instant(alert.detected_at), "closedAt": instant(alert.ended_at)}


def status(state: str, gain: float | None) -> str:
    """ONMARK, ONGOING, WON, LOST or ABORTED."""
    if state == "closed":
        return "WON" if gain is not None and gain > 0 else "LOST"
    return {"working": "ONMARK", "onGoing": "ONGOING", "aborted": "ABORTED"}[state]
