"""Many rows at once: whatever their number, on each backend."""

import pytest
from sqlalchemy import Connection

from engine.errors import Conflict
from server.store.bulk import find_rows, insert_events, insert_rows, upsert_rows
from server.store.database import Database
from server.store.tables.activity import ingest_keys

pytestmark = pytest.mark.anyio


def rows(count: int, answer: str, first: int = 0) -> list[tuple[str, str, int, str, str]]:
    return [("owner", f"key {number}", number, "digest", f"{answer}\t\\ \n'é") for number in range(first, count)]


@pytest.mark.parametrize("count", [0, 1, 8, 9, 63, 64, 600, 1200])
async def test_rows_are_put_replaced_and_found(database: Database, count: int) -> None:
    def work(connection: Connection) -> None:
        before, after = rows(count // 2, "before"), rows(count, "after")
        insert_rows(connection, ingest_keys, before)
        keys = [row[:2] for row in after]
        assert sorted(map(tuple, find_rows(connection, ingest_keys, keys))) == sorted(before)
        upsert_rows(connection, ingest_keys, after)
        found = find_rows(connection, ingest_keys, [*keys, ("owner", "none")])
        assert sorted(map(tuple, found)) == sorted(after)

    await database.write(work)


async def test_ids_of_events_follow_each_other_in_the_order_of_the_rows(database: Database) -> None:
    def work(connection: Connection, first: int, count: int) -> list[tuple[int, int]]:
        made = [(f"s{number % 2}", number, "log", 1, '{"a": "\\\\n\\t"}') for number in range(first, first + count)]
        ids = insert_events(connection, made)
        found = connection.exec_driver_sql("SELECT id, seq, data FROM events ORDER BY id").all()
        assert [tuple(row) for row in found[-count:]] == [
            (id, row[1], row[4]) for id, row in zip(ids, made, strict=True)]
        return [(row.id, row.seq) for row in found]

    def fails(connection: Connection) -> None:
        insert_events(connection, [("s", number, "log", 1, "{}") for number in range(1, 600)])
        raise Conflict("no")

    await database.write(lambda connection: work(connection, 1, 700))
    with pytest.raises(Conflict):
        await database.write(fails)
    found = await database.write(lambda connection: work(connection, 701, 3))
    assert [seq for _, seq in found] == list(range(1, 704))
    assert [id for id, _ in found] == sorted({id for id, _ in found})
