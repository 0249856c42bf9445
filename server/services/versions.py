"""Versions of models: uploads, checked before they are kept, stored once by content.

An archive lies under its sha256 below `archives`; the row that names it is written after the file is whole and in its
place, so an acknowledged upload is there. What is told of an archive are names, sizes and harmless texts: keys and
passwords in it are never shown.
"""

import asyncio
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, func, insert, select

from engine import archive, times, venvs
from engine.archive import Archive, Difference
from engine.deployment import Version
from engine.errors import Invalid, NotFound, WorkbenchError
from server.services.activity_values import text_up_to
from server.store.database import Database
from server.store.events import EventLog
from server.store.tables.activity import models
from server.store.tables.deployments import versions

__all__ = ["UPLOAD", "Versions", "version_of"]

MAX_VERSIONS: Final = 1000
UPLOAD: Final = ".upload-"
"""How the files begin that hold an upload on its way."""

LEFT: Final = 600.0  # seconds without news after which an upload is none any more


class Versions:
    """All versions of all models. Raises the engine's errors; `NotFound` for an unknown id throughout.

    elsewhere: models run on other machines, whose versions of Python nobody knows here.
    """

    def __init__(self, *, db: Database, events: EventLog, data_dir: Path, elsewhere: bool = False) -> None:
        self._db = db
        self._elsewhere = elsewhere
        self._data_dir = data_dir.absolute()
        self._events = events
        self._uploads = data_dir.absolute() / "uploads"
        self._keeping = asyncio.Lock()  # between an archive and the row that names it nothing is tidied

    async def add(self, model: str, upload: Path, *, file: str = "", description: str = "", python: str = "",
                  by: str = "") -> tuple[Version, Archive]:
        """A new version of a model from an uploaded file, which is moved away. Raises `Invalid` and `TooLarge` for an
        archive that is not taken; then nothing is kept."""
        text_up_to(description, "versionDescription", 20_000)
        if len(python) > 16:
            raise Invalid("this is no version of Python", field="pythonVersion", remedy="write it like 3.11")
        if python and not self._elsewhere:
            await asyncio.to_thread(venvs.interpreter, python)
        about = await asyncio.to_thread(archive.inspect, upload, name=file)
        await asyncio.to_thread(archive.verify, upload)
        try:
            async with self._keeping:
                await asyncio.to_thread(self._keep, upload, about.sha256)
                made = await self._insert(model, about, file=file, description=description, python=python, by=by)
        except (Invalid, NotFound):
            await self._tidy([about.sha256])
            raise
        await asyncio.to_thread(self._register, made)
        return made, about

    async def sweep(self) -> None:
        """Remove what uploads left that were cut off, by the end of a server too."""
        def work() -> None:
            archives = self._data_dir / "archives"
            folders = (self._data_dir, archives, *archives.glob("*"))
            for path in chain(*(folder.glob(f"{UPLOAD}*") for folder in folders)):
                with suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > LEFT:
                        path.unlink()

        await asyncio.to_thread(work)

    def _register(self, version: Version) -> None:
        """Make what the script makes with `workbench.strategy` known to backtests and sweeps."""
        from engine import uploads

        path = self.path_of(version.sha256)
        if not uploads.makes_strategies(archive.read_text(path, version.script) or ""):
            return
        self._uploads.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            uploads.register(self._uploads, version.id, path, version.file, version.sha256)
        except WorkbenchError as error:
            (self._uploads / f"{uploads.PREFIX}{version.id}.error").write_text(str(error))

    async def strategies(self, version: Version) -> tuple[list[str], str]:
        """The names of the strategies that a version brings, and why there are none although it looks as if."""
        def look() -> tuple[list[str], str]:
            names = sorted(path.stem for path in self._uploads.glob(f"upload.{version.id}*.json"))
            error = self._uploads / f"upload.{version.id}.error"
            return names, error.read_text() if error.is_file() else ""

        return await asyncio.to_thread(look)

    async def _insert(self, model: str, about: Archive, *, file: str, description: str, python: str,
                      by: str) -> Version:
        row = {"id": secrets.token_hex(10), "model_id": model, "description": description, "python": python,
               "sha256": about.sha256, "file": Path(file.replace("\\", "/")).name[:200],
               "size": (await asyncio.to_thread(self.path_of, about.sha256)).stat().st_size, "unpacked": about.size,
               "files": len(about.files), "script": about.main_script, "by": by,
               "created_at": times.micros(times.now())}

        def work(connection: Connection) -> Version:
            if connection.execute(select(models.c.id).where(models.c.id == model)).first() is None:
                raise NotFound(f"there is no model {model[:80]!r}", field="modelId")
            last = connection.execute(select(func.coalesce(func.max(versions.c.number), 0)).where(
                versions.c.model_id == model)).scalar_one()
            if last >= MAX_VERSIONS:
                raise Invalid(f"a model has at most {MAX_VERSIONS} versions", field="modelId",
                              remedy="go on with a new model")
            connection.execute(insert(versions), row | {"number": last + 1})
            made = version_of(_fetch(connection, str(row["id"])))
            self._events.append(connection, f"model/{model}", "version", {
                "version": made.id, "number": made.number, "description": description, "size": made.size,
                "at": times.iso(made.created_at)})
            return made

        return await self._db.write(work)

    async def forget(self, gone: Sequence[Version]) -> None:
        """Remove what belongs to versions that were deleted: their strategies, and archives that no other needs."""
        from engine import uploads

        def work() -> None:
            for version in gone:
                uploads.forget(self._uploads, version.id)

        await asyncio.to_thread(work)
        await self._tidy({version.sha256 for version in gone})

    async def _tidy(self, archives: Iterable[str]) -> None:
        """Remove those of these archives (sha256) that no version needs."""
        def left(connection: Connection) -> set[str]:
            return set(connection.execute(select(versions.c.sha256).distinct()).scalars())

        async with self._keeping:
            for sha256 in set(archives) - await self._db.read(left):
                await asyncio.to_thread(self.path_of(sha256).unlink, missing_ok=True)

    def _keep(self, upload: Path, sha256: str) -> None:
        target = self.path_of(sha256)
        if target.is_file():
            upload.unlink()
            return
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = target.with_name(f"{UPLOAD}{secrets.token_hex(8)}")
        try:
            shutil.move(upload, part)
            part.chmod(0o600)
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.rename(target)
            for folder in (target.parent, target.parent.parent):
                _settle(folder)
        finally:
            part.unlink(missing_ok=True)

    def path_of(self, sha256: str) -> Path:
        """Where the archive of this content lies."""
        return archive.stored(self._data_dir, sha256)

    async def list(self, model: str) -> list[Version]:
        """All versions of a model, newest first."""
        query = select(versions).where(versions.c.model_id == model).order_by(versions.c.number.desc())

        def work(connection: Connection) -> list[Version]:
            if connection.execute(select(models.c.id).where(models.c.id == model)).first() is None:
                raise NotFound(f"there is no model {model[:80]!r}")
            return [version_of(row) for row in connection.execute(query)]

        return await self._db.read(work)

    async def newest(self) -> tuple[Version, ...]:
        """The newest version of every model that has one, newest first."""
        last = select(versions.c.model_id, func.max(versions.c.number).label("number")).group_by(
            versions.c.model_id).subquery()
        query = select(versions).join(last, (versions.c.model_id == last.c.model_id) & (
            versions.c.number == last.c.number)).order_by(versions.c.created_at.desc())
        return await self._db.read(lambda connection: tuple(map(version_of, connection.execute(query))))

    async def get(self, id: str, *, model: str | None = None) -> Version:
        """One version; with `model`, only if it is one of that model's."""
        found = await self._db.read(lambda connection: version_of(_fetch(connection, id)))
        if model is not None and found.model != model:
            raise _unknown(id)
        return found

    async def latest(self, model: str) -> Version:
        """The newest version of a model. Raises `NotFound` when nothing was uploaded for it."""
        found = await self.list(model)
        if not found:
            raise NotFound("this model has no version", field="versionId", remedy="upload one first")
        return found[0]

    async def about(self, version: Version) -> Archive:
        """What is in its archive: names, sizes and the manifest without secrets."""
        return await asyncio.to_thread(archive.inspect, self.path_of(version.sha256), name=version.file)

    async def text(self, version: Version, path: str) -> str | None:
        """One file's text; None when it is none or too long. Raises `Invalid` for an unknown or a secret file."""
        return await asyncio.to_thread(archive.read_text, self.path_of(version.sha256), path)

    async def difference(self, old: Version, new: Version) -> Difference:
        """Which files changed between two versions."""
        before, after = await asyncio.gather(self.about(old), self.about(new))
        return archive.difference(before, after)


def version_of(row: Any) -> Version:
    """The version in a row."""
    return Version(id=row.id, model=row.model_id, number=row.number, description=row.description, python=row.python,
                   sha256=row.sha256, file=row.file, size=row.size, unpacked=row.unpacked, files=row.files,
                   script=row.script, by=row.by, created_at=times.instant(row.created_at))


def _settle(folder: Path) -> None:
    """Have the names in a folder outlive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _fetch(connection: Connection, id: str) -> Any:
    row = connection.execute(select(versions).where(versions.c.id == id)).first()
    if row is None:
        raise _unknown(id)
    return row


def _unknown(id: str) -> NotFound:
    return NotFound(f"there is no version {id[:80]!r}", field="versionId")
