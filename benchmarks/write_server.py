"""A server for the write benchmark: the workbench with one small committed POST, and beside it, in the same process
and on the same loop, an empty Tornado handler. Prints two ports, serves until its standard input closes."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import tornado.web
import uvloop

from server import app, logs
from server.config import Config
from server.dialects.base import BaseHandler
from server.dialects.routes import Answer, Route

TOKEN = "benchmark-token"


class Note(BaseHandler):
    """Appends an event to a stream: one small write, answered after its commit."""

    async def post(self) -> None:
        data = await self.read_json()
        log = self.services.events
        event = await self.services.db.write(lambda connection: log.append(connection, "bench", "note", data))
        self.write_json({"id": event.id, "seq": event.seq}, status=201)


class Dialect:
    @staticmethod
    def routes(services: Any) -> list[Route]:
        return [Route(methods="POST", path="/bench/notes", handler=Note, auth="admin", summary="A note",
                      answers={201: Answer(doc="written")})]


class Empty(tornado.web.RequestHandler):
    def post(self) -> None:
        self.finish(b"{}")


async def main(folder: str, database: str) -> None:
    logs.configure("warning", "json")
    app.tune()
    app.DIALECTS = (*app.DIALECTS, Dialect)  # type: ignore[misc]
    server = app.Server(Config(port=0, data_dir=Path(folder), database_url=database, token=TOKEN, rate_limit=0))
    await server.start(compute=False)
    empty = tornado.web.Application([("/", Empty)], log_function=lambda handler: None).listen(0, "127.0.0.1")
    port = next(iter(empty._sockets.values())).getsockname()[1]
    print(server.port, port, flush=True)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    await server.stop()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(*sys.argv[1:]))
