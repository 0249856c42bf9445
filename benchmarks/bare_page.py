"""A page that is nothing but a table and a socket: as many of these as of ours show how fast the browser itself is."""

import asyncio
import json
import threading
from types import TracebackType
from typing import Any, Final, Self

import tornado.web
import tornado.websocket
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

PAGE: Final = """<!doctype html><title>bare</title>
<div aria-label="Orders" style="height: 440px; overflow: auto"><table><tbody></tbody></table></div>
<script>
const body = document.querySelector("tbody");
const add = (order) => {
  const row = document.createElement("tr");
  row.dataset.id = order.id;
  for (const value of Object.values(order)) row.insertCell().append(value);
  body.prepend(row);
};
for (let number = 0; number < 50; number++) add({ id: `first, ${number}`, symbol: "BTC-USD", side: "buy", size: 0.1,
  price: 30000 + number, annotation: "" });
new WebSocket(`ws://${location.host}/socket`).onmessage = (event) => add(JSON.parse(event.data));
</script>"""


class _Page(tornado.web.RequestHandler):
    def get(self) -> None:
        self.finish(PAGE)


class _Socket(tornado.websocket.WebSocketHandler):
    def initialize(self, sockets: set[Any]) -> None:
        self.sockets = sockets

    def open(self, *args: str, **kwargs: str) -> None:
        self.sockets.add(self)

    def on_close(self) -> None:
        self.sockets.discard(self)


class BarePage:
    """A server of such pages on a thread of its own. `tell` sends an order to all that are open."""

    def __init__(self) -> None:
        self._sockets: set[_Socket] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _listen(self) -> None:
        sockets = bind_sockets(0, "127.0.0.1")
        server = HTTPServer(tornado.web.Application([("/", _Page), ("/socket", _Socket, {"sockets": self._sockets})]))
        server.add_sockets(sockets)
        self.url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"

    def tell(self, order: dict[str, Any]) -> None:
        """Send an order; returns before it is sent."""
        text = json.dumps(order)
        self._loop.call_soon_threadsafe(lambda: [each.write_message(text) for each in tuple(self._sockets)])
