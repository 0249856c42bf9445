"""Words are found whatever their case, on every database."""

import pytest
from sqlalchemy import Text, cast, literal, select

from server.store.database import Database
from server.store.words import holds

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("held", "text", "found"), [
    ("Über alles", "Über", True), ("Über alles", "über", None), ("über alles", "ÜBER", None), ("ЛУКОЙЛ", "ЛУК", True),
    ("Über ALLES", "alles", True), ("Über alles", "öber", False), ("50 % Ü", "% ü", None), ("50 x Ü", "50 % Ü", False),
    ("a_Ü", "_Ü", True), ("abÜ", "_Ü", False), ("Ü", "\\Ü", False)])
async def test_a_text_is_found_whatever_its_case(database: Database, held: str, text: str, found: bool | None) -> None:
    said = await database.read(lambda connection: connection.execute(
        select(holds(cast(literal(held), Text), text))).scalar_one())
    if found is None:  # PostgreSQL's answer depends on its locale
        found = bool(said) if database.is_postgresql else True
    assert bool(said) is found


async def test_nothing_holds_nothing(database: Database) -> None:
    query = select(literal(1)).where(holds(cast(literal(None), Text), "ü"))
    assert await database.read(lambda connection: connection.execute(query).all()) == []
