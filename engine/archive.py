"""Archives of uploaded models: read with suspicion, unpacked only when nothing in them is wrong.

An archive is a zip whose files stand below one folder (`model`, also written `/model/…`, as real clients do) or at its
top, or a single Python file. Everything is judged by the zip's directory before a byte is written: absolute paths,
`..`, links, devices, encrypted or doubled entries, more files or bytes than allowed and entries that unpack to far more
than they weigh are refused by name. A directory can lie: `verify` reads every file to its end before an archive is
kept, and while unpacking the promised sizes are held to.

Archives hold secrets (`keys.json`, `api_pass` in `blankly.json`): what is told of them here are names and sizes.
"""

import hashlib
import io
import json
import lzma
import re
import shutil
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

import orjson

from engine.errors import Invalid, TooLarge

__all__ = [
    "Archive", "ArchiveFile", "Difference", "Limits", "difference", "digest", "inspect", "pack", "read_text", "stored",
    "unpack", "verify",
]

ROOT: Final = "model"
MANIFESTS: Final = ("blankly.json", "slate.json", "workbench.json")
SECRET: Final = re.compile(
    r"(^|/)(([^/]*[._-])?keys\.json(\.[^/]*)?|slate\.json|\.env(\.[^/]*)?|[^/]*\.(pem|key|p12|pfx|jks|keystore)"
    r"|id_[a-z0-9]+|\.git-credentials|\.git/config|[._]netrc|\.npmrc|\.pypirc|credentials(\.[a-z]+)?"
    r"|secrets?\.(json|ya?ml|toml|ini|txt))$", re.IGNORECASE)
"""Files that are never shown; `blankly.json` is shown without its passwords."""

_SECRET_KEYS: Final = re.compile(r"pass|secret|token|credential|private|(^|_)keys?$|api_?key", re.IGNORECASE)
_CLUTTER: Final = ("__MACOSX", ".DS_Store")
"""What macOS puts into a zip beside the files: a folder at its top, and a file in every folder."""

_DIRECTORY: Final = 512  # bytes for each file that a zip's directory may have
_CHUNK: Final = 2**16
_UNIX: Final = 3  # "made by" of entries that carry a file mode


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What an archive may hold. `ratio` is unpacked bytes for each packed one, over entries above `free` bytes."""

    files: int = 10_000
    size: int = 512 * 2**20
    one: int = 256 * 2**20
    ratio: int = 200
    free: int = 2**20
    depth: int = 32
    name: int = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchiveFile:
    """One file: its path below the model's folder, its size in bytes, its CRC-32, whether its content is a secret."""

    path: str
    size: int
    crc: int
    secret: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """What an archive holds. `manifest` is its `blankly.json` (or slate.json, workbench.json) without secrets."""

    files: tuple[ArchiveFile, ...]
    size: int
    sha256: str
    main_script: str
    requirements: str = ""
    manifest: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(file.path for file in self.files)


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """What changed from one archive to another: paths, in order."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


def digest(path: Path) -> str:
    """sha256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stored(data_dir: Path, sha256: str) -> Path:
    """Where an archive of this content lies in a data directory."""
    return data_dir / "archives" / sha256[:2] / f"{sha256}.zip"


def inspect(path: Path, limits: Limits = Limits(), *, name: str = "") -> Archive:
    """What an uploaded file holds; `name` is what its sender called it. Writes nothing.

    Raises `Invalid` (field "model") naming the entry that is wrong, `TooLarge` for more than the limits allow.
    """
    if not zipfile.is_zipfile(path):
        return _single(path, name, limits)
    with _open(path, limits) as archive:
        entries = _entries(archive, limits)
        files = tuple(ArchiveFile(path=inner, size=info.file_size, crc=info.CRC, secret=bool(SECRET.search(inner)))
                      for inner, info in entries)
        if not files:
            raise Invalid("the archive is empty", field="model", remedy="zip the folder with the model's main script")
        manifest = _manifest(archive, dict(entries))
    names = [file.path for file in files]
    return Archive(files=files, size=sum(file.size for file in files), sha256=digest(path),
                   main_script=_main_script(manifest, names), requirements=_requirements(manifest, names),
                   manifest=_without_secrets(manifest))


