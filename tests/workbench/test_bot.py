"""The bots' client: nothing it was told is lost or doubled, whoever dies, and no call waits for the network."""

import asyncio
import errno
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import workbench as wb
from engine.errors import Forbidden, Invalid, Unauthenticated, Unavailable
from tests.harness import ServerProcess, wait_until
from workbench.bot import Bot
from workbench.bot_spool import Spool

API = "/workbench/api"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess("--api-only", "--rate-limit", "0", data_dir=tmp_path_factory.mktemp("server"),
                       compute=False) as server:
        yield server


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def bot_of(server: ServerProcess, model: str, spool: Path, **more: Any) -> Bot:
    return Bot(model, url=server.url, token=server.token, spool=spool, **more)


def get(server: ServerProcess, path: str, **params: Any) -> Any:
    answer = httpx.get(server.url + API + path, params=params, headers=server.headers, timeout=60)
    answer.raise_for_status()
    return answer.json()


def lines_of(server: ServerProcess, model: str) -> list[str]:
    found, after = [], 0
    while after is not None:
        page = get(server, f"/models/{model}/logs", limit=1000, after=after)
        found += [each["line"] for each in page["items"]]
        after = page["next"]
    return found


def test_what_a_bot_says_arrives(server: ServerProcess, spool: Path) -> None:
    with bot_of(server, "speaker", spool) as bot:
        bot.started("ready")
        id = bot.order("BTC-USD", "buy", size=0.5, price=64_000, at="2026-01-01T00:00:00Z", strategy="grid")
        bot.order_update(id, status="done", filled=0.5)
        bot.annotate(id, "the line was crossed")
        bot.log("hello")
        bot.event("get_price", {"symbol": "BTC-USD"}, 64_000)
        bot.metrics(edge=0.25)
        bot.symbol("BTC-USD")
        bot.exchange("kraken")
        bot.pnl([("2026-01-01", 1.0), ("2026-01-02", 2.5)])
        bot.auto_pnl(False)
        bot.screener({"rank": 1})
        bot.flush()
        assert (bot.sent, bot.waiting, bot.dropped, list(bot.refused)) == (12, 0, 0, [])
    model = get(server, "/models/speaker")
    assert (model["running"], model["message"], model["orders"]) == (True, "ready", 1)
    assert (model["symbols"], model["exchanges"], model["auto_pnl"]) == (["BTC-USD"], ["kraken"], False)
    order = get(server, f"/models/speaker/orders/{id}")
    assert (order["status"], order["filled"], order["annotation"]) == ("done", 0.5, "the line was crossed")
    assert order["at"] == "2026-01-01T00:00:00.000000Z" and order["extra"]["strategy"] == "grid"
    assert lines_of(server, "speaker") == ["hello"]
    assert not any(spool.iterdir())  # nothing is left behind


def test_what_cannot_be_an_order_is_said_at_once(server: ServerProcess, spool: Path) -> None:
    with bot_of(server, "careful", spool) as bot:
        for wrong in ({"side": "buy"}, {"side": "buy", "size": 1, "funds": 1}, {"side": "hold", "size": 1},
                      {"side": "buy", "size": 1, "type": "iceberg"}):
            with pytest.raises(Invalid):
                bot.order("BTC-USD", **wrong)
        with pytest.raises(Invalid):
            bot.lifecycle(mood="good")
        assert bot.waiting == 0
    with pytest.raises(Invalid, match="model"):
        bot_of(server, "no spaces please", spool)
    with pytest.raises(RuntimeError, match="closed"):
        bot.log("too late")


def test_what_the_server_will_not_have_is_kept_aside_and_told(
        server: ServerProcess, spool: Path, caplog: pytest.LogCaptureFixture) -> None:
    with bot_of(server, "refused", spool) as bot:
        bot.log("before")
        bot.order("BTC-USD", "buy", size=-1)
        bot.log("after")
        bot.flush()
        assert (bot.sent, len(bot.refused), bot.refused[0]["field"]) == (2, 1, "size")
    assert lines_of(server, "refused") == ["before", "after"]
    assert "refused, the first for size" in caplog.text
    [aside] = spool.glob("*/refused.ndjson")
    assert json.loads(aside.read_text())["size"] == -1


@pytest.mark.parametrize("how", ["context", "flush", "check"])
def test_a_refused_token_is_a_clear_error(server: ServerProcess, spool: Path, how: str) -> None:
    if how == "context":
        with pytest.raises(Unauthenticated, match="refuses"), Bot("m", url=server.url, token="wrong", spool=spool):
            pytest.fail("it was let in")
        return
    bot = Bot("m", url=server.url, token="wrong", spool=spool)
    try:
        bot.log("kept for later")
        with pytest.raises(Unauthenticated, match="refuses") as caught:
            bot.flush() if how == "flush" else bot.check()
        assert "scope ingest" in caught.value.remedy
    finally:
        bot.close(0.0)
    with bot_of(server, "m", spool) as bot:  # with a better token nothing is lost
        bot.flush()
        assert bot.sent == 1


