"""The official small client for bots: say what happens, and it arrives, whatever happens in between.

    import workbench as wb

    with wb.Bot("grid-1", url="http://127.0.0.1:8888", token="wb_…") as bot:
        bot.started("ready")
        id = bot.order("BTC-USD", "buy", size=0.5, price=64_000)
        bot.order_update(id, status="done", filled=0.5)
        bot.log("bought half a coin")

No call waits for the network. Entries are written to a spool on disk and sent from a thread of its own, in order, many
at once; while the server is away they wait there, also across the end of the process. The server keeps each once.
Only the standard library, httpx and orjson are needed.
"""

import asyncio
import atexit
import hashlib
import logging
import os
import random
import re
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from engine.errors import Forbidden, Invalid, NotFound, Unauthenticated, Unavailable, WorkbenchError
from workbench.bot_lines import line_of
from workbench.bot_reports import Reports
from workbench.bot_spool import Batch, Fsync, Spool, free_folder

__all__ = ["Bot", "BotLogHandler"]

LOCAL: Final = "http://127.0.0.1:8888"
MOST_LINES: Final = 2000
MOST_BYTES: Final = 2**20
ANSWER: Final = 30.0  # seconds that the server may take for a batch
SLOWEST: Final = 5.0  # seconds between two tries at most
ASK_AGAIN: Final = 30.0  # seconds until a server that refused is asked again
EXIT: Final = 5.0  # seconds for what still waits when the program ends
WARN_EVERY: Final = 30.0
_REFUSED: Final[Mapping[int, type[WorkbenchError]]] = {401: Unauthenticated, 403: Forbidden, 404: NotFound}

log = logging.getLogger("workbench.bot")


