"""The desk by itself, with lines that are no connections: what a real one does too seldom to wait for."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from engine import times
from engine.model import Event
from server.dialects import tradingpartners_desk
from server.dialects.tradingpartners_desk import Desk
from server.services.credits import Credit
from tests.harness import until

pytestmark = pytest.mark.anyio


class FakeLine:
    """Keeps what it is sent; does something first when told to."""

    def __init__(self, id: int) -> None:
        self.account: Any = SimpleNamespace(id=id)
        self.position = 0
        self.blocks: list[bytes] = []
        self.first: Any = lambda: None

    def send(self, block: bytes) -> bool:
        self.first()
        self.blocks.append(block)
        return True

    async def drained(self) -> bool:
        return True

    def end(self, error: Exception | None) -> None:
        raise AssertionError(error)


async def test_a_line_that_falls_behind_while_an_event_is_handed_out_gets_it_once(
        monkeypatch: pytest.MonkeyPatch) -> None:
    event = Event(id=1, stream="alerts", seq=1, type="onGoing", at=times.now(), data={"id": 7})

    async def credits(*_: Any) -> dict[int, Credit]:
        return {1: Credit("one"), 2: Credit("two"), 7: Credit("two")}

    handed_out = asyncio.Event()

    async def page(stream: str, after: int, limit: int) -> list[Event]:
        await handed_out.wait()
        return [event] if after < event.seq else []

    desk = Desk(SimpleNamespace(  # type: ignore[arg-type]
        subscribers=SimpleNamespace(changed=[]), events=SimpleNamespace(page=page),
        credits=SimpleNamespace(of_alert=credits, of_account=credits)))
    monkeypatch.setattr(tradingpartners_desk, "TURN", 1)
    first, second = FakeLine(1), FakeLine(2)
    desk._position = 0
    desk._lines = {first: None, second: None}
    first.first = lambda: desk._catch_up(second)  # as a ping does to a reader that does not keep up
    await desk._give(event)
    handed_out.set()
    await until(lambda: desk._lines[second] is None)
    assert len(first.blocks) == len(second.blocks) == 1