def verify(path: Path, limits: Limits = Limits()) -> None:
    """Read every file to its end, without keeping any of it. Raises `Invalid` (field "model") naming the one that is
    damaged, or not what the zip's directory says; also all that `inspect` raises."""
    if zipfile.is_zipfile(path):
        with _open(path, limits) as archive:
            for _, info in _entries(archive, limits):
                for _ in _content(archive, info):
                    pass


def unpack(path: Path, folder: Path, limits: Limits = Limits(), *, name: str = "") -> None:
    """Write the model's files below `folder`, which must not exist or be empty. Judged as in `inspect` first, so a
    refused archive writes nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    if next(folder.iterdir(), None) is not None:
        raise FileExistsError(f"{folder} is not empty")
    if not zipfile.is_zipfile(path):
        single = _single(path, name, limits)
        (folder / single.main_script).write_bytes(path.read_bytes())
        return
    try:
        with _open(path, limits) as archive:
            for inner, info in _entries(archive, limits):
                target = folder.joinpath(*PurePosixPath(inner).parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                _copy(archive, info, target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def read_text(path: Path, inner: str, most: int = 2**20) -> str | None:
    """The text of one file of an archive, None when it is no text or too long to be shown. Raises `Invalid` for an
    unknown or a secret one."""
    if SECRET.search(inner):
        raise Invalid(f"{inner!r} holds secrets", field="path", remedy="it is not shown")
    if not zipfile.is_zipfile(path):
        return _text(path.read_bytes()) if path.stat().st_size <= most else None
    with _open(path, Limits()) as archive:
        info = dict(_entries(archive, Limits())).get(inner)
        if info is None:
            raise Invalid(f"there is no {inner!r} in this archive", field="path")
        if info.file_size > most:
            return None
        content = _text(b"".join(_content(archive, info)))
    if content is not None and PurePosixPath(inner).name in MANIFESTS:
        return json.dumps(_without_secrets(_object(content)), indent=4)
    return content


def difference(old: Archive, new: Archive) -> Difference:
    """What changed, judged by sizes and checksums."""
    before = {file.path: (file.size, file.crc) for file in old.files}
    after = {file.path: (file.size, file.crc) for file in new.files}
    return Difference(added=tuple(sorted(after.keys() - before.keys())),
                      removed=tuple(sorted(before.keys() - after.keys())),
                      changed=tuple(sorted(path for path in before.keys() & after.keys()
                                           if before[path] != after[path])))


def pack(files: Mapping[str, bytes], target: Path) -> None:
    """Write an archive of files (path below the model's folder -> content): the same files make the same bytes."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for inner in sorted(files):
            info = zipfile.ZipInfo(f"{ROOT}/{inner}", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(info, files[inner])


# -- judging


class _Pieces(io.BufferedReader):
    """A zip's bytes. Its directory is read in one piece, all of it kept: one beyond measure is refused instead."""

    most = 0

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.most:
            raise TooLarge(f"the archive has a directory of {size} bytes", remedy="zip the model's folder again")
        return super().read(size)


@contextmanager
def _open(path: Path, limits: Limits) -> Iterator[zipfile.ZipFile]:
    with _Pieces(io.FileIO(path)) as file:
        file.most = max(limits.files * _DIRECTORY, 2 * _CHUNK)
        with _read(file) as archive:
            yield archive


def _read(file: _Pieces) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, struct.error) as error:
        raise Invalid(f"this is no zip that can be read: {error}", field="model",
                      remedy="zip the model's folder again") from None


def _entries(archive: zipfile.ZipFile, limits: Limits) -> list[tuple[str, zipfile.ZipInfo]]:
    """(path below the model's folder, entry) of every file; raises for what must not be there."""
    infos = [info for info in archive.infolist() if not info.is_dir()]
    if len(infos) > limits.files:
        raise TooLarge(f"the archive has {len(infos)} files", remedy=f"at most {limits.files} are taken; leave out "
                       "caches and folders such as .git with ignore_files")
    total = 0
    for info in infos:
        total += info.file_size
        packed = max(info.compress_size, 1)
        if info.file_size > limits.one or total > limits.size:
            raise TooLarge(f"{_shown(info.filename)} makes the archive too large unpacked",
                           remedy=f"at most {limits.size // 2**20} MB in all and {limits.one // 2**20} MB a file")
        if info.file_size > limits.free and info.file_size / packed > limits.ratio:
            raise TooLarge(f"{_shown(info.filename)} unpacks to {info.file_size // packed} times its size",
                           remedy=f"at most {limits.ratio} times is taken")
        if info.flag_bits & 1:
            raise _wrong(info, "is encrypted", "zip it without a password")
        if info.create_system == _UNIX:
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind and not stat.S_ISREG(kind):
                raise _wrong(info, "is a link or a device, not a file", "put the file itself into the zip")
    return _placed(infos, limits)


def _placed(infos: Sequence[zipfile.ZipInfo], limits: Limits) -> list[tuple[str, zipfile.ZipInfo]]:
    found: dict[str, zipfile.ZipInfo] = {}
    folded: set[str] = set()
    paths = [_path(info, limits) for info in infos]
    tops = {(parts[0], len(parts) > 1) for parts in paths if parts[0] != _CLUTTER[0]}
    below_root = len(tops) == 1 and all(deeper for _, deeper in tops)
    for info, parts in zip(infos, paths, strict=True):
        if parts[0] == _CLUTTER[0] or parts[-1] == _CLUTTER[1]:
            continue
        inner = "/".join(parts[1:] if below_root else parts)
        fold = unicodedata.normalize("NFC", inner).casefold()
        if fold in folded:
            raise _wrong(info, "is there twice", "every path may be there once, also on file systems without case")
        folded.add(fold)
        found[inner] = info
    for inner in found:
        parents = inner.split("/")[:-1]
        for depth in range(1, len(parents) + 1):
            if "/".join(parents[:depth]) in found:
                raise _wrong(found[inner], "lies below a file", "zip the folder again")
    return list(found.items())


def _path(info: zipfile.ZipInfo, limits: Limits) -> tuple[str, ...]:
    """The parts of an entry's path. One slash before `model/` is what real clients write; no other is taken."""
    name = info.filename
    if name.startswith(f"/{ROOT}/"):
        name = name[1:]
    if len(name) > limits.name or not name or any(ord(letter) < 32 or letter in "\\\x7f" for letter in name):
        raise _wrong(info, "has a name that cannot be used",
                     "use short names without control characters or backslashes")
    parts = tuple(name.split("/"))
    if name.startswith("/") or ":" in parts[0]:
        raise _wrong(info, "has an absolute path", "use paths below the model's folder")
    if any(part in ("..", ".", "") or part != part.strip() for part in parts):
        raise _wrong(info, "leaves the model's folder or has an empty part", "use plain relative paths")
    if len(parts) > limits.depth or any(len(part.encode("utf-8", "surrogatepass")) > 255 for part in parts):
        raise _wrong(info, "is nested too deeply or has too long a part", f"use at most {limits.depth} folders")
    return parts


def _wrong(info: zipfile.ZipInfo, what: str, remedy: str) -> Invalid:
    return Invalid(f"{_shown(info.filename)} in the archive {what}", field="model", remedy=remedy)


def _shown(name: str) -> str:
    return repr(name if len(name) <= 100 else name[:97] + "...")


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """The bytes of an entry, never more than its size; raises `Invalid` when they cannot be read."""
    left = info.file_size
    try:
        with archive.open(info) as source:
            while chunk := source.read(min(_CHUNK, left + 1)):
                left -= len(chunk)
                if left < 0:
                    raise _wrong(info, "is longer than its entry says", "zip the folder again")
                yield chunk
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, ValueError, RuntimeError, zlib.error,
            lzma.LZMAError) as error:
        raise _wrong(info, f"is damaged ({error})", "zip the folder again") from None
    if left:
        raise _wrong(info, "is shorter than its entry says", "zip the folder again")


