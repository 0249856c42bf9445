"""WebSocket followers, in a process of their own.

    python -m benchmarks.followers URL TOKEN FOLLOWERS EVENTS

Each follower reads EVENTS events (0: until the stream closes). Prints `ready` once all are connected, then one line of
JSON: how long after its data's `asked` each event arrived, how many events each follower got, in order or not, and with
which codes the streams closed.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from typing import Any

import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed


async def follow(socket: ClientConnection, most: int, late: list[float]) -> tuple[int, bool, int | None]:
    """(events, whether numbered without holes, close code)."""
    seen: list[int] = []
    try:
        while not most or len(seen) < most:
            text = await socket.recv()
            arrived = time.monotonic()
            event: dict[str, Any] = json.loads(text)
            seen.append(event["seq"])
            if "asked" in event["data"]:
                late.append(arrived - event["data"]["asked"])
    except ConnectionClosed as error:
        return len(seen), _whole(seen), error.rcvd.code if error.rcvd else None
    await socket.close()
    return len(seen), _whole(seen), None


def _whole(seen: list[int]) -> bool:
    return bool(seen) and seen == list(range(seen[0], seen[0] + len(seen)))


async def main(url: str, token: str, followers: int, most: int) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    sockets: list[ClientConnection] = []
    for first in range(0, followers, 50):
        sockets += await asyncio.gather(*(
            connect(url, additional_headers=headers, open_timeout=60, ping_interval=None, compression=None)
            for _ in range(first, min(first + 50, followers))))
    late: list[float] = []
    reading = [asyncio.create_task(follow(socket, most, late)) for socket in sockets]
    print("ready", flush=True)
    ends = await asyncio.gather(*reading)
    print(json.dumps({"late": sorted(late), "events": Counter(events for events, _, _ in ends),
                      "whole": sum(whole for _, whole, _ in ends), "codes": Counter(str(code) for *_, code in ends)}))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
