"""One watch for all who look at a model, whoever they are, and for nobody who may not see it any more."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engine.errors import NotFound, Unauthenticated
from tests.harness import running_server, until
from workbench.client import AsyncClient
from workbench.views import model_watch
from workbench.views.model_watch import Ear, watching

pytestmark = pytest.mark.anyio


@pytest.fixture
async def owner(tmp_path: Path) -> AsyncIterator[AsyncClient]:
    async with (running_server(tmp_path, rate_limit=0) as server,
                AsyncClient(server.url, server.services.admin_token) as client):
        await say(client, "first")
        yield client


async def say(client: AsyncClient, line: str) -> None:
    await client.record([{"kind": "call", "type": line}, {"kind": "log", "line": line}], model="m")


async def reader(owner: AsyncClient, name: str) -> tuple[AsyncClient, str]:
    """Somebody else's client over the same connections, and their token's id."""
    made = await owner.create_token(name, ["read"])
    return owner.speaking_as({"Authorization": f"Bearer {made['token']}"}), made["id"]


async def collect(ear: Ear, found: list[str]) -> None:
    while True:
        await ear.wait()
        events, lines = ear.take()
        found += [event.data["type"] for event in events if event.type == "call"]
        found += [line.data["line"] for line in lines]


async def test_people_share_a_watch_and_one_of_them_less_changes_nothing(
        owner: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_watch, "REST", 0.05)
    (one, one_id), (two, _) = await reader(owner, "one"), await reader(owner, "two")
    watch: Any = watching(one, "m")
    assert watch is watching(two, "m")
    heard: dict[str, list[str]] = {"one": [], "two": []}
    async with watch.ear(one, 0, 0) as first, watch.ear(two, 0, 0) as second:
        tasks = [asyncio.create_task(collect(first, heard["one"])), asyncio.create_task(collect(second, heard["two"]))]
        await until(lambda: sorted(heard["one"]) == sorted(heard["two"]) == ["first", "first"])
        await owner.revoke_token(one_id)
        with pytest.raises(Unauthenticated):
            await tasks[0]
        await say(owner, "second")
        await until(lambda: sorted(heard["two"]) == ["first", "first", "second", "second"])
        assert heard["one"].count("second") == 0
        await until(lambda: second.model is not None and second.problem is None)
        tasks[1].cancel()
    assert not watch._tasks, "nobody looks, and it works on"


async def test_a_watch_whose_speaker_is_refused_speaks_with_anothers_credentials(owner: AsyncClient) -> None:
    nobody = owner.speaking_as({"Authorization": "Bearer wb_worthless"})
    watch = watching(owner, "m")
    heard: list[str] = []
    async with watch.ear(nobody, 0, 0) as refused, watch.ear(owner, 0, 0) as ear:
        collecting = asyncio.create_task(collect(ear, heard))
        with pytest.raises(Unauthenticated):
            await refused.wait()
        await until(lambda: sorted(heard) == ["first", "first"])
        collecting.cancel()


async def test_a_model_that_is_not_there_is_watched_by_nobody(owner: AsyncClient) -> None:
    async with watching(owner, "none").ear(owner, 0, 0) as ear:
        with pytest.raises(NotFound):
            await ear.wait()
        async with watching(owner, "none").ear(owner, 0, 0) as again:
            with pytest.raises(NotFound):
                await again.wait()


async def test_a_watch_begins_anew_after_everybody_left(owner: AsyncClient) -> None:
    watch: Any = watching(owner, "m")
    for count in (1, 2):
        heard: list[str] = []
        async with watch.ear(owner, 0, 0) as ear:
            collecting = asyncio.create_task(collect(ear, heard))
            await until(lambda heard=heard, count=count: len(heard) == 2 * count)
            collecting.cancel()
        await say(owner, "more")