def test_a_token_that_may_only_read_is_refused_too(server: ServerProcess, spool: Path) -> None:
    made = httpx.post(f"{server.url}{API}/tokens", json={"name": "r", "scopes": ["read"]}, headers=server.headers)
    with (pytest.raises(Forbidden, match="ingest"),
          Bot("m", url=server.url, token=made.json()["token"], spool=spool)):
        pytest.fail("it was let in")


def test_entries_wait_while_the_server_is_away_and_arrive_in_order(tmp_path: Path, spool: Path) -> None:
    server = ServerProcess("--api-only", "--rate-limit", "0", data_dir=tmp_path / "data", compute=False).start()
    port, token = server.port, server.token
    try:
        bot = Bot("patient", url=server.url, token=token, spool=spool)
        said = 0

        def say(count: int) -> None:
            nonlocal said
            for _ in range(count):
                bot.log(said)
                said += 1

        say(100)
        bot.flush()
        for _ in range(2):
            say(3000)
            server.kill()  # in the middle of it
            say(3000)
            server = ServerProcess("--api-only", "--rate-limit", "0", data_dir=tmp_path / "data", port=port,
                                   compute=False).start()
            bot.flush(60)
        assert (bot.sent, bot.waiting, bot.error) == (said, 0, None)
        assert lines_of(server, "patient") == [str(number) for number in range(said)]
        bot.close()
    finally:
        server.stop()


SPEAKER = """
import sys
from workbench.bot import Bot
bot = Bot("mortal", url=sys.argv[1], token=sys.argv[2], spool=sys.argv[3])
for number in range(int(sys.argv[4]), 10**9):
    bot.log(number)
    print(number, flush=True)
"""


def test_a_killed_bots_words_arrive_once_and_in_order(server: ServerProcess, spool: Path) -> None:
    """What a call returned for is sent, at the next start if need be; the line after it may be."""
    said = 0
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", SPEAKER, server.url, server.token, str(spool), str(said)],
                                   stdout=subprocess.PIPE, text=True)
        assert process.stdout
        for line in process.stdout:
            if int(line) >= said + 2000:
                break
        process.send_signal(signal.SIGKILL)
        with process.stdout:
            rest = process.stdout.read()
        process.wait()
        last = int(rest.splitlines()[-2] if len(rest.splitlines()) > 1 else line)  # the last line may be torn
        with bot_of(server, "mortal", spool) as bot:
            bot.flush()
        found = lines_of(server, "mortal")
        assert found == [str(number) for number in range(len(found))]
        assert len(found) > last
        said = len(found)


def test_a_program_that_ends_leaves_nothing_unsaid(server: ServerProcess, spool: Path) -> None:
    program = ("import sys\nfrom workbench.bot import Bot\nbot = Bot('brief', url=sys.argv[1], token=sys.argv[2], "
               "spool=sys.argv[3])\nfor n in range(500): bot.log(n)\n")
    subprocess.run([sys.executable, "-c", program, server.url, server.token, str(spool)], check=True, timeout=240)
    assert lines_of(server, "brief") == [str(number) for number in range(500)]


def test_it_loads_no_faces() -> None:
    program = ("import sys, workbench.bot\nprint([name for name in ('panel', 'pandas', 'pydantic', 'tornado', "
               "'numpy', 'bokeh') if name in sys.modules])")
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          check=True).stdout.strip() == "[]"
    assert wb.Bot is Bot


def test_room_on_disk_is_bounded_and_orders_come_last_to_be_lost(
        spool: Path, caplog: pytest.LogCaptureFixture) -> None:
    bot = Bot("full", url="http://127.0.0.1:9", token="t", spool=spool, most=20_000)
    try:
        for _ in range(1000):
            bot.log("x" * 100)
        lost = bot.dropped
        assert 0 < lost < 1000 and bot.waiting == 1000 - lost
        bot.order("BTC-USD", "buy", size=1)
        assert bot.dropped == lost
        assert sum(path.stat().st_size for path in spool.glob("*/*.ndjson")) <= 20_000
        assert "the spool is full" in caplog.text
        with pytest.raises(Unavailable, match="did not reach"):
            bot.flush(0.2)
    finally:
        bot.close(0.0)


