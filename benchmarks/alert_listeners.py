"""Many listeners of the alert stream in one process: says when each block came.

    python -m benchmarks.alert_listeners PORT EVENTS < TOKENS

Prints "ready" when every stream has begun, then a line of JSON: arrival times by event, and the number of tokens.
"""

import asyncio
import json
import re
import sys
import time

import uvloop

from benchmarks.alert_server import raise_files

TOKEN = re.compile(rb'"token":"([0-9a-f-]{36})"')
ID = re.compile(rb"^id: (\d+)$", re.MULTILINE)


class Listener(asyncio.Protocol):
    """One stream, read as bytes. A block is short and written whole, so it arrives whole."""

    def __init__(self, token: str, port: int, found: "Found") -> None:
        self.request = (f"GET /api/v1/alerts HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
                        f"Authorization: Bearer {token}\r\n\r\n").encode()
        self.found = found
        self.began = asyncio.get_running_loop().create_future()
        self.rest = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        if not self.began.done():
            self.rest += data
            if b"event: ping" in self.rest:
                self.began.set_result(None)
            return
        for match in ID.finditer(data):
            self.found.at[int(match[1]) - 1].append(now)
        self.found.tokens.update(TOKEN.findall(data))
        if len(self.found.at[-1]) == self.found.listeners:
            self.found.whole.set()


class Found:
    """What all listeners have received."""

    def __init__(self, listeners: int, events: int) -> None:
        self.listeners = listeners
        self.at: list[list[float]] = [[] for _ in range(events)]
        self.tokens: set[bytes] = set()
        self.whole = asyncio.Event()


async def main(port: int, events: int) -> None:
    tokens = list(iter(lambda: sys.stdin.readline().strip(), ""))
    found = Found(len(tokens), events)
    loop = asyncio.get_running_loop()
    streams: list[Listener] = []
    for first in range(0, len(tokens), 100):
        new = [(await loop.create_connection(lambda token=token: Listener(token, port, found),  # type: ignore[misc]
                                             "127.0.0.1", port))[1] for token in tokens[first:first + 100]]
        await asyncio.wait_for(asyncio.gather(*(each.began for each in new)), 60)
        streams += new
    print("ready", flush=True)
    await asyncio.wait_for(found.whole.wait(), 300)
    print(json.dumps({"at": found.at, "tokens": len(found.tokens)}), flush=True)
    for each in streams:
        each.transport.abort()


if __name__ == "__main__":
    raise_files(10_000)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(int(sys.argv[1]), int(sys.argv[2])))