class Bot(Reports):
    """Reports for one model.

    model: its id (made known to the server by the first report, unless the token is bound to another).
    url, token: where the server is and a token with the scope ingest, or a model's key; `WORKBENCH_URL` and
    `WORKBENCH_TOKEN` when not given. spool: the folder in which entries wait (default: `~/.workbench/bots`); None keeps
    them in a temporary folder, which a later start does not find. fsync: "batch" (before each sending), "always"
    (within each call: survives a power cut) or "never". most: bytes that may wait on disk; beyond them entries are
    dropped, logs and calls first, with a loud warning. All calls are safe from any thread and from coroutines.
    """

    def __init__(self, model: str, *, url: str | None = None, token: str | None = None,
                 spool: str | Path | None = "", fsync: Fsync = "batch", most: int = 2**30,
                 transport: httpx.BaseTransport | None = None) -> None:
        if not isinstance(model, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:@+=~-]{0,127}", model):
            raise Invalid(f"{str(model)[:60]!r} cannot be a model's id", field="model",
                          remedy="use letters, digits and . _ : @ + = ~ - beginning with a letter or digit")
        self.model = model
        self.url = (url or os.environ.get("WORKBENCH_URL") or LOCAL).rstrip("/")
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise Invalid(f"{self.url[:200]!r} is not the address of a server", field="url",
                          remedy="begin it with http:// or https://")
        token = token if token is not None else os.environ.get("WORKBENCH_TOKEN", "")
        if token and not token.isascii():
            raise Invalid("a token has ASCII characters only", field="token", remedy="copy it again")
        self.sent = 0
        """Entries that the server has."""
        self.dropped = 0
        """Entries lost because there was no more room, or the disk failed."""
        self.refused: deque[dict[str, Any]] = deque(maxlen=1000)
        """The last entries that the server would not have: line, field, error, remedy."""
        self.error: WorkbenchError | None = None
        """Why nothing can be sent now; None while all is well."""
        self._told: dict[str, float] = {}
        self._left: list[Spool] = []  # what others of this name have left, sent before our own
        self._spool = self._sending = self._make_spool(spool, fsync, most)
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._checked = threading.Event()
        self._hurry = threading.Event()  # set when it ends
        self._closing = self._closed = False
        self._give_up = 0.0
        local = (urlsplit(self.url).hostname or "") in ("localhost", "127.0.0.1", "::1")
        self._http = httpx.Client(
            base_url=self.url, timeout=httpx.Timeout(ANSWER, connect=5.0), trust_env=not local, transport=transport,
            headers={"Authorization": f"Bearer {token}"} if token else {})
        if self.waiting:
            log.warning("%d entries of an earlier life wait in %s and are sent first", self.waiting,
                        ", ".join(str(each.folder) for each in (*self._left, self._spool) if each.waiting))
        self._thread = threading.Thread(target=self._run, name=f"workbench-bot-{model}", daemon=True)
        self._thread.start()
        _bots.add(self)

    def _make_spool(self, spool: str | Path | None, fsync: Fsync, most: int) -> Spool:
        name = re.sub(r"[^A-Za-z0-9._-]", "_", self.model) + "-" + hashlib.sha256(
            f"{self.url} {self.model}".encode()).hexdigest()[:8]
        if spool is not None:
            base = Path(spool).expanduser() if spool else Path.home() / ".workbench" / "bots"
            try:
                own: Spool | None = None
                for folder in free_folder(base, name):
                    if own is not None and not any(folder.glob("*.ndjson")):
                        continue
                    try:
                        found = Spool(folder, fsync=fsync, most=most)
                    except BlockingIOError:  # another process reports for the same model
                        continue
                    if own is None:
                        own = found
                    elif found.waiting:
                        self._left.append(found)
                    else:
                        found.close()
                if own is not None:
                    return own
            except OSError as error:
                if spool:
                    raise Invalid(f"the spool cannot be made: {error}", field="spool",
                                  remedy="name a folder that this program may write to") from None
                self._warn(f"{base} cannot be used ({error}); what waits there is lost if this program is killed")
        return Spool(Path(tempfile.mkdtemp(prefix="workbench-bot-")) / name, fsync=fsync, most=most)

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self.waiting} waiting"
        return f"<Bot {self.model!r} at {self.url}, {self.sent} sent, {state}>"

    # -- saying

    def logging_handler(self, level: int = logging.INFO) -> "BotLogHandler":
        """A handler for `logging`: `logging.getLogger().addHandler(bot.logging_handler())`."""
        return BotLogHandler(self, level)

    def _say(self, kind: str, at: Any, *, important: bool = False, **fields: Any) -> None:
        if self._closed or os.getpid() != self._pid:
            raise RuntimeError("this bot is closed" if self._closed else "a forked process needs a Bot of its own")
        fields |= {"kind": kind, "model": self.model,
                   "at": time.time() if at is None else at.isoformat() if isinstance(at, datetime) else at}
        try:
            kept = self._spool.append(line_of(fields), important=important)
            why = "the spool is full"
        except OSError as error:
            kept, why = False, f"the spool cannot be written: {error}"
        if not kept:
            self.dropped += 1
            self._warn(f"{why}: {self.dropped} entries are lost so far ({self._spool.folder})")
            return
        with self._changed:
            self._changed.notify_all()

    # -- waiting and ending

    @property
    def waiting(self) -> int:
        """Entries that the server does not have yet."""
        return self._spool.waiting + sum(each.waiting for each in tuple(self._left))

    def flush(self, timeout: float = 30.0) -> None:
        """Wait until the server has everything said so far. Raises `Unauthenticated` or `Forbidden` when it refuses
        the token, `Unavailable` when the time is over."""
        ends = time.monotonic() + timeout
        with self._changed:
            while self.waiting:
                if isinstance(self.error, Unauthenticated | Forbidden | NotFound):
                    raise self.error
                left = ends - time.monotonic()
                if left <= 0 or not self._thread.is_alive():
                    raise Unavailable(f"{self.waiting} entries did not reach {self.url} within {timeout:g} s",
                                      remedy=f"they wait in {self._spool.folder} and are sent later")
                self._changed.wait(min(left, 1.0))

    async def aflush(self, timeout: float = 30.0) -> None:
        """`flush` for coroutines."""
        await asyncio.to_thread(self.flush, timeout)

    def check(self, timeout: float = 5.0) -> None:
        """Wait for the server's word on the token. Raises what it says of it; a server that is away says nothing."""
        self._checked.wait(timeout)
        if isinstance(self.error, Unauthenticated | Forbidden | NotFound):
            raise self.error

    def close(self, timeout: float = EXIT) -> None:
        """Send what waits, for at most `timeout` seconds, and end the thread. What is left waits on disk for the next
        start. Closing twice is harmless."""
        if self._closed or os.getpid() != self._pid:
            return
        self._give_up = time.monotonic() + timeout
        self._closed = self._closing = True
        self._hurry.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(timeout + 1.0)
        if self._thread.is_alive():  # it is in the middle of a request; its batch is written down
            self._http.close()
            self._thread.join(1.0)
        left = self.waiting
        if left:
            log.warning("%d entries did not reach %s and wait in %s", left, self.url, self._spool.folder)
        if not self._thread.is_alive():
            for each in (*self._left, self._spool):
                each.close()
        self._http.close()
        _bots.discard(self)

    def __enter__(self) -> "Bot":
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # no loop that would be held up
            try:
                self.check()
            except BaseException:
                self.close(0.0)
                raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> "Bot":
        try:
            await asyncio.to_thread(self.check)
        except BaseException:
            await asyncio.to_thread(self.close, 0.0)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)

    # -- the thread

    def _run(self) -> None:
        failures = 0
        self._ask()
        while True:
            with self._changed:
                while not self.waiting and not self._closing:
                    self._changed.wait(5.0)
                if self._closing and (not self.waiting or time.monotonic() > self._give_up):
                    return
            try:
                while self._left and not self._left[0].waiting:
                    self._left.pop(0).close()
                self._sending = self._left[0] if self._left else self._spool
                batch = self._sending.next(most_bytes=MOST_BYTES, most_lines=MOST_LINES)
                pause = self._send(batch) if batch is not None else None
            except Exception as error:  # whatever it is, the thread goes on
                self._warn(f"sending failed unexpectedly: {error!r}")
                pause = ""
            if pause is None:
                failures = 0
                continue
            failures += 1
            with self._changed:
                self._changed.notify_all()
                if self._closing and self.error is not None and not isinstance(self.error, Unavailable):
                    return
            if self._closing:
                time.sleep(_pause(failures, pause, self._give_up))
            else:
                self._hurry.wait(_pause(failures, pause, None))

    def _ask(self) -> None:
        """Whether the token is good, before the first report."""
        try:
            answer = self._http.get("/workbench/api/me", timeout=5.0)
            if answer.status_code in (401, 403):
                self._stop_for(answer)
            elif answer.status_code == 200 and not {"admin", "ingest"} & set(answer.json().get("scopes", ())):
                self.error = Forbidden("this token lacks the scope 'ingest'", remedy="use a token with that scope")
                self._warn(f"{self.url} refuses the token: {self.error}")
        except (httpx.HTTPError, ValueError):
            pass  # told when there is something to send
        finally:
            self._checked.set()

    def _send(self, batch: Batch) -> str | None:
        """Send a batch; None when it is dealt with, else how long the server said to wait ("" if it did not)."""
        try:
            answer = self._http.post(
                "/workbench/api/events", params={"atomic": "false"}, content=batch.body,
                headers={"Content-Type": "application/x-ndjson", "Idempotency-Key": batch.key})
        except httpx.HTTPError as error:
            self._away(f"no answer from {self.url}: {type(error).__name__} {error}")
            return ""
        status = answer.status_code
        if status == 200 or (status == 422 and _lines(answer) is not None):
            self._kept(batch, answer)
            return None
        if status in (401, 403, 404):
            self._stop_for(answer)
            return str(ASK_AGAIN)
        if status == 413 and self._sending.shrink(batch):
            return None
        if status in (400, 409, 413, 415, 422):
            path = self._sending.keep_refused(batch.body)
            self._warn(f"{self.url} will not have {batch.count} entries ({_said(answer)}); they are in {path}")
            self._done(batch, 0)
            return None
        self._away(f"{self.url} answered {status}: {_said(answer)}")
        return answer.headers.get("Retry-After", "")

    def _kept(self, batch: Batch, answer: httpx.Response) -> None:
        errors = _lines(answer) or []
        if errors:
            lines = batch.body.splitlines(keepends=True)
            wrong = sorted({each["line"] for each in errors})
            path = self._sending.keep_refused(b"".join(lines[number - 1] for number in wrong))
            self.refused.extend(errors)
            first = errors[0]
            self._warn(f"{len(wrong)} entries were refused, the first for {first['field']}: {first['error']} "
                       f"({first['remedy']}); they are in {path}")
        if isinstance(self.error, WorkbenchError):
            log.warning("%s answers again; %d entries wait", self.url, self.waiting)
        self.error = None
        self._done(batch, batch.count - len({each["line"] for each in errors}))

    def _done(self, batch: Batch, kept: int) -> None:
        self._sending.done(batch)
        self.sent += kept
        with self._changed:
            self._changed.notify_all()

    def _stop_for(self, answer: httpx.Response) -> None:
        said = _said(answer)
        self.error = _REFUSED[answer.status_code](
            f"{self.url} refuses to hear of {self.model!r}: {said}",
            remedy="use a valid token with the scope ingest, or a key of this model")
        self._warn(f"{self.error}; entries wait in {self._spool.folder}")

    def _away(self, why: str) -> None:
        if not isinstance(self.error, Unavailable):
            self.error = Unavailable(why, remedy="start the server; nothing is lost meanwhile")
        self._warn(f"{why}; {self.waiting} entries wait in {self._spool.folder}", about="away")

    def _warn(self, text: str, about: str = "") -> None:
        """Say it loudly, but not the same at every entry."""
        key = about or re.sub(r"\d+", "", text)
        if time.monotonic() - self._told.get(key, -WARN_EVERY) < WARN_EVERY:
            return
        self._told[key] = time.monotonic()
        log.error(text)  # on stderr when nobody configured logging