def _copy(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    with target.open("xb") as file:
        for chunk in _content(archive, info):
            file.write(chunk)


def _single(path: Path, name: str, limits: Limits) -> Archive:
    """A Python file by itself."""
    size = path.stat().st_size
    if size > min(limits.one, 2**23):
        raise Invalid("this is neither a zip nor a Python file of a sane size", field="model",
                      remedy="send a zip of the model's folder, or one .py file")
    content = _text(path.read_bytes())
    script = PurePosixPath(name.replace("\\", "/")).name
    if content is None or not content.strip() or (script and not script.endswith(".py")):
        raise Invalid("this is neither a zip nor a Python file", field="model",
                      remedy="send a zip of the model's folder, or one .py file")
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", script):
        script = "bot.py"
    return Archive(files=(ArchiveFile(path=script, size=size, crc=0, secret=False),), size=size, sha256=digest(path),
                   main_script=script)


# -- reading


def _manifest(archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo]) -> dict[str, Any]:
    for name in MANIFESTS:
        info = entries.get(name)
        if info is not None and info.file_size <= 2**20:
            return _object(_text(b"".join(_content(archive, info))) or "", name)
    return {}


def _object(text: str, name: str = "") -> dict[str, Any]:
    try:
        found = json.loads(text)
        orjson.dumps(found)  # nested too deep, or what no other reader takes
    except (ValueError, TypeError, RecursionError) as error:
        raise Invalid(f"{name or 'the manifest'} is not JSON: {error}", field="model",
                      remedy="mend it and upload again") from None
    if not isinstance(found, dict):
        raise Invalid(f"{name or 'the manifest'} is not a JSON object", field="model", remedy="mend it")
    return found


