"""Notices to webhooks and people, against receivers on loopback: signed, retried, written down, once for each event."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from engine.errors import Forbidden, Invalid
from server.limits import RateLimiter
from server.services import deliveries as outbox
from server.services.deliveries import Deliveries, pause
from server.services.delivery_senders import Senders, Targets
from server.services.notices import TOPICS
from server.store.database import Database
from server.store.events import EventLog
from tests.harness import ServerProcess, new_database, running_server, until

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")]
ALERT = {"id": 7, "instrument": "STOCKS", "ticker": "AAPL", "duration_strategy": "short", "direction": "BUY",
         "start": 10.0, "target": 12.0, "stop": 9.0, "exit": None, "gain": None}
TOPIC_LIST = [topic for topic in TOPICS if topic != "test"]


class Receiver:
    """An HTTP server that keeps what it is sent and answers with `statuses` in turn, then with 200."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.statuses: list[int] = []
        self.headers = ""
        self.held: list[Any] | None = None  # a list: what waits for `release`
        [self._socket] = bind_sockets(0, "127.0.0.1")
        self.port = self._socket.getsockname()[1]
        self._server = HTTPServer(self._answer)
        self._server.add_sockets([self._socket])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/in/s3cret"

    def _answer(self, request: Any) -> None:
        self.requests.append(request)
        if self.held is None:
            self._finish(request)
        else:
            self.held.append(request)

    def release(self) -> None:
        held, self.held = self.held or [], None
        for request in held:
            self._finish(request)

    def _finish(self, request: Any) -> None:
        status = self.statuses.pop(0) if self.statuses else 200
        request.connection.stream.write(
            f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n{self.headers}\r\n".encode())
        request.connection.finish()

    def bodies(self) -> list[Any]:
        return [json.loads(request.body) for request in self.requests]

    async def stop(self) -> None:
        self._server.stop()
        await self._server.close_all_connections()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    yield receiver
    await receiver.stop()


@asynccontextmanager
async def working(database: Database, folder: Path, **options: Any) -> AsyncIterator[tuple[Deliveries, EventLog]]:
    events = EventLog(database)
    service = Deliveries(db=database, events=events, data_dir=folder, **options)
    await service.start()
    await until(lambda: _positions(database))  # events count from here
    try:
        yield service, events
    finally:
        await service.close()


async def _positions(database: Database) -> bool:
    return await database.read(lambda connection: connection.exec_driver_sql(
        "SELECT count(*) FROM positions").scalar()) == 2


async def tell(database: Database, events: EventLog, type: str = "working", **data: Any) -> None:
    await database.write(lambda connection: events.append(connection, "alerts", type, ALERT | data))


async def state_of(service: Deliveries, state: str, count: int = 1) -> list[Any]:
    async def found() -> list[Any] | None:
        page = await service.page(state=state)
        return page if len(page) >= count else None

    return await until(found)


async def test_a_webhook_is_signed_and_written_down(database: Database, tmp_path: Path, receiver: Receiver) -> None:
    async with working(database, tmp_path) as (service, events):
        channel, key = await service.create_channel("desk", "webhook", receiver.url, topics=TOPIC_LIST)
        await tell(database, events)
        [delivery] = await state_of(service, "delivered")
    [request] = receiver.requests
    told = json.loads(request.body)
    assert told["topic"] == "alert.working" and told["data"]["ticker"] == "AAPL" and told["id"] == "alerts:1"
    id, at = request.headers["webhook-id"], request.headers["webhook-timestamp"]
    secret = base64.b64decode(key.removeprefix("whsec_"))
    wanted = base64.b64encode(hmac.new(secret, f"{id}.{at}.".encode() + request.body, hashlib.sha256).digest())
    assert request.headers["webhook-signature"] == "v1," + wanted.decode()
    assert delivery.attempts == 1 and delivery.status == 200 and delivery.channel == channel.id


async def test_failures_are_tried_again_with_the_same_id(database: Database, tmp_path: Path, receiver: Receiver,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "FIRST", 0.01)
    receiver.statuses = [500, 302, 404]
    async with working(database, tmp_path) as (service, events):
        await service.create_channel("desk", "webhook", receiver.url, topics=["alert.closed"])
        await tell(database, events, "closed", exit=12.0, gain=2.0)
        [delivery] = await state_of(service, "delivered")
        whole = await service.delivery(delivery.id)
    assert [one.status for one in whole.tried] == [500, 302, 404, 200]
    assert [one.error is None for one in whole.tried] == [False, False, False, True]
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1


async def test_what_nobody_takes_is_dead_until_a_person_tries_again(database: Database, tmp_path: Path,
                                                                    receiver: Receiver,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "FIRST", 0.001)
    monkeypatch.setattr(outbox, "ATTEMPTS", 3)
    receiver.statuses = [500] * 3
    async with working(database, tmp_path) as (service, events):
        await service.create_channel("desk", "webhook", receiver.url, topics=["alert.working"])
        await tell(database, events)
        [delivery] = await state_of(service, "dead")
        assert delivery.attempts == 3 and "500" in (delivery.error or "")
        await service.retry(delivery.id)
        [delivery] = await state_of(service, "delivered")
        assert delivery.attempts == 1
        receiver.statuses = [410]
        await tell(database, events)
        [delivery] = await state_of(service, "dead")
        assert delivery.attempts == 1, "the receiver said that it is gone for good"


async def test_topics_and_filters_choose_and_a_switched_off_channel_hears_nothing(
        database: Database, tmp_path: Path, receiver: Receiver) -> None:
    async with working(database, tmp_path) as (service, events):
        await service.create_channel("stocks", "webhook", receiver.url, topics=["alert.working"],
                                     filters={"instruments": ["STOCKS"]})
        off, _ = await service.create_channel("off", "webhook", receiver.url, topics=TOPIC_LIST)
        await service.change_channel(off.id, enabled=False)
        await tell(database, events, instrument="FOREX")
        await tell(database, events, "onGoing")
        await tell(database, events, "remark")
        await tell(database, events, ticker="last")
        await state_of(service, "delivered")
        assert len(await service.page()) == 1
    assert [told["data"]["ticker"] for told in receiver.bodies()] == ["last"]


async def test_notices_of_one_channel_keep_their_order_and_the_rate(
        database: Database, tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "RateLimiter", partial(RateLimiter, clock=lambda: 0.0))  # time stands still
    async with working(database, tmp_path) as (service, events):
        slow, _ = await service.create_channel("slow", "webhook", receiver.url, topics=["alert.working"], rate=5)
        for number in range(8):
            await tell(database, events, ticker=f"T{number}")
        await state_of(service, "delivered", 5)
        await state_of(service, "pending", 3)
        assert len(await service.page(state="delivered")) == 5, "five a minute and no more"
        await service.change_channel(slow.id, rate=0)
        await state_of(service, "delivered", 8)
    assert [told["data"]["ticker"] for told in receiver.bodies()] == [f"T{number}" for number in range(8)]


async def test_a_reading_older_than_what_was_sent_meanwhile_sends_nothing_twice(
        database: Database, tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    async with working(database, tmp_path) as (service, events):
        read, written, waiting = database.read, asyncio.Event(), asyncio.Event()

        async def late(work: Any) -> Any:
            rows = await read(work)
            if receiver.requests and not written.is_set():  # the outbox as it was while the first notice was on its way
                waiting.set()
                await written.wait()
            return rows

        await service.create_channel("desk", "webhook", receiver.url, topics=["alert.working"])
        receiver.held = []
        monkeypatch.setattr(service._db, "read", late)
        await tell(database, events, ticker="A")
        await until(lambda: receiver.requests)
        await tell(database, events, ticker="B")
        await asyncio.wait_for(waiting.wait(), 60)
        receiver.release()
        await until(lambda: not service._sending.tasks)
        written.set()
        await state_of(service, "delivered", 2)
    assert [told["data"]["ticker"] for told in receiver.bodies()] == ["A", "B"]


async def test_each_event_gets_into_the_outbox_once_whatever_stops_in_between(
        database: Database, tmp_path: Path, receiver: Receiver) -> None:
    async with working(database, tmp_path) as (service, events):
        await service.create_channel("desk", "webhook", receiver.url, topics=["alert.working"])
        await tell(database, events, ticker="A")
        await state_of(service, "delivered")
    await tell(database, EventLog(database), ticker="B")  # while nobody delivers
    async with working(database, tmp_path) as (service, events), working(database, tmp_path) as (_, _):
        await tell(database, events, ticker="C")
        await state_of(service, "delivered", 3)
        assert len(await service.page()) == 3
    assert {told["data"]["ticker"] for told in receiver.bodies()} == {"A", "B", "C"}


async def test_an_attempt_that_two_make_at_once_is_written_down_once(tmp_path: Path, receiver: Receiver,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """On SQLite nobody claims a delivery: two services may send it, under one id for the receiver to tell."""
    monkeypatch.setattr(outbox, "LOOK", 0.05)
    receiver.held = []
    async with (Database(new_database(tmp_path / "workbench.sqlite")) as database,
                working(database, tmp_path) as (service, events), working(database, tmp_path)):
        await service.create_channel("desk", "webhook", receiver.url, topics=["alert.working"])
        await tell(database, events)
        await until(lambda: len(receiver.requests) == 2)
        receiver.release()
        [delivery] = await state_of(service, "delivered")
        assert delivery.attempts == len((await service.delivery(delivery.id)).tried) == 1
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1


async def test_people_are_told_through_apprise(database: Database, tmp_path: Path, receiver: Receiver) -> None:
    async with working(database, tmp_path) as (service, events):
        channel, key = await service.create_channel("me", "apprise", f"json://user:s3cret@127.0.0.1:{receiver.port}/in/x",
                                                    topics=["alert.working"])
        assert key == "" and "s3cret" not in channel.shown and "/in/x" not in channel.shown
        await tell(database, events)
        await state_of(service, "delivered")
        [told] = receiver.bodies()
        assert told["title"] == "AAPL: buy alert" and "start 10, target 12, stop 9" in told["message"]
        receiver.statuses = [500]
        tested = await service.test(channel.id)
        assert tested.state == "pending" and tested.error and "s3cret" not in tested.error
        assert (await service.test(channel.id)).state == "delivered"


async def test_addresses_are_sealed_at_rest(database: Database, tmp_path: Path) -> None:
    async with working(database, tmp_path) as (service, _):
        channel, key = await service.create_channel("desk", "webhook", "http://127.0.0.1:1/hook/s3cret?t=s3cret",
                                                    topics=["alert.working"])
        assert channel.shown == "http://127.0.0.1:1/…"
        row = await database.read(lambda connection: connection.exec_driver_sql("SELECT * FROM channels").one())
        assert "s3cret" not in str(row) and key.removeprefix("whsec_") not in str(row)
        assert (tmp_path / "channels.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("address", ["169.254.169.254", "fe80::1", "::ffff:169.254.169.254", "224.0.0.1", "0.0.0.0",
                                     "100.100.100.200", "fd00:ec2::254", "255.255.255.255"])
def test_addresses_of_clouds_and_links_are_refused(address: str) -> None:
    with pytest.raises(Forbidden):
        Targets().check(address)
    Targets([f"{address}/{32 if '.' in address and ':' not in address else 128}", "169.254.0.0/16"]).check(address)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.1.2.3", "192.168.1.1", "8.8.8.8", "2001:4860::1"])
def test_other_addresses_are_allowed(address: str) -> None:
    Targets().check(address)


async def test_the_address_that_is_connected_to_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    senders = Senders()
    with pytest.raises(Forbidden):
        senders.masked("webhook", "http://169.254.169.254/latest/meta-data")
    # A name that meant something else when the channel was made.
    outcome = await senders.webhook("http://169.254.169.254/x", "whsec_AAAA", "msg_1", "test", b"{}")
    assert not outcome.ok and outcome.final and "169.254.169.254" in outcome.error
    senders.close()


@pytest.mark.parametrize(("kind", "url"), [("webhook", "ftp://x/y"), ("webhook", "nonsense"), ("apprise", "what://x"),
                                           ("webhook", "http://a:b@host/"), ("webhook", "http://[/")])
async def test_wrong_addresses_are_refused(kind: str, url: str) -> None:
    senders = Senders()
    with pytest.raises(Invalid):
        await senders.off_loop(senders.masked, kind, url)
    senders.close()


def test_pauses_double_with_jitter_up_to_an_hour() -> None:
    assert all(1 <= pause(1) <= 2 and 16 <= pause(5) <= 32 and 1800 <= pause(30) <= 3600 for _ in range(100))
    assert len({pause(3) for _ in range(10)}) > 1 and pause(1, 90) == 90 and pause(1, 1e9) == 3600


async def test_over_the_api(tmp_path: Path, receiver: Receiver) -> None:
    async with running_server(tmp_path, rate_limit=0) as server, httpx.AsyncClient(
            base_url=server.url + "/workbench/api", timeout=60,
            headers={"Authorization": f"Bearer {server.services.admin_token}"}) as client:
        made = (await client.post("/channels", json={"name": "desk", "kind": "webhook", "url": receiver.url})).json()
        assert made["key"].startswith("whsec_") and "s3cret" not in str(made) and "test" not in made["topics"]
        answer = await client.post("/channels", json={"name": "x", "kind": "webhook", "url": "http://169.254.169.254/"})
        assert answer.status_code == 403 and "notice-networks" in answer.text
        assert (await client.post("/channels", json={"name": "x", "kind": "webhook", "url": "x"})).status_code == 422
        assert (await client.patch(f"/channels/{made['id']}", json={"topics": ["x"]})).status_code == 422
        tested = (await client.post(f"/channels/{made['id']}/test")).json()
        assert tested["state"] == "delivered" and tested["tried"][0]["status"] == 200 and tested["topic"] == "test"
        body = {"instrument": "STOCKS", "ticker": "AAPL", "durationStrategy": "long", "start": 10, "target": 12,
                "stop": 9}
        assert (await client.post("/alerts", json=body)).status_code == 201

        async def delivered() -> list[Any] | None:
            found = (await client.get("/deliveries?state=delivered")).json()["items"]
            return found if len(found) == 2 else None

        [newest, _] = await until(delivered)
        assert newest["topic"] == "alert.working" and newest["status"] == 200
        assert (await client.post(f"/deliveries/{newest['id']}/retry")).status_code == 409
        assert (await client.get("/deliveries/999")).status_code == 404
        assert (await client.get("/channels")).json()["items"][0].keys() >= {"url", "topics"}
        assert (await client.delete(f"/channels/{made['id']}")).status_code == 204
        assert (await client.get("/deliveries")).json()["items"] == []


async def test_kill_9_loses_no_notice(tmp_path: Path, receiver: Receiver) -> None:
    receiver.statuses = [503] * 2
    body = {"instrument": "STOCKS", "ticker": "AAPL", "durationStrategy": "long", "start": 10, "target": 12, "stop": 9}
    process = ServerProcess("--rate-limit", "0", "--api-only", data_dir=tmp_path, compute=False)
    await asyncio.to_thread(process.start)
    async with httpx.AsyncClient(base_url=process.url + "/workbench/api", headers=process.headers) as client:
        await client.post("/channels", json={"name": "desk", "kind": "webhook", "url": receiver.url})
        for number in range(5):
            assert (await client.post("/alerts", json=body | {"ticker": f"T{number}"})).status_code == 201
    await asyncio.to_thread(process.kill)
    await asyncio.to_thread(process.start)
    try:
        await until(lambda: {told["data"]["ticker"] for told in receiver.bodies()} >= {f"T{n}" for n in range(5)})
    finally:
        await asyncio.to_thread(process.stop)
