"""What leaves the workbench: one page without outside references, tables that read back as they were."""

import io
import re
import threading
import zipfile

import numpy as np
import pytest
from pyarrow import csv, parquet

from engine import times
from tests.workbench.report_samples import result
from workbench import export
from workbench.theme import DARK, LIGHT
from workbench.views.data import Cache, LocalRun, drive


@pytest.fixture(scope="module")
def made():
    return result(bars=200)


@pytest.mark.parametrize("look", [LIGHT, DARK], ids=lambda look: look.name)
def test_the_page_refers_to_nothing_outside(made, look):
    page = drive(export.html_page(Cache(LocalRun(*made)), {"id": "01RUN"}, look)).decode()
    markup = re.sub(r"<script\b[^>]*>.*?</script>", "", page, flags=re.S)
    assert not re.search(r'(?:src|href)="(?!#|data:)', markup)
    assert "@import" not in markup
    assert not re.search(r"<script[^>]+src=", page)
    for part in ("Overview", "Returns", "Trades", "Details", "Worst drawdowns", "Provenance", "By exit reason"):
        assert part in markup
    assert "default-src 'none'" in page, "a browser refuses whatever might be asked for"


@pytest.mark.parametrize("options", [{"bars": 1, "trades": False}, {"bars": 50, "trades": False}])
def test_a_run_with_nothing_in_it_can_be_exported(options):
    assert b"No trades" in drive(export.html_page(Cache(LocalRun(*result(**options))), None, LIGHT))


@pytest.mark.anyio
async def test_to_html_writes_the_file(made, tmp_path):
    path = await export.to_html(LocalRun(*made), None, tmp_path / "report.html")
    assert path.read_bytes().startswith(b"<!doctype html>")


def test_csv_tables_read_back(made):
    archive = zipfile.ZipFile(io.BytesIO(drive(export.csv_zip(Cache(LocalRun(*made))))))
    assert set(archive.namelist()) == {"equity.csv", "fills.csv", "roundtrips.csv", "indicators.csv", "positions.csv"}
    equity = csv.read_csv(io.BytesIO(archive.read("equity.csv")))
    assert np.allclose(equity["value"].to_numpy(), made[0].tables["equity"]["value"])
    first = archive.read("equity.csv").decode().splitlines()[1].split(",")[0].strip('"')
    assert times.micros(times.parse(first)) == made[0].tables["equity"]["time"][0]


def test_parquet_tables_read_back(made):
    archive = zipfile.ZipFile(io.BytesIO(drive(export.parquet_zip(Cache(LocalRun(*made))))))
    trips = parquet.read_table(io.BytesIO(archive.read("roundtrips.parquet")))
    assert str(trips.schema.field("entry_time").type) == "timestamp[us, tz=UTC]"
    assert trips["symbol"].to_pylist() == made[0].tables["roundtrips"]["symbol"].tolist()
    assert np.array_equal(trips["pnl"].to_numpy(), made[0].tables["roundtrips"]["pnl"])


class RemoteRun(LocalRun):
    """A result that has to be fetched: there is a loop that others wait for."""

    async def table(self, name, **part):
        return super().table(name, **part)


@pytest.mark.anyio
@pytest.mark.parametrize("pack", [export.csv_zip, export.parquet_zip])
async def test_tables_are_packed_beside_the_loop(made, pack, monkeypatch):
    threads = []
    zipped = export._zip
    monkeypatch.setattr(export, "_zip", lambda *given: threads.append(threading.current_thread()) or zipped(*given))
    packed = [await pack(Cache(RemoteRun(*made))), drive(pack(Cache(LocalRun(*made))))]
    names, again = (zipfile.ZipFile(io.BytesIO(each)).namelist() for each in packed)
    assert names == again and len(names) == 5
    assert [thread is threading.main_thread() for thread in threads] == [False, True]


def test_file_names_are_safe():
    assert export.stem({"spec": {"strategy": "../../etc/pass wd"}}, {"id": "01ABC"}) == "etc-pass-wd-01ABC"
    assert export.stem({"spec": {}}, None) == "run"
    assert len(export.stem({"spec": {"strategy": "x" * 500}}, None)) <= 80