def _text(content: bytes) -> str | None:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _without_secrets(value: Any, hidden: bool = False) -> Any:
    """The value, with asterisks for all that lies below a name that speaks of secrets."""
    if isinstance(value, dict):
        return {key: _without_secrets(item, hidden or bool(_SECRET_KEYS.search(key))) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_secrets(item, hidden) for item in value]
    return "***" if hidden and value else value


def _candidates(manifest: Mapping[str, Any], key: str) -> Iterator[str]:
    """Where a path of the manifest may lie: relative to its working directory, and to the model's folder."""
    given = manifest.get(key)
    if isinstance(given, str) and given.strip():
        folder = str(manifest.get("working_directory") or ".")
        for base in (folder, "."):
            parts = [part for part in (*PurePosixPath(base).parts, *PurePosixPath(given).parts) if part != "."]
            if ".." not in parts and not given.startswith("/"):
                yield "/".join(parts)


def _main_script(manifest: Mapping[str, Any], names: Sequence[str]) -> str:
    for candidate in _candidates(manifest, "main_script"):
        if candidate in names:
            return candidate
    if manifest.get("main_script"):
        raise Invalid(f"the main script {_shown(str(manifest['main_script']))} is not in the archive", field="model",
                      remedy="name a file of the archive as main_script")
    for candidate in ("bot.py", "main.py", "model.py", "strategy.py"):
        if candidate in names:
            return candidate
    scripts = [name for name in names if name.endswith(".py") and "/" not in name]
    if len(scripts) == 1:
        return scripts[0]
    raise Invalid("the archive does not say which script to run", field="model",
                  remedy="call it bot.py, or name it as main_script in blankly.json")


def _requirements(manifest: Mapping[str, Any], names: Sequence[str]) -> str:
    return next((candidate for candidate in (*_candidates(manifest, "requirements"), "requirements.txt")
                 if candidate in names), "")
