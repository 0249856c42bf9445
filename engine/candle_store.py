"""Candles in Parquet files: the folder is the truth.

    ROOT/{exchange}/{asset}+{currency}/{resolution}/2024-01.parquet   resolutions below an hour: a file a month
                                                    2024.parquet      below a day: a file a year
                                                    all.parquet       else: one file

`+` cannot occur in a market's parts, so two markets never share a folder. A file is written beside its place under
a hidden name, synced and renamed: a reader or a killed writer finds the old file or the new one. Writers of one market
wait for each other, across processes, on a lock file; readers never wait. A footer carries first, last and rows, so
that a scan opens no column; footers are remembered by (mtime, size, inode).
"""

import difflib
import errno
import fcntl
import hashlib
import logging
import os
import re
import shutil
import threading
import time as clock
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from engine import times
from engine.candle_parquet import (
    Footer,
    WriteReport,
    encode,
    load,
    load_all,
    load_time,
    merge,
    partition,
    read_footer,
)
from engine.candles import Candles, bucket_start
from engine.errors import Invalid, NotFound, Unavailable, WorkbenchError
from engine.model import Market

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)
_PART: Final = re.compile(r"(?:\d{4}(?:-\d{2})?|all)\.parquet")
_LOCK_WAIT: Final = 60.0  # seconds
_LOOKS: Final = 5  # at files that others write meanwhile
_NO_DISK: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
                   errno.EMFILE, errno.ENFILE, errno.ENOTDIR, errno.EEXIST}


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """One market at one stored resolution (seconds). `first` and `last` are microseconds of the outer bars' opens."""

    market: Market
    resolution: int
    first: int
    last: int
    rows: int
    files: int
    bytes: int


