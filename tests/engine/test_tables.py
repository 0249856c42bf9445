"""Parts of result tables and their forms."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from engine.errors import Invalid
from engine.tables import part_of, render

DAY = 86_400_000_000


@pytest.fixture
def equity() -> pa.Table:
    value = np.sin(np.arange(10_000) / 50) * 100
    value[1234] = 5000.0
    return pa.table({"time": np.arange(10_000) * DAY, "value": value})


@pytest.fixture
def roundtrips() -> pa.Table:
    return pa.table({"symbol": pa.array(["A", "B", "A"]).dictionary_encode(), "entry_time": [0, DAY, 5 * DAY],
                     "exit_time": [3 * DAY, 2 * DAY, 6 * DAY], "mae": [np.nan, -0.5, 0.0]})


def test_points_keep_the_extremes_and_the_order(equity: pa.Table) -> None:
    part = part_of(equity, "equity", points=100)
    assert part.table.num_rows <= 100 and 5000.0 in part.table["value"].to_pylist()
    times = part.table["time"].to_numpy()
    assert (np.diff(times) > 0).all() and times[0] == 0 and times[-1] == 9_999 * DAY


def test_ranges_are_inclusive_and_pages_count_what_the_filters_keep(equity: pa.Table) -> None:
    part = part_of(equity, "equity", start=10 * DAY, end=20 * DAY, offset=3, limit=4)
    assert part.table["time"].to_pylist() == [day * DAY for day in (13, 14, 15, 16)]
    assert (part.offset, part.total) == (3, 11)


def test_roundtrips_count_while_they_are_open(roundtrips: pa.Table) -> None:
    part = part_of(roundtrips, "roundtrips", start=3 * DAY, end=4 * DAY)
    assert render(part, "json")["columns"]["entry_time"].tolist() == [0]
    assert part_of(roundtrips, "roundtrips", symbol="A").total == 2


def test_the_forms_say_the_same(roundtrips: pa.Table) -> None:
    part = part_of(roundtrips, "roundtrips")
    columns = render(part, "json")["columns"]
    assert columns["symbol"] == ["A", "B", "A"] and columns["exit_time"].dtype == np.int64
    for table in (pa.ipc.open_stream(render(part, "arrow")).read_all(),
                  parquet.read_table(io.BytesIO(render(part, "parquet")))):
        assert table["symbol"].to_pylist() == ["A", "B", "A"]
        assert table["exit_time"].type == pa.timestamp("us", tz="UTC")
        assert table["exit_time"].cast("int64").to_pylist() == [3 * DAY, 2 * DAY, 6 * DAY]
    lines = render(part, "csv").decode().splitlines()
    assert lines[1] == '"A","1970-01-01T00:00:00.000000Z","1970-01-04T00:00:00.000000Z",'


def test_what_does_not_apply_is_named(equity: pa.Table, roundtrips: pa.Table) -> None:
    for table, name, wrong in ((equity, "equity", {"symbol": "A"}), (roundtrips, "roundtrips", {"points": 5})):
        with pytest.raises(Invalid) as caught:
            part_of(table, name, **wrong)
        assert caught.value.field in wrong


@pytest.mark.parametrize("form", ["json", "arrow", "csv", "parquet"])
def test_an_empty_table_has_every_form(equity: pa.Table, form: str) -> None:
    part = part_of(equity, "equity", start=10**18)
    assert part.total == 0 and render(part, form) is not None
