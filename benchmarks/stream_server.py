"""A server without workers for the stream benchmark: on its standard input come commands, on its output their ends.

    notes COUNT PAUSE   append that many events, PAUSE seconds apart; each carries when its write was asked for
    run EVENTS          queue a run, print its id, wait for a line, then take the run through EVENTS events to its end
"""

import asyncio
import json
import sys
import time
from functools import partial
from pathlib import Path

import uvloop

from engine.spec import BacktestSpec
from server import app, logs
from server.config import Config
from server.services.run_states import change_state, stream_of

TOKEN = "benchmark-token"


async def notes(server: app.Server, count: int, pause: float) -> None:
    db, log = server.services.db, server.services.events
    acknowledged = []
    for _ in range(count):
        data = {"asked": time.monotonic()}
        await db.write(partial(log.append, stream="bench", type="note", data=data))
        acknowledged.append(time.monotonic() - data["asked"])
        await asyncio.sleep(pause)
    print(json.dumps(sorted(acknowledged)), flush=True)


async def begin(server: app.Server) -> str:
    spec = BacktestSpec(strategy="buy_and_hold", markets=("bench:A/USD",))
    return (await server.services.runs.submit(spec, lenient=True)).id


async def finish(server: app.Server, id: str, events: int) -> None:
    db, log = server.services.db, server.services.events
    await db.write(lambda connection: change_state(connection, log, id, "running", "queued"))
    for number in range(events):
        await db.write(partial(log.append, stream=stream_of(id), type="progress",
                               data={"progress": number / events, "message": "at work"}))
    await db.write(lambda connection: change_state(connection, log, id, "completed", "running", progress=1.0))


async def main(folder: str) -> None:
    logs.configure("warning", "json")
    server = app.Server(Config(port=0, data_dir=Path(folder), token=TOKEN, rate_limit=0))
    await server.start(compute=False)
    print(server.port, flush=True)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := (await reader.readline()).decode().split():
        if line[0] == "notes":
            await notes(server, int(line[1]), float(line[2]))
        else:
            id = await begin(server)
            print(id, flush=True)
            await reader.readline()
            await finish(server, id, int(line[1]))
            print("done", flush=True)
    await server.stop()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1]))