class CandleStore:
    """Candles below one folder. Safe for many threads and processes at once; cheap to make."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._footers: dict[str, Footer] = {}
        self._catalogue = threading.Lock()

    # ---- reading -------------------------------------------------------------------------------------------------

    def markets(self) -> list[Market]:
        """Every market with a folder, in order of its key."""
        found = set()
        for exchange in _folders(self.root):
            for pair in _folders(self.root / exchange):
                asset, plus, currency = pair.partition("+")
                with suppress(Invalid):
                    if plus:
                        found.add(Market(exchange, asset, currency))
        return sorted(found)

    def datasets(self, market: Market | None = None) -> list[Dataset]:
        """What is stored, from footers only; of one market or of all. An unreadable file is left out and logged."""
        found = []
        for each in self.markets() if market is None else [market]:
            for resolution in self._resolutions(each):
                footers, size = [], 0
                for path, stamp in self._files(each, resolution).items():
                    try:
                        footers.append(self._footer(path, stamp))
                    except (Unavailable, FileNotFoundError) as error:
                        _log.warning("candle file left out of the scan: %s", error)
                        continue
                    size += stamp[1]
                if footers:
                    found.append(Dataset(
                        market=each, resolution=resolution, first=min(f.first for f in footers),
                        last=max(f.last for f in footers), rows=sum(f.rows for f in footers),
                        files=len(footers), bytes=size,
                    ))
        return found

    def resolve(self, text: str, *, field: str = "market") -> Market:
        """The stored market a person means: `demo:AAPL/USD`, `AAPL/USD`, `demo:AAPL` or `AAPL` where that is unique.

        Exact case is preferred, any case accepted. Raises `NotFound` with near names, `Invalid` when several fit.
        """
        known = self.markets()
        wanted = text.strip() if isinstance(text, str) else ""
        for fold in (str, str.casefold):
            fits = [market for market in known if fold(wanted) in {fold(name) for name in _names(market)}]
            if len(fits) == 1:
                return fits[0]
            if fits:
                raise Invalid(f"{text!r} fits several markets", field=field,
                              remedy="say which: " + ", ".join(m.key for m in fits[:8]))
        raise self._unknown(text, known, field)

    def stamp(self, market: Market) -> str:
        """A short text that changes whenever any candle file of the market changes; cheap, reads no file."""
        digest = hashlib.sha256()
        for resolution in self._resolutions(market):
            for path, stamp in self._files(market, resolution).items():
                digest.update(f"{resolution} {os.path.basename(path)} {stamp}\n".encode())
        return digest.hexdigest()[:32]

    def source(self, market: Market, resolution: int, start: int | None = None, end: int | None = None) -> int:
        """The stored resolution (seconds) from which `resolution` is served: itself, or else the finest that divides
        it; where divisors cover different spans of the range asked for, the one that covers most of it.

        Raises `NotFound` for a market without candles, `Invalid` naming `resolution` when none divides it.
        """
        stored = {dataset.resolution: dataset for dataset in self.datasets(market)}
        if not stored:
            raise self._unknown(market.key, self.markets(), "market")
        if resolution in stored:
            return resolution
        divisors = sorted(each for each in stored if resolution > each and resolution % each == 0)
        if not divisors:
            names = ", ".join(times.resolution_name(each) for each in sorted(stored))
            raise Invalid(
                f"{market.key} has no candles from which {times.resolution_name(resolution)} can be made",
                field="resolution", remedy=f"stored: {names}; ask for one of these or a multiple",
            )

        def covered(each: int) -> int:
            first, last = stored[each].first, stored[each].last + each * times.SECOND
            reach = min(last, last if end is None else end) - max(first, first if start is None else start)
            return max(0, reach) // (resolution * times.SECOND)

        return max(divisors, key=lambda each: (covered(each), -each))

    def read(self, market: Market, resolution: int, start: int | None = None, end: int | None = None) -> Candles:
        """The bars that open from `start` to `end` (microseconds, both inclusive), as writable arrays.

        A resolution that is not stored is resampled from `source()`; the bars at the edges of a range are whole.
        Raises `NotFound` for an unknown market, `Invalid` naming `resolution`, `start` or `end` when there is
        nothing, saying what is there.
        """
        if start is not None and end is not None and start > end:
            raise Invalid(f"{_say(start)} is after the end, {_say(end)}", field="start", remedy="give an earlier start")
        stored = self.source(market, resolution, start, end)
        low, high = start, end
        if stored != resolution:  # whole buckets only: from the first bucket that begins in the range ...
            width = resolution * times.SECOND
            if start is not None:
                below = int(bucket_start(np.array([start]), resolution)[0])
                low = below if below == start else below + width
            if end is not None:  # ... to the end of the last one that does
                high = int(bucket_start(np.array([end]), resolution)[0]) + width - 1
        candles = self._read(market, stored, low, high)
        if not len(candles):
            raise self._nothing(market, stored, start, end)
        return candles.resample(resolution)

    def time(self, market: Market, resolution: int) -> np.ndarray:
        """When the bars that are stored at this resolution open (int64 microseconds), without reading their prices.

        Raises `NotFound` when there are none.
        """
        for attempt in (1, 2):
            try:
                parts = [load_time(Path(path)) for path in self._files(market, resolution)]
                break
            except FileNotFoundError:  # deleted under our hands: look again
                if attempt == 2:
                    parts = []
        if not parts:
            raise self._unknown(market.key, self.markets(), "market")
        return np.concatenate(parts)

    # ---- writing -------------------------------------------------------------------------------------------------

    def write(self, candles: Candles, overwrite: bool = False) -> WriteReport:
        """Merge bars into what is stored; a bar that is there wins unless `overwrite`.

        The bars are checked as `Candles.checked` says. All files are prepared before the first is put in its place,
        so a full disk changes nothing. Returns when the bars are safe on disk. Raises `Invalid` for unusable bars,
        `Unavailable` when the disk is full or cannot be written, or another writer holds the market for a minute.
        """
        candles = candles.checked()
        if not len(candles):
            return WriteReport()
        folder = self._folder(candles.market, candles.resolution)
        added = kept = replaced = 0
        staged: list[tuple[Path, Path]] = []
        with _disk_errors(), self._locked(candles.market):
            folder.mkdir(parents=True, exist_ok=True)
            for stale in folder.glob(".*.tmp"):  # the lock is ours: whoever wrote these is dead
                stale.unlink(missing_ok=True)
            try:
                for name, part in partition(candles):
                    path = folder / f"{name}.parquet"
                    old = load(path, candles.market, candles.resolution) if path.exists() else None
                    merged, report = merge(old, part, overwrite)
                    added, kept, replaced = added + report.added, kept + report.kept, replaced + report.replaced
                    if report.added or report.replaced:
                        temporary = folder / f".{name}.{uuid.uuid4().hex}.tmp"
                        staged.append((temporary, path))
                        _write_synced(temporary, encode(merged))
                for temporary, path in staged:
                    os.replace(temporary, path)
                _sync_folder(folder)
            except BaseException:
                for temporary, _ in staged:
                    with suppress(OSError):
                        temporary.unlink(missing_ok=True)
                with suppress(OSError):
                    folder.rmdir()  # only when this write made it and failed: it is empty then
                raise
        return WriteReport(added=added, kept=kept, replaced=replaced, files=len(staged))

    def delete(self, market: Market, resolution: int | None = None) -> int:
        """Remove one stored resolution of a market, or all of them; the number of bars removed.

        Raises `NotFound` when there is nothing to remove.
        """
        rows = sum(d.rows for d in self.datasets(market) if resolution in (None, d.resolution))
        stored = self._resolutions(market)
        doomed = stored if resolution is None else [each for each in stored if each == resolution]
        if not doomed:
            if stored:
                names = ", ".join(times.resolution_name(each) for each in stored)
                raise NotFound(f"{market.key} is not stored at {times.resolution_name(resolution or 0)}",
                               field="resolution", remedy=f"stored: {names}")
            raise self._unknown(market.key, self.markets(), "market")
        with _disk_errors(), self._locked(market):
            trash = self.root / ".trash"
            trash.mkdir(exist_ok=True)
            for each in doomed:
                with suppress(FileNotFoundError):
                    os.rename(self._folder(market, each), trash / uuid.uuid4().hex)  # gone at once, for every reader
            with suppress(OSError):
                self._folder(market).rmdir()
            for name in _folders(trash):
                shutil.rmtree(trash / name, ignore_errors=True)
        return rows

    # ---- inside --------------------------------------------------------------------------------------------------

    def _folder(self, market: Market, resolution: int | None = None) -> Path:
        folder = self.root / market.exchange / f"{market.asset}+{market.currency}"
        return folder if resolution is None else folder / times.resolution_name(resolution)

    def _resolutions(self, market: Market) -> list[int]:
        found = []
        for name in _folders(self._folder(market)):
            with suppress(Invalid):
                seconds = times.resolution(name)
                if times.resolution_name(seconds) == name:
                    found.append(seconds)
        return sorted(found)

    def _files(self, market: Market, resolution: int) -> dict[str, tuple[int, int, int]]:
        """Path -> stamp of a dataset's files, in time order."""
        found = {}
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self._folder(market, resolution)) as entries:
            for entry in entries:
                if _PART.fullmatch(entry.name):
                    with suppress(FileNotFoundError):
                        status = entry.stat()
                        found[entry.path] = (status.st_mtime_ns, status.st_size, status.st_ino)
        return dict(sorted(found.items()))

    def _footer(self, path: str, stamp: tuple[int, int, int]) -> Footer:
        known = self._footers.get(path)
        if known is not None and known.stamp == stamp:
            return known
        footer = read_footer(path, stamp)
        with self._catalogue:
            if len(self._footers) > 100_000:
                self._footers.clear()
            self._footers[path] = footer
        return footer

    def _read(self, market: Market, resolution: int, start: int | None, end: int | None) -> Candles:
        for attempt in range(1, _LOOKS + 1):
            try:
                footers = {path: self._footer(path, stamp) for path, stamp in self._files(market, resolution).items()}
                wanted = {Path(path): footer.rows for path, footer in footers.items()
                          if (start is None or footer.last >= start) and (end is None or footer.first <= end)}
                return load_all(wanted, market, resolution).between(start, end)
            except FileNotFoundError:  # deleted or written again under our hands: look again
                if attempt == _LOOKS:
                    raise self._unknown(market.key, self.markets(), "market") from None
        raise AssertionError("the last look ends in an answer or in an error")

    @contextmanager
    def _locked(self, market: Market) -> Iterator[None]:
        """Alone among the writers of a market, in this process and every other; the kernel frees a dead one's lock."""
        folder = self.root / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{market.exchange}+{market.asset}+{market.currency}.lock"
        handle = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            until = clock.monotonic() + _LOCK_WAIT
            pause = 0.001
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if clock.monotonic() > until:
                        raise Unavailable(f"another process is writing {market.key}",
                                          remedy="try again when it has finished") from None
                    clock.sleep(pause)
                    pause = min(pause * 2, 0.05)
            yield
        finally:
            os.close(handle)  # frees the lock

    def _unknown(self, text: object, known: list[Market], field: str) -> NotFound:
        names = {name: market.key for market in known for name in _names(market)}
        near = difflib.get_close_matches(str(text)[:130], names, n=3, cutoff=0.5)
        keys = list(dict.fromkeys(names[name] for name in near)) or [market.key for market in known[:5]]
        remedy = "did you mean " + ", ".join(keys) + "?" if keys else "import candles first: workbench import FILE"
        return NotFound(f"no candles of {text}", field=field, remedy=remedy)

    def _nothing(self, market: Market, resolution: int, start: int | None, end: int | None) -> WorkbenchError:
        for dataset in self.datasets(market):
            if dataset.resolution == resolution:
                there = f"there are {dataset.rows} from {_say(dataset.first)} to {_say(dataset.last)}"
                field = "end" if end is not None and end < dataset.first else "start"
                asked = "" if start is None else f" from {_say(start)}"
                asked += "" if end is None else f" to {_say(end)}"
                return Invalid(f"{market.key} has no candles{asked}", field=field, remedy=there)
        return self._unknown(market.key, self.markets(), "market")


def _folders(path: Path) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _names(market: Market) -> tuple[str, str, str, str]:
    return (market.key, f"{market.asset}/{market.currency}", f"{market.exchange}:{market.asset}", market.asset)


def _say(at: int) -> str:
    return times.instant(at).strftime("%Y-%m-%dT%H:%M:%SZ")


def _write_synced(path: Path, data: "pa.Buffer") -> None:
    with open(path, "xb") as file:
        file.write(memoryview(data))
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)  # makes the renames durable
    finally:
        os.close(handle)


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _NO_DISK:
            raise Unavailable(f"candles cannot be written: {os.strerror(error.errno or 0)}",
                              remedy="free space on the data directory's disk, or make it writable") from error
        raise
