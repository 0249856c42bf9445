"""A server with many subscribers; gives out alerts and measures when its listeners, another process, have them.

    python -m benchmarks.alert_server FOLDER LISTENERS ALERTS
"""

import asyncio
import gc
import json
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import uvloop


def raise_files(count: int) -> None:
    """Let this process open `count` sockets and files, as far as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = count + 500 if hard == resource.RLIM_INFINITY else min(count + 500, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def resident() -> int:
    """KiB of memory in use."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0])


async def main(folder: str, listeners: int, alerts: int) -> None:
    from server.app import Server
    from server.config import Config

    server = Server(Config(data_dir=Path(folder), port=0, api_only=True, rate_limit=0))
    await server.start(compute=False)
    services = server.services
    gc.freeze()  # as `server.app.serve` does
    gc.set_threshold(20_000, 20, 20)
    tokens = []
    for first in range(0, listeners, 250):
        tokens += await asyncio.gather(*(subscriber(services, number)
                                         for number in range(first, min(first + 250, listeners))))
    before = resident()
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.alert_listeners", str(server.port), str(alerts * 2),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**28)
    assert client.stdin and client.stdout
    client.stdin.write(("\n".join(tokens) + "\n\n").encode())
    assert (await client.stdout.readline()) == b"ready\n"
    await asyncio.sleep(1.0)
    kib = (resident() - before) / listeners
    asked: list[float] = []
    worked = time.process_time()
    for number in range(alerts):
        asked.append(time.monotonic())
        alert = await services.alerts.create(instrument="STOCKS", ticker=f"T{number}", start=10.0, target=12.0,
                                             stop=9.0)
        await asyncio.sleep(1.5)
        asked.append(time.monotonic())
        await services.alerts.move(alert.id, "aborted")
        await asyncio.sleep(1.5)
    worked = (time.process_time() - worked) * 1e3 / (alerts * 2)
    told: dict[str, Any] = json.loads(await client.stdout.readline())
    await client.wait()
    found: dict[str, Any] = {"kib": round(kib, 2), "tokens": told["tokens"], "cpu": round(worked, 1)}
    for place, name in enumerate(("working", "closed")):
        late = sorted((at - asked[event]) * 1e3 for event in range(place, alerts * 2, 2) for at in told["at"][event])
        assert len(late) == listeners * alerts, f"{len(late)} blocks arrived"
        found[name] = [round(statistics.median(late), 1), round(late[int(len(late) * 0.99)], 1)]
    assert not await services.credits.unbalanced()
    await server.stop()
    print(json.dumps(found))


async def subscriber(services: Any, number: int) -> str:
    made = await services.subscribers.create(f"listener{number}@example.org", access="FULL")
    await services.credits.grant(made.id, 1000)
    return await services.subscribers.issue(made.id)


if __name__ == "__main__":
    raise_files(int(sys.argv[2]))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