class BotLogHandler(logging.Handler):
    """Sends what a program logs to its bot: the level is the type of the line."""

    def __init__(self, bot: Bot, level: int = logging.INFO) -> None:
        super().__init__(level)
        self.bot = bot

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.partition(".")[0] in ("httpx", "httpcore") or record.name.startswith("workbench.bot"):
            return  # said while sending
        if self.bot._closed:
            return
        try:
            self.bot.log(self.format(record), type=record.levelname.lower(), at=record.created)
        except Exception:
            self.handleError(record)


_bots: "weakref.WeakSet[Bot]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for bot in list(_bots):
        bot.close()


def _lines(answer: httpx.Response) -> list[dict[str, Any]] | None:
    """What the answer says of single lines; None when it speaks of the whole."""
    try:
        found = answer.json().get("errors")
    except (ValueError, AttributeError):
        return None
    return found if isinstance(found, list) else None


def _said(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}"


def _pause(failures: int, told: str, give_up: float | None) -> float:
    """Seconds until the next try."""
    try:
        pause = min(max(float(told), 0.05), ASK_AGAIN)
    except ValueError:
        pause = min(0.1 * 2 ** min(failures - 1, 10), SLOWEST) * random.uniform(0.7, 1.3)
    return pause if give_up is None else min(pause, 0.2, max(give_up - time.monotonic(), 0.0))