def test_two_bots_of_one_name_do_not_share_a_folder(server: ServerProcess, spool: Path) -> None:
    with bot_of(server, "twins", spool) as one, bot_of(server, "twins", spool) as two:
        for number in range(200):
            one.log(f"one {number}")
            two.log(f"two {number}")
    found = lines_of(server, "twins")
    for name in ("one", "two"):
        assert [line for line in found if line.startswith(name)] == [f"{name} {number}" for number in range(200)]


def test_what_a_twin_left_is_sent_by_the_next_of_its_name(server: ServerProcess, spool: Path) -> None:
    """Two at once, while the server is away; later there is only one."""
    away = [Bot("heir", url=server.url, token=server.token, spool=spool, transport=httpx.MockTransport(
        lambda request: httpx.Response(503))) for _ in range(2)]
    for number, bot in enumerate(away):
        bot.log(f"said by {number}")
    for bot in away:
        bot.close(0.0)
    assert len(list(spool.iterdir())) == 2
    with bot_of(server, "heir", spool) as bot:
        bot.log("said at last")
        bot.flush()
    assert sorted(lines_of(server, "heir")) == ["said at last", "said by 0", "said by 1"]
    assert list(spool.iterdir()) == []


@pytest.mark.parametrize("value", [
    "half \ud800 a character", 10**20, -(10**400), np.arange(10)[::2], np.array([1, "a", None], object),
    {(1, 2): 3, np.int64(4): 5}, {"deep": {"wei": 10**25}}, {1, "b"}, Decimal("NaN"), object(), b"\xff"], ids=[
    "half a character", "long integer", "long negative integer", "strided", "objects", "odd keys", "deep", "set",
    "decimal", "object", "bytes"])
def test_nothing_that_is_said_stops_the_program(server: ServerProcess, spool: Path, value: Any) -> None:
    with bot_of(server, "odd", spool) as bot:
        bot.log(value)
        bot.event("odd", value, {"value": value})
        id = bot.order("BTC-USD", "buy", size=1, price=5, odd=value)
        bot.flush()
        assert not bot.refused and bot.sent == 3
    assert get(server, f"/models/odd/orders/{id}")["size"] == 1


def test_a_value_within_itself_is_cut_off(server: ServerProcess, spool: Path) -> None:
    loop: list[Any] = []
    loop.append(loop)
    with bot_of(server, "round", spool) as bot:
        bot.event("odd", loop)
        bot.flush()
        assert not bot.refused and bot.sent == 1


@pytest.mark.parametrize("url", ["127.0.0.1:8888", "localhost:8888", "ws://127.0.0.1", "somewhere"])
def test_what_is_no_address_is_said_at_once(spool: Path, url: str) -> None:
    with pytest.raises(Invalid, match="http://"):
        Bot("m", url=url, token="t", spool=spool)


def test_nobody_waits_for_a_server_that_does_not_answer(spool: Path) -> None:
    go = threading.Event()

    def answer(request: httpx.Request) -> httpx.Response:
        go.wait(60)
        return httpx.Response(503)

    bot = Bot("m", url="http://127.0.0.1:9", token="t", spool=spool, transport=httpx.MockTransport(answer))
    for number in range(3000):
        bot.log(number)
    assert bot.waiting == 3000 and not go.is_set()
    go.set()
    bot.close(0.0)


def test_a_loop_is_not_held_up(server: ServerProcess, spool: Path) -> None:
    async def program() -> float:
        """Seconds of a processor that the slowest call took: it waits for nobody, as the test above shows."""
        slowest = 0.0
        async with bot_of(server, "loop", spool) as bot:
            for number in range(300):
                began = time.thread_time()
                bot.log(number)
                slowest = max(slowest, time.thread_time() - began)
                await asyncio.sleep(0)
            await bot.aflush()
            assert bot.sent == 300
        return slowest

    assert asyncio.run(program()) < 0.25


