"""Orders read page by page: a page costs the same however much there is, whatever is looked for."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import insert

from server.services import model_reads
from server.services.model_reads import ModelReads, OrderQuery
from server.store.database import Database
from server.store.tables.activity import models, orders, projects

pytestmark = pytest.mark.anyio
AT = 1_700_000_000_000_000


def order_row(number: int, symbol: str) -> dict[str, Any]:
    return {"model_id": "bot", "run_id": "", "id": f"{number:02}", "symbol": symbol, "kind": "market", "side": "buy",
            "size": 1.0, "price": 2.0, "at": AT + number // 3, "received_at": AT}


@pytest.fixture
async def reads(database: Database) -> ModelReads:
    def fill(connection: Any) -> None:
        connection.execute(insert(projects).values(id="p", name="p", description="", owner="", created_at=AT))
        connection.execute(insert(models).values(
            id="bot", project_id="p", name="bot", description="", dialect="native", kind="strategy", created_at=AT,
            symbols=[], exchanges=[], auto_pnl=True, metrics={}, orders=21, errors=0))
        connection.execute(insert(orders), [
            order_row(number, "RARE" if number in (2, 17) else "BTC-USD") for number in range(21)])

    await database.write(fill)
    return ModelReads(database)


async def everything(reads: ModelReads, query: OrderQuery, **options: Any) -> tuple[list[str], int]:
    """The ids of all pages, and how many pages there were."""
    found, pages = [], 0
    while True:
        page = await reads.orders("bot", query, **options)
        found, pages = [*found, *(order.id for order in page.items)], pages + 1
        if page.next is None:
            return found, pages
        query = replace(query, cursor=page.next)


@pytest.mark.parametrize("descending", [True, False])
async def test_rare_orders_are_looked_for_piece_by_piece(reads: ModelReads, monkeypatch: pytest.MonkeyPatch,
                                                         descending: bool) -> None:
    monkeypatch.setattr(model_reads, "WINDOW", 4)  # ends in the middle of orders of one instant
    wanted = OrderQuery(symbol="RARE", descending=descending, limit=5)
    rare = ["17", "02"] if descending else ["02", "17"]
    assert await everything(reads, wanted, patience=0) == (rare, 6), "an impatient page is one piece"
    assert await everything(reads, wanted, patience=10) == (rare, 1), "a patient one goes on"
    others = sorted((f"{number:02}" for number in range(21) if number not in (2, 17)), reverse=descending)
    for patience in (0, 10):
        assert (await everything(reads, OrderQuery(symbol="BTC-USD", descending=descending, limit=7),
                                 patience=patience))[0] == others
    assert await everything(reads, OrderQuery(text="nowhere", descending=descending), patience=10) == ([], 1)


async def test_a_range_of_time_is_no_search(reads: ModelReads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_reads, "WINDOW", 4)
    spans = OrderQuery(start=AT + 1, end=AT + 5, limit=100)
    assert await everything(reads, spans, patience=0) == ([f"{number:02}" for number in range(17, 2, -1)], 1)
