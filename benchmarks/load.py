"""A small HTTP/1.1 load generator: keep-alive connections, one request in flight on each, raw bytes both ways.

    python -m benchmarks.load HOST:PORT METHOD PATH CONNECTIONS SECONDS [HEADER...] < BODY

Prints one line of JSON: requests, seconds, rate, p50_ms, p99_ms, errors. It runs in a process of its own so that the
server under test keeps a core to itself; written on asyncio protocols because a full client would be the bottleneck.
"""

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass

import uvloop


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a load run measured. `errors` counts answers that were not 2xx."""

    requests: int
    seconds: float
    rate: float
    p50_ms: float
    p99_ms: float
    errors: int


class Connection(asyncio.Protocol):
    """Sends the request again as soon as its answer is whole."""

    def __init__(self, request: bytes, latencies: list[float]) -> None:
        self.request = request
        self.latencies = latencies
        self.buffer = b""
        self.errors = 0
        self.stopped = False
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self.send()

    def send(self) -> None:
        self.began = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.buffer = self.buffer + data if self.buffer else data
        head = self.buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        lowered = self.buffer[:head].lower()
        at = lowered.find(b"content-length:")
        length = int(lowered[at + 15:].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self.buffer) < head + 4 + length:
            return
        self.latencies.append(time.perf_counter() - self.began)
        self.errors += self.buffer[9:10] != b"2"
        self.buffer = b""
        if self.stopped:
            self.transport.close()
        else:
            self.send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.stopped:
            self.errors += 1
        if not self.closed.done():
            self.closed.set_result(None)


async def load(host: str, port: int, request: bytes, connections: int, seconds: float) -> Load:
    """Keep `connections` busy with `request` for `seconds`, after half a second of warming up."""
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    protocols = [(await loop.create_connection(lambda: Connection(request, latencies), host, port))[1]
                 for _ in range(connections)]
    await asyncio.sleep(0.5)
    latencies.clear()
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    took = time.perf_counter() - began
    measured = sorted(latencies)
    for protocol in protocols:
        protocol.stopped = True
    await asyncio.wait([protocol.closed for protocol in protocols], timeout=10)
    if not measured:
        raise RuntimeError("no request was answered")
    return Load(requests=len(measured), seconds=round(took, 3), rate=round(len(measured) / took, 1),
                p50_ms=round(measured[len(measured) // 2] * 1e3, 3),
                p99_ms=round(measured[int(len(measured) * 0.99)] * 1e3, 3),
                errors=sum(protocol.errors for protocol in protocols))


def request_bytes(host: str, method: str, path: str, headers: list[str], body: bytes) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


if __name__ == "__main__":
    address, method, path, connections, seconds, *headers = sys.argv[1:]
    host, _, port = address.rpartition(":")
    request = request_bytes(address, method, path, headers, sys.stdin.buffer.read())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(asdict(runner.run(load(host, int(port), request, int(connections), float(seconds))))))