def test_a_programs_own_log_goes_along(server: ServerProcess, spool: Path) -> None:
    logger = logging.getLogger("tests.trading")
    with bot_of(server, "logger", spool) as bot:
        handler = bot.logging_handler(logging.WARNING)
        logger.addHandler(handler)
        try:
            logger.info("not this")
            logger.warning("spread is %d", 7)
            try:
                raise ValueError("no funds")
            except ValueError:
                logger.exception("order failed")
        finally:
            logger.removeHandler(handler)
        bot.flush()
    items = get(server, "/models/logger/logs")["items"]
    assert [(each["type"], each["line"].splitlines()[0]) for each in items] == [
        ("warning", "spread is 7"), ("error", "order failed")]
    assert "ValueError: no funds" in items[1]["line"]
    assert get(server, "/models/logger")["last_error"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_trouble_of_the_server_is_waited_out(spool: Path, status: int) -> None:
    """Every batch is tried again with the same words under the same key."""
    seen: list[tuple[str, bytes]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/me"):
            return httpx.Response(200, json={"scopes": ["ingest"]})
        seen.append((request.headers["Idempotency-Key"], request.content))
        if len(seen) < 4:
            return httpx.Response(status, headers={"Retry-After": "0"})
        return httpx.Response(200, json={"accepted": request.content.count(b"\n"), "errors": []})

    with Bot("m", url="http://127.0.0.1:9", spool=spool, transport=httpx.MockTransport(answer)) as bot:
        bot.log("once")
        bot.flush(10)
        assert bot.sent == 1
    assert len(seen) == 4 and len(set(seen)) == 1


# -- the spool


def drain(spool: Spool, **more: int) -> list[bytes]:
    found = []
    while batch := spool.next(most_bytes=more.get("most_bytes", 10**6), most_lines=more.get("most_lines", 10**6)):
        found += batch.body.splitlines()
        spool.done(batch)
    return found


def test_a_spool_goes_on_where_it_was_with_the_same_batch(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment=200)
    said = [b"line %d" % number for number in range(100)]
    for line in said:
        assert spool.append(line)
    first = spool.next(most_bytes=10**6, most_lines=7)
    assert first is not None and first.count == 7
    spool.done(first)
    second = spool.next(most_bytes=10**6, most_lines=5)
    spool.append(b"line 100")
    assert second is not None
    spool.close()  # the process ends before the answer
    again = Spool(tmp_path, segment=200)
    assert again.waiting == 94
    third = again.next(most_bytes=10, most_lines=1)
    assert third is not None and (third.key, third.body) == (second.key, second.body)
    assert drain(again, most_bytes=64) == [*said[7:], b"line 100"]
    again.close()
    assert not tmp_path.exists()


def test_a_file_that_cannot_be_made_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many open files, or a full disk, when the next file is due."""
    spool = Spool(tmp_path, segment=10)
    assert spool.append(b"fills the first")
    open_ = os.open

    def full(path: Any, *args: Any) -> int:
        if str(path).endswith("00000002.ndjson"):
            raise OSError(errno.EMFILE, "Too many open files")
        return open_(path, *args)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", full)
        for _ in range(3):
            with pytest.raises(OSError, match="Too many"):
                spool.append(b"lost")
    assert spool.append(b"kept") and drain(spool) == [b"fills the first", b"kept"]
    spool.close()


def test_a_signal_handler_may_report_while_its_thread_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path)
    write = os.write

    def interrupted(file: int, data: bytes) -> int:
        written = write(file, data)
        if data == b"first\n":
            spool.append(b"the end")
        return written

    monkeypatch.setattr(os, "write", interrupted)
    thread = threading.Thread(target=spool.append, args=(b"first",), daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive() and spool.waiting == 2
    assert drain(spool) == [b"first", b"the end"]
    spool.close()


def test_half_a_line_at_the_end_is_cut_off(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(b"whole")
    spool.close()
    [path] = tmp_path.glob("*.ndjson")
    with path.open("ab") as file:
        file.write(b"hal")
    again = Spool(tmp_path)
    again.append(b"next")
    assert drain(again) == [b"whole", b"next"]
    again.close()


def test_a_long_line_goes_alone_and_a_large_batch_is_halved(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for line in (b"x" * 5000, b"a", b"b", b"c"):
        spool.append(line)
    batch = spool.next(most_bytes=100, most_lines=10)
    assert batch is not None and batch.count == 1
    assert not spool.shrink(batch)
    spool.done(batch)
    batch = spool.next(most_bytes=100, most_lines=10)
    assert batch is not None and batch.count == 3 and spool.shrink(batch)
    assert drain(spool) == [b"a", b"b", b"c"]
    spool.close()


def test_a_folder_is_used_by_one_at_a_time(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with pytest.raises(BlockingIOError):
        Spool(tmp_path)
    spool.close()
    Spool(tmp_path).close()


def test_a_disk_that_lost_the_end_does_not_reuse_keys(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(b"one")
    spool.append(b"two")
    before = spool.next(most_bytes=100, most_lines=10)
    spool.close()
    [path] = tmp_path.glob("*.ndjson")
    path.write_bytes(b"one\n")
    again = Spool(tmp_path)
    after = again.next(most_bytes=100, most_lines=10)
    assert before is not None and after is not None
    assert after.body == b"one\n" and after.key.partition("-")[0] != before.key.partition("-")[0]
    wait_until(lambda: again.waiting == 1)
    again.close()
