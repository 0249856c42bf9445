"""Uploads as Blankly's clients send them: multipart with the archive in one part and the words in others.

The body lies on disk already and is taken apart there, piece by piece: the archive goes to a file of its own beside
the other archives, the words, which are short, stay in memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from engine.errors import TooLarge
from server.dialects.blankly_body import Fields, parse
from server.dialects.failures import Malformed
from server.services.versions import UPLOAD

__all__ = ["Upload", "take_apart"]

PART: Final = "model"
MOST_FIELDS: Final = 200
LONGEST_FIELD: Final = 2**20
MOST_WORDS: Final = 2**22
_PIECE: Final = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """The words of an upload and its file, None when it has none; `name` is what its sender called it. Who took it
    apart removes the file."""

    fields: Fields
    file: Path | None = None
    name: str = ""


def take_apart(content_type: str, body: IO[bytes] | None, folder: Path) -> Upload:
    """The parts of an upload; its file is made in `folder`. Raises `Malformed` and `TooLarge`. Blocks."""
    if body is None:
        return Upload(fields=Fields({}))
    body.seek(0)
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        words = body.read(MOST_WORDS + 1)
        if len(words) > MOST_WORDS:
            raise TooLarge("the body is too large", remedy="send the archive as the part model of multipart/form-data")
        return Upload(fields=Fields(parse(content_type, words)))
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise Malformed("the body has no boundary", field="Content-Type", remedy="name the boundary in the header")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    parts = _Parts(folder)
    try:
        parser = MultipartParser(boundary, parts.callbacks())  # type: ignore[arg-type]
        while piece := body.read(_PIECE):
            parser.write(piece)
        parser.finalize()
        if not parts.ended:
            raise Malformed("the body ends before its last part does", remedy="send it whole")
    except FormParserError as error:
        parts.drop()
        raise Malformed(f"the body cannot be read: {error}", remedy="send multipart/form-data") from None
    except BaseException:
        parts.drop()
        raise
    parts.close()
    return Upload(fields=Fields(parts.words), file=parts.path, name=parts.name)


@dataclass(eq=False)
class _Parts:
    """Takes what the parser hears."""

    folder: Path
    words: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None
    name: str = ""
    ended: bool = False
    _header: bytes = b""
    _value: bytes = b""
    _disposition: bytes = b""
    _part: str = ""
    _file: IO[bytes] | None = None
    _text: bytearray = field(default_factory=bytearray)
    _count: int = 0
    _length: int = 0

    def callbacks(self) -> Mapping[str, Any]:
        return {"on_part_begin": self._begin, "on_header_field": self._on_header, "on_header_value": self._on_value,
                "on_header_end": self._on_header_end, "on_headers_finished": self._on_headers,
                "on_part_data": self._on_data, "on_part_end": self._end, "on_end": self._finish}

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def drop(self) -> None:
        self.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _begin(self) -> None:
        self._count += 1
        if self._count > MOST_FIELDS:
            raise Malformed("the body has too many parts", remedy=f"send at most {MOST_FIELDS}")
        self._header = self._value = self._disposition = b""
        self._text.clear()

    def _on_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _on_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        named = options.get(b"name")
        if not named:
            raise Malformed("a part of the body has no name", remedy="send form-data with Content-Disposition")
        self._part = named.decode("utf-8", "replace")
        if b"filename" not in options and self._part != PART:
            return
        if self.path is not None:
            raise Malformed("the body has more than one file", field=PART, remedy="send one archive")
        self.name = options.get(b"filename", b"").decode("utf-8", "replace")
        made = NamedTemporaryFile(dir=self.folder, prefix=UPLOAD, delete=False)  # noqa: SIM115  closed in close
        self._file, self.path = made, Path(made.name)

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])
            return
        self._length += end - start
        if len(self._text) + end - start > LONGEST_FIELD or self._length > MOST_WORDS:
            raise TooLarge(f"the field {self._part[:40]!r} is too long", field=self._part[:40],
                           remedy=f"a field may have {LONGEST_FIELD} bytes")
        self._text += data[start:end]

    def _end(self) -> None:
        if self._file is not None:
            self.close()
            return
        try:
            self.words[self._part] = self._text.decode("utf-8")
        except UnicodeDecodeError:
            raise Malformed(f"the field {self._part[:40]!r} is not UTF-8", field=self._part[:40],
                            remedy="send UTF-8") from None

    def _finish(self) -> None:
        self.ended = True
