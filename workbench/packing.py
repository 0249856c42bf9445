"""Models on their way to the server: a folder, a zip, a Python file, or a class or function, as one file."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Final

from engine import archive
from engine.errors import Invalid, TooLarge

__all__ = ["Packed", "packed"]

LEFT_OUT: Final = frozenset({
    ".git", ".hg", ".svn", ".idea", ".vscode", ".ipynb_checkpoints", ".mypy_cache", ".pytest_cache", ".ruff_cache",
    ".tox", ".nox", ".workbench", "__pycache__", "__pypackages__", "node_modules", ".DS_Store"})
"""Names that are no part of a model, wherever they stand in its folder."""

_COMPILED: Final = (".pyc", ".pyo")
_IGNORED: Final = ("price_caches",)


class Packed:
    """A model as one file: `path` is where it lies, `file` what to call it, `name` a model's name that suits it."""

    def __init__(self, path: Path, *, file: str, name: str) -> None:
        self.path, self.file, self.name = path, file, name

    def read(self) -> bytes:
        """The file's bytes."""
        return self.path.read_bytes()


@contextmanager
def packed(model: Any, *, requirements: Sequence[str] = (), live: bool = True) -> Iterator[Packed]:
    """The file of a model, checked as the server will; it is gone when the context ends.

    `model` is the path of a folder, a zip or a Python file, or a class or function (see `workbench.model_source`).
    Raises `Invalid` and `TooLarge` with what to do about it.
    """
    with tempfile.TemporaryDirectory(prefix="workbench-deploy-") as scratch:
        made = _made(model, Path(scratch) / "model.zip", requirements, live)
        archive.inspect(made.path, name=made.file)
        yield made


def _made(model: Any, target: Path, requirements: Sequence[str], live: bool) -> Packed:
    if not isinstance(model, str | os.PathLike):
        from workbench.model_source import script_of

        name, script = script_of(model, packages=not requirements, live=live)
        files = {"bot.py": script.encode()}
        if requirements:
            files["requirements.txt"] = ("\n".join(requirements) + "\n").encode()
        archive.pack(files, target)
        return Packed(target, file=f"{name}.zip", name=name)
    path = Path(model).expanduser()
    if requirements:
        raise Invalid("requirements are for classes and functions", field="requirements",
                      remedy="write them into requirements.txt beside the model's script")
    if path.is_dir():
        archive.pack(_read(path), target)
        name = path.resolve().name or "model"
        return Packed(target, file=f"{name}.zip", name=name)
    if not path.is_file():
        raise Invalid(f"there is no file or folder {str(path)!r}", field="model",
                      remedy="name a folder, a zip or a .py file")
    return Packed(path, file=path.name, name=path.resolve().parent.name if path.stem == "bot" else path.stem)


def _read(folder: Path) -> dict[str, bytes]:
    """The content of every file that belongs to the model; raises `TooLarge` before more is read than is taken."""
    limits = archive.Limits()
    ignored = _ignored(folder)
    found: dict[str, bytes] = {}
    total = 0
    for path in _files(folder, ignored):
        total += path.stat().st_size
        if total > limits.size or len(found) >= limits.files:
            raise TooLarge(f"the folder {folder.name!r} is too large", field="model",
                           remedy=f"at most {limits.size // 2**20} MB and {limits.files:,} files; list what is no part "
                                  "of the model as ignore_files in blankly.json")
        found[path.relative_to(folder).as_posix()] = path.read_bytes()
    if not found:
        raise Invalid(f"the folder {str(folder)!r} is empty", field="model", remedy="deploy one with a script in it")
    return found


def _files(folder: Path, ignored: Sequence[PurePosixPath]) -> Iterator[Path]:
    """Files in order of their paths. Links are followed to files inside the folder; others are refused."""
    root = folder.resolve()
    for where, folders, names in os.walk(folder):
        here = Path(where)
        folders[:] = sorted(name for name in folders if not _left_out(here / name, folder, ignored)
                            and not (here / name / "pyvenv.cfg").is_file())
        for name in sorted(names):
            path = here / name
            if _left_out(path, folder, ignored) or path.suffix in _COMPILED:
                continue
            if not path.resolve().is_relative_to(root):
                raise Invalid(f"{path.relative_to(folder).as_posix()!r} is a link to somewhere else", field="model",
                              remedy="put the file itself into the folder, or list it as ignore_files in blankly.json")
            if path.is_file():
                yield path


def _left_out(path: Path, folder: Path, ignored: Sequence[PurePosixPath]) -> bool:
    inner = PurePosixPath(path.relative_to(folder).as_posix())
    return path.name in LEFT_OUT or any(inner == each or inner.match(str(each)) for each in ignored)


def _ignored(folder: Path) -> list[PurePosixPath]:
    """What `ignore_files` of the folder's blankly.json names: paths below the folder, or patterns such as `*.csv`."""
    manifest = folder / "blankly.json"
    given: Any = None
    if manifest.is_file():
        try:
            content = json.loads(manifest.read_text("utf-8-sig"))
        except (ValueError, OSError) as error:
            raise Invalid(f"blankly.json cannot be read: {error}", field="model", remedy="mend it") from None
        given = content.get("ignore_files") if isinstance(content, Mapping) else None
    if given is None:
        given = _IGNORED
    if not isinstance(given, list | tuple) or not all(isinstance(each, str) for each in given):
        raise Invalid("ignore_files of blankly.json is no list of texts", field="model",
                      remedy='write it like ["price_caches", "notes/draft.txt"]')
    return [PurePosixPath(each.strip().removeprefix("./").rstrip("/")) for each in given if each.strip(" ./")]
