"""Archives: honest ones are read and unpacked byte for byte, hostile ones are refused before anything is written."""

import io
import os
import stat
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.archive import Limits, difference, inspect, pack, read_text, unpack, verify
from engine.errors import Invalid, TooLarge, WorkbenchError

BOT = b"print('hello')\n"
SMALL = Limits(files=20, size=200_000, one=100_000, ratio=50, free=1000)


def zipped(path: Path, entries: list[tuple[str, bytes]], **how: object) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's own, about doubled names
        for name, content in entries:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            for key, value in how.items():
                setattr(info, key, value)
            archive.writestr(info, content)
    return path


def written(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("root", ["model/", "/model/", ""])
def test_files_lie_below_one_folder_or_at_the_top(tmp_path: Path, root: str) -> None:
    path = zipped(tmp_path / "a.zip", [(root + "bot.py", BOT), (root + "data/prices.csv", b"1,2\n"),
                                       (root + "requirements.txt", b"numpy\n")])
    archive = inspect(path)
    assert archive.names == {"bot.py", "data/prices.csv", "requirements.txt"}
    assert (archive.main_script, archive.requirements, archive.size) == ("bot.py", "requirements.txt", 25)
    unpack(path, tmp_path / "out")
    assert written(tmp_path / "out") == {"bot.py": BOT, "data/prices.csv": b"1,2\n", "requirements.txt": b"numpy\n"}


HOSTILE: dict[str, list[tuple[str, bytes]]] = {
    "above": [("model/bot.py", BOT), ("model/../../evil.py", b"x")],
    "absolute": [("/etc/cron.d/evil", b"x"), ("bot.py", BOT)],
    "drive": [("C:/evil.py", b"x"), ("bot.py", BOT)],
    "backslash": [("model/..\\evil.py", b"x"), ("model/bot.py", BOT)],
    "control": [("model/a\nb.py", b"x"), ("model/bot.py", BOT)],
    "dot": [("model/./bot.py", BOT)],
    "double slash": [("model//bot.py", BOT)],
    "long": [("model/" + "a" * 300, b"x"), ("model/bot.py", BOT)],
    "deep": [("model/" + "a/" * 40 + "b.py", b"x"), ("model/bot.py", BOT)],
    "twice": [("model/bot.py", BOT), ("model/bot.py", b"other")],
    "twice without case": [("model/bot.py", BOT), ("model/BOT.py", b"other")],
    "below a file": [("model/bot.py", BOT), ("model/bot.py/x", b"other")],
    "no script": [("model/readme.txt", b"x")],
    "missing script": [("model/blankly.json", b'{"main_script": "./gone.py"}'), ("model/bot.py", BOT)],
    "script outside": [("model/blankly.json", b'{"main_script": "../../etc/passwd"}'), ("model/bot.py", BOT)],
    "broken manifest": [("model/blankly.json", b"{"), ("model/bot.py", BOT)],
    "manifest is a list": [("model/blankly.json", b"[]"), ("model/bot.py", BOT)],
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_archives_are_refused_by_name_and_write_nothing(tmp_path: Path, name: str) -> None:
    path = zipped(tmp_path / "a.zip", HOSTILE[name])
    with pytest.raises(Invalid) as caught:
        inspect(path)
    assert caught.value.problems[0].field == "model" and caught.value.problems[0].remedy
    if "script" not in name and "manifest" not in name:
        with pytest.raises(Invalid):
            unpack(path, tmp_path / "out" / "in")
        assert not written(tmp_path / "out") and not (tmp_path / "evil.py").exists()


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_are_refused(tmp_path: Path, kind: int) -> None:
    path = zipped(tmp_path / "a.zip", [("model/bot.py", b"/etc/passwd")], create_system=3,
                  external_attr=(kind | 0o777) << 16)
    with pytest.raises(Invalid, match="link or a device"):
        inspect(path)


def test_bombs_are_refused_before_they_go_off(tmp_path: Path) -> None:
    bomb = zipped(tmp_path / "a.zip", [("model/bot.py", BOT), ("model/zeros", b"\0" * 90_000)])
    assert bomb.stat().st_size < 1000
    with pytest.raises(TooLarge, match="times its size"):
        inspect(bomb, SMALL)
    with pytest.raises(TooLarge, match="unpacked"):
        inspect(zipped(tmp_path / "b.zip", [("model/bot.py", BOT), ("model/noise", os.urandom(100_001))]), SMALL)
    with pytest.raises(TooLarge, match="21 files"):
        inspect(zipped(tmp_path / "c.zip", [(f"model/{number}.py", BOT) for number in range(21)]), SMALL)
    noise = [(f"model/{number}", os.urandom(60_000)) for number in range(4)]
    with pytest.raises(TooLarge, match="unpacked"):
        inspect(zipped(tmp_path / "d.zip", [("model/bot.py", BOT), *noise]), SMALL)


def test_a_directory_that_lies_about_a_size_is_found_out(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", [("model/bot.py", b"A" * 5000)])
    honest = path.read_bytes()
    path.write_bytes(honest.replace(struct.pack("<I", 5000), struct.pack("<I", 10)))
    with pytest.raises(Invalid, match=r"damaged|longer"):
        unpack(path, tmp_path / "out")
    assert sum(len(content) for content in written(tmp_path / "out").values()) <= 10


def test_encrypted_entries_are_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", [("model/bot.py", BOT)])
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flag in the directory
    path.write_bytes(data)
    with pytest.raises(Invalid, match="encrypted"):
        inspect(path)


def test_secrets_are_named_and_never_shown(tmp_path: Path) -> None:
    manifest = (b'{"main_script": "./bot.py", "api_key": "k-1", "api_pass": "p-2", "plan": "nano", '
                b'"a": {"token": "t-3"}}')
    path = zipped(tmp_path / "a.zip", [("model/bot.py", BOT), ("model/keys.json", b'{"k": "s-4"}'),
                                       ("model/sub/.env", b"S=s-5"), ("model/blankly.json", manifest)])
    archive = inspect(path)
    assert {file.path for file in archive.files if file.secret} == {"keys.json", "sub/.env"}
    assert archive.manifest["plan"] == "nano"
    told = repr(archive) + str(read_text(path, "blankly.json"))
    assert not any(secret in told for secret in ("k-1", "p-2", "t-3", "s-4", "s-5"))
    with pytest.raises(Invalid, match="secrets"):
        read_text(path, "keys.json")
    assert read_text(path, "bot.py") == BOT.decode()


def test_main_script_and_requirements_are_found_from_both_folders(tmp_path: Path) -> None:
    manifest = b'{"main_script": "./run.py", "requirements": "need.txt", "working_directory": "src"}'
    for number, folder in enumerate(("src/", "")):
        path = zipped(tmp_path / f"{number}.zip", [("model/blankly.json", manifest), (f"model/{folder}run.py", BOT),
                                                   (f"model/{folder}need.txt", b"x")])
        archive = inspect(path)
        assert (archive.main_script, archive.requirements) == (f"{folder}run.py", f"{folder}need.txt")


def test_one_python_file_is_an_archive_of_one(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes(BOT)
    assert inspect(path, name="my_bot.py").main_script == "my_bot.py"
    assert inspect(path, name="../../x y.py").main_script == "bot.py"
    unpack(path, tmp_path / "out", name="my_bot.py")
    assert written(tmp_path / "out") == {"my_bot.py": BOT}
    for content, name in ((b"\x89PNG\0\0", "a.py"), (b"", "a.py"), (BOT, "a.tar.gz")):
        path.write_bytes(content)
        with pytest.raises(Invalid, match="neither"):
            inspect(path, name=name)


def test_what_changed_between_two_archives(tmp_path: Path) -> None:
    pack({"bot.py": BOT, "a": b"1", "b": b"2"}, tmp_path / "old.zip")
    pack({"bot.py": BOT, "a": b"3", "c": b"2"}, tmp_path / "new.zip")
    found = difference(inspect(tmp_path / "old.zip"), inspect(tmp_path / "new.zip"))
    assert (found.added, found.removed, found.changed) == (("c",), ("b",), ("a",))
    pack({"b": b"2", "a": b"1", "bot.py": BOT}, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == (tmp_path / "old.zip").read_bytes()


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6))
def test_whatever_arrives_is_read_or_refused(noise: bytes, flips: list[tuple[int, int]]) -> None:
    import tempfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/bot.py", BOT)
        archive.writestr("model/data", noise)
    data = bytearray(buffer.getvalue())
    for place, value in flips:
        data[place % len(data)] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "upload.zip")
        path.write_bytes(data)
        try:
            inspect(path)
            unpack(path, Path(folder, "out"))
        except WorkbenchError:
            pass
        assert {entry.name for entry in Path(folder).iterdir()} <= {"upload.zip", "out"}


WRONG_INSIDE: dict[str, tuple[bytes, bytes]] = {
    "checksum": (struct.pack("<I", zlib.crc32(BOT)), b"\1\2\3\4"),
    "method": (b"\0\0\x08\0", b"\0\0\x09\0"),  # flags and method, in the entry and in the directory
    "name": (b"", b""),  # differs in the entry from that in the directory
}


@pytest.mark.parametrize("name", sorted(WRONG_INSIDE))
def test_what_is_wrong_inside_is_found_before_an_archive_is_kept(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.zip"
    zipped(path, [("model/first.py", b"first"), ("model/bot.py", BOT)])
    old, new = WRONG_INSIDE[name]
    whole = path.read_bytes()
    if name == "name":
        start = whole.rindex(b"PK\x03\x04") + 30
        damaged = whole[:start] + b"model/bad.py" + whole[start + 12 :]
    else:
        damaged = whole.replace(old, new)
    assert damaged != whole
    path.write_bytes(damaged)
    inspect(path)  # its directory is good
    with pytest.raises(Invalid, match="damaged") as caught:
        verify(path)
    assert caught.value.problems[0].field == "model"
    with pytest.raises(Invalid):
        unpack(path, tmp_path / "out")
    assert not written(tmp_path / "out"), "nothing is left of one that is refused half-way"


def test_a_directory_beyond_measure_is_refused_before_it_is_read(tmp_path: Path) -> None:
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 3, 20, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    count = 300_000
    size = len(entry) * count
    path = tmp_path / "a.zip"
    path.write_bytes(entry * count + struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, 0)
                     + struct.pack("<4sLQL", b"PK\6\7", 0, size, 1)
                     + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0))
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge, match="directory"):
            inspect(path)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("manifest", [
    b"[" * 100_000, b'{"a":' * 5000 + b"1" + b"}" * 5000, b'{"a":' * 300 + b"1" + b"}" * 300,
    b'{"a": ' + b"9" * 40 + b"}", b'{"a": "\\ud800"}', b'{"main_script": "' + b"x" * 500_000 + b'"}'])
