"""The store under attack: killed writers, full disks, writers at once, readers meanwhile, many markets."""

import os
import signal
import subprocess
import sys
import threading
import time as clock
from pathlib import Path

import numpy as np
import pytest

from engine import times
from engine.candle_store import CandleStore
from engine.candles import Candles
from engine.errors import Unavailable
from engine.model import Market
from tests.harness import wait_until

MARKET = Market("demo", "XBT", "USD")
JANUARY = times.micros(times.parse("2020-01-01"))
ROOT = Path(__file__).parents[2]


def bars(n: int, *, start: int = JANUARY, value: float = 1.0, market: Market = MARKET) -> Candles:
    price = np.full(n, value)
    return Candles(market=market, resolution=60, time=start + np.arange(n, dtype=np.int64) * times.MINUTE,
                   open=price, high=price, low=price, close=price, volume=price)


FOREVER = """
import sys
from pathlib import Path
import numpy as np
from engine.candle_store import CandleStore
from engine.candles import Candles
from engine.model import Market
store, n = CandleStore(Path(sys.argv[1])), int(sys.argv[2])
value = 2.0
while True:
    price = np.full(n, value)
    store.write(Candles(market=Market("demo", "XBT", "USD"), resolution=60, open=price, high=price, low=price,
                        close=price, volume=price, time=int(sys.argv[3]) + np.arange(n, dtype=np.int64) * 60_000_000),
                overwrite=True)
    print(value, flush=True)
    value += 1
"""


def test_a_killed_writer_leaves_whole_files_and_no_lock(tmp_path: Path) -> None:
    store = CandleStore(tmp_path)
    n = 3 * 31 * 1440
    store.write(bars(n))
    for pause in (0.0, 0.01, 0.03):
        writer = subprocess.Popen([sys.executable, "-c", FOREVER, str(tmp_path), str(n), str(JANUARY)], cwd=ROOT,
                                  stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        writer.stdout.readline()  # one write is through, the next is under way
        clock.sleep(pause)
        writer.send_signal(signal.SIGKILL)
        writer.wait(60)
        writer.stdout.close()
        read = store.read(MARKET, 60)
        assert len(read) == n
        months = read.time.view("datetime64[us]").astype("datetime64[M]")
        for month in np.unique(months):
            assert len(np.unique(read.close[months == month])) == 1  # each file is of one write
        assert store.datasets()[0].rows == n
    started = clock.monotonic()
    store.write(bars(n, value=-1.0), overwrite=True)  # the dead writer's lock is free, its leavings are swept away
    assert clock.monotonic() - started < 30
    assert set(store.read(MARKET, 60).close) == {-1.0}
    assert [path.name for path in tmp_path.rglob("*") if path.suffix == ".tmp"] == []


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path) -> None:
    """A limit on file size stands for the full disk: the system refuses the write in the same way."""
    store = CandleStore(tmp_path)
    store.write(bars(100))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
    code = f"""
import resource, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
import numpy as np
from engine.candle_store import CandleStore
from engine.candles import Candles
from engine.errors import Unavailable
from engine.model import Market
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
noise = np.random.default_rng(1).normal(100, 1, 200_000)
candles = Candles(market=Market("demo", "XBT", "USD"), resolution=60, open=noise, high=noise, low=noise, close=noise,
                  volume=noise, time={JANUARY} - 40_000 * 60_000_000 + np.arange(200_000) * 60_000_000)
store = CandleStore(Path({str(tmp_path)!r}))
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
try:
    store.write(candles, overwrite=True)
except Unavailable as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert "candles cannot be written: File too large" in done.stdout, done.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.parent.name == "1m"} == (
        before)
    assert store.write(bars(101)).added == 1


@pytest.mark.parametrize("place", ["file", "file/candles"])
def test_a_file_where_the_folder_should_be_is_told(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(Unavailable, match="cannot be written"):
        CandleStore(tmp_path / place).write(bars(3))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(Unavailable, match="cannot be written"):
            CandleStore(tmp_path).write(bars(3))
    finally:
        tmp_path.chmod(0o700)


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    """Eight threads with a store each (as processes have), every second bar twice."""
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            store = CandleStore(tmp_path)
            for step in range(6):
                store.write(bars(20, start=JANUARY + (number * 6 + step) * 10 * times.MINUTE))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    read = CandleStore(tmp_path).read(MARKET, 60)
    assert len(read) == 8 * 6 * 10 + 10 and (np.diff(read.time) == times.MINUTE).all()


def test_a_writing_process_is_waited_for(tmp_path: Path) -> None:
    store = CandleStore(tmp_path)
    writer = subprocess.Popen([sys.executable, "-c", FOREVER, str(tmp_path), "5000", str(JANUARY)], cwd=ROOT,
                              stdout=subprocess.DEVNULL)
    try:
        wait_until(store.markets, timeout=60)
        for number in range(10):
            assert store.write(bars(1, start=JANUARY - (number + 1) * times.MINUTE)).added == 1
            assert len(set(store.read(MARKET, 60, JANUARY).close)) == 1
        assert len(store.read(MARKET, 60, end=JANUARY - 1)) == 10
    finally:
        writer.kill()
        writer.wait(60)


def test_deleting_while_reading_gives_all_or_nothing(tmp_path: Path) -> None:
    from engine.errors import NotFound

    store = CandleStore(tmp_path)
    stop = threading.Event()
    seen: set[int | str] = set()

    def read() -> None:
        reader = CandleStore(tmp_path)
        while not stop.is_set():
            try:
                seen.add(len(reader.read(MARKET, 60)))
            except NotFound:
                seen.add("none")
            except BaseException as error:
                seen.add(repr(error))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for _ in range(15):
            store.write(bars(200))
            store.delete(MARKET, 60)
    finally:
        stop.set()
        thread.join()
    assert seen <= {200, "none"}


def test_a_hundred_markets_are_scanned_quickly(tmp_path: Path) -> None:
    store = CandleStore(tmp_path)
    for number in range(100):
        store.write(bars(3, market=Market("demo", f"A{number}", "USD")))
    assert len(store.datasets()) == 100
    fastest = 9.0
    for _ in range(5):
        started = clock.process_time()
        store.datasets()
        fastest = min(fastest, clock.process_time() - started)
    assert fastest < 0.05
