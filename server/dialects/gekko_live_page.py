"""Gekko's own web application, as it was published, served from the folder of `--gekko-ui` at `/gekko/`.

The files stay as they are; only `UIconfig.js`, which tells the application where its server is, is made here: it names
the address under which the browser found this page, so that page and API are of one origin. Who has not logged in is
sent to the login page first. A name that leads out of the folder, by dots or by a link, is not there.
"""

import json
import mimetypes
from pathlib import Path
from typing import ClassVar, Final
from urllib.parse import quote, urlsplit

from engine.errors import Invalid, NotFound
from server.dialects.base import BaseHandler
from server.dialects.failures import Failure
from server.dialects.routes import Answer, Route
from server.dialects.routes import Path as Part
from server.services import Services

__all__ = ["routes"]

FOLDER: Final = "/gekko"
CONFIG: Final = "UIconfig.js"
LARGEST: Final = 32 * 2**20
TIMEOUT: Final = 120_000  # milliseconds that the application waits for a backtest


class FileHandler(BaseHandler):
    """One file of the application."""

    # the application's templates are compiled, its styles are partly set by scripts
    csp: ClassVar[str] = ("default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
                          "img-src 'self' data:; font-src 'self'; connect-src 'self' ws: wss:; base-uri 'none'; "
                          "form-action 'self'; frame-ancestors 'none'")

    async def get(self, file: str = "index.html") -> None:
        if file == CONFIG:
            self.write_bytes(self._config(), "text/javascript; charset=utf-8")
            return
        assert self.route is not None
        body = await self.off_loop(_read, self.route.options["folder"], file)
        kind = mimetypes.guess_type(file)[0] or "application/octet-stream"
        self.write_bytes(body, kind + ("; charset=utf-8" if kind.startswith("text/") else ""))

    def _config(self) -> str:
        secure = self.request.protocol == "https"
        parts = urlsplit("//" + self.request.host)
        port = parts.port or (443 if secure else 80)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        config = {"headless": False, "api": {"host": host, "port": port, "timeout": TIMEOUT},
                  "ui": {"ssl": secure, "host": host, "port": port, "path": "/"}, "adapter": "sqlite"}
        return f"window.CONFIG = {json.dumps(config)};\n"

    def fail(self, failure: Failure) -> None:
        if failure.status == 401 and "text/html" in self.request.headers.get("Accept", ""):
            self.clear()
            self.set_status(303)
            self.set_header("Location", "/login?next=" + quote(FOLDER + "/", safe=""))
            self.finish()
        else:
            super().fail(failure)


class FolderHandler(FileHandler):
    async def get(self, file: str = "") -> None:
        self.set_status(301)
        self.set_header("Location", FOLDER + "/")
        self.finish()


def _read(folder: Path, file: str) -> bytes:
    """A file below the folder. Blocks. Raises `NotFound` for everything else."""
    missing = NotFound("there is no such file")
    if "\x00" in file or "\\" in file or any(part in ("", ".", "..") for part in file.split("/")):
        raise missing
    try:
        root = folder.resolve(strict=True)
        path = (root / file).resolve(strict=True)
        if not path.is_relative_to(root) or not path.is_file() or path.stat().st_size > LARGEST:
            raise missing
        return path.read_bytes()
    except (OSError, ValueError, RuntimeError):
        raise missing from None


def routes(services: Services) -> list[Route]:
    """The application's files, when a folder was given."""
    folder = services.config.gekko_ui
    if folder is None:
        return []
    if not (folder / "index.html").is_file():
        raise Invalid(f"there is no index.html in {folder}", field="gekko_ui",
                      remedy="name the folder of Gekko's built web application, web/vue/dist")
    page = Answer(doc="a file", content=("text/html", "text/javascript", "text/css"))
    return [
        Route(methods="GET", path=FOLDER, handler=FolderHandler, auth="read", tag="gekko", hidden=True,
              summary="To Gekko's web application", answers={301: Answer(doc="to /gekko/")}),
        Route(methods="GET", path=FOLDER + "/", handler=FileHandler, auth="read", tag="gekko", hidden=True,
              summary="Gekko's web application", options={"folder": folder}, answers={200: page}),
        Route(methods="GET", path=FOLDER + "/{file:path}", handler=FileHandler, auth="read", tag="gekko", hidden=True,
              summary="A file of Gekko's web application", options={"folder": folder}, answers={200: page},
              errors=(404,), parameters=(Part(name="file", doc="its name"),)),
    ]