def test_manifests_that_nobody_could_be_shown_are_refused_in_short_words(tmp_path: Path, manifest: bytes) -> None:
    path = zipped(tmp_path / "a.zip", [("model/bot.py", BOT), ("model/blankly.json", manifest)])
    with pytest.raises(Invalid) as caught:
        inspect(path)
    assert len(str(caught.value)) < 500


def test_secrets_are_hidden_however_deep_they_lie(tmp_path: Path) -> None:
    manifest = (b'{"api_pass": ["s-1"], "passwords": {"coinbase": "s-2", "more": [{"x": "s-3"}]}, '
                b'"keys": {"k": "s-4"}, "private_key": 5551212, "plan": "nano", "password": ""}')
    hidden = ("keys.json.bak", ".git-credentials", ".netrc", "deep/.pypirc", "secrets.yml", "credentials.json",
              ".git/config", "Secret.toml", "store.p12", "my_keys.json")
    shown = ("monkeys.py", "keyboard.json", "secretary.py", "config.json", ".gitignore")
    path = zipped(tmp_path / "a.zip", [("model/bot.py", BOT), ("model/blankly.json", manifest),
                                       *((f"model/{name}", b"{}") for name in (*hidden, *shown))])
    archive = inspect(path)
    told = repr(archive) + str(read_text(path, "blankly.json"))
    assert not any(f"s-{n}" in told for n in range(1, 5)) and "5551212" not in told and "nano" in told
    assert {file.path for file in archive.files if file.secret} == set(hidden)


def test_what_a_mac_adds_is_left_out_and_any_one_folder_will_do(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", [("my bot/bot.py", BOT), ("my bot/blankly.json", b"{}"),
                                       ("my bot/.DS_Store", b""), ("__MACOSX/my bot/._bot.py", b"\0\5"),
                                       ("__MACOSX/._my bot", b"\0\5")])
    archive = inspect(path)
    assert archive.names == {"bot.py", "blankly.json"} and archive.main_script == "bot.py"
    unpack(path, tmp_path / "out")
    assert set(written(tmp_path / "out")) == {"bot.py", "blankly.json"}
