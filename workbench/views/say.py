"""A word to a script in the browser, written to the page's socket as it is.

Bokeh makes a message by walking over all models of the page, under the page's lock and at the loop's next turn. With
many pages open that is most of what an order costs, and a word to a script concerns no model but its own.
"""

import asyncio
import logging
from types import SimpleNamespace
from typing import Any, Final
from weakref import WeakSet

from bokeh.core.json_encoder import serialize_json
from bokeh.core.serialization import Serializer
from bokeh.document import Document
from bokeh.document.events import MessageSentEvent
from bokeh.protocol.messages.patch_doc import patch_doc
from bokeh.server.connection import ServerConnection
from panel.io import document as documents
from panel.io.state import state
from panel.models.esm import ESMEvent
from panel.reactive import Reactive
from tornado.websocket import WebSocketClosedError

log = logging.getLogger("workbench.pages")
_writing: Final[WeakSet[Document]] = WeakSet()


def said_at_once(part: Reactive, text: str) -> bool:
    """Send text to the script of a component in every browser that shows it. False, and nothing is sent, where that
    has to go its usual way: in a notebook, and while the document gathers changes or still writes earlier ones."""
    shown = []
    for ref, (model, _) in part._models.items():
        if ref not in state._views or ref in state._fake_roots:
            continue
        _viewable, _root, document, comm = state._views[ref]
        session = getattr(document.session_context, "session", None)
        if (comm or session is None or document.callbacks.hold_value or document in documents._WRITE_MSGS
                or document in documents._WRITE_BLOCK):
            return False
        shown.append((model, document, session))
    for model, document, session in shown:
        event = MessageSentEvent(document, "bokeh_event", ESMEvent(model=model, data=text))
        message = SimpleNamespace(  # what of a message is written
            header_json=serialize_json(patch_doc.create_header()), metadata_json="{}", _buffers=(),
            content_json=serialize_json({"events": Serializer(references={model}).encode([event])}))
        for connection in tuple(session._subscribed_connections):
            _write(connection, message)
    return bool(shown)


def _write(connection: ServerConnection, message: SimpleNamespace) -> None:
    """Write the parts of a message in one go, now or once whoever writes another one has done so."""

    def write(turn: asyncio.Future[Any]) -> None:
        with turn.result():
            written = documents.dispatch_tornado(connection, msg=message)  # type: ignore[arg-type]  # reads what is there
        for each in written:  # a page that is closed meanwhile misses nothing
            each.add_done_callback(lambda done: done.cancelled() or done.exception())

    turn = asyncio.ensure_future(connection._socket.write_lock.acquire())  # it is one already
    if turn.done():
        write(turn)
    else:
        turn.add_done_callback(write)


async def write_waiting(document: Document) -> None:
    """Write the messages that wait for their turn, in place of Panel's `_dispatch_msgs`. That of 1.9.4 keeps what
    comes in the moment in which a write ends until something else changes: a form never told of an error."""
    if document in _writing:
        return  # whoever is at it goes on until none is left
    _writing.add(document)
    try:
        while waiting := documents._WRITE_MSGS.pop(document, None):
            for connection, messages in waiting.items():
                with await connection._socket.write_lock.acquire():
                    written = [each for message in messages
                               for each in documents.dispatch_tornado(connection, msg=message)]
                for result in await asyncio.gather(*written, return_exceptions=True):
                    if isinstance(result, Exception) and not isinstance(result, WebSocketClosedError):
                        log.warning("a change did not reach a page: %s", result)
    finally:
        _writing.discard(document)
        documents._WRITE_BLOCK.pop(document, None)
