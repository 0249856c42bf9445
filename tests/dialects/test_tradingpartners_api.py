"""The alert service around its stream: logins, subscriptions, lists, accounts and their ledger."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.errors import Conflict, Invalid
from server.services.alerts import Alerts
from server.services.credits import Credits
from server.services.subscribers import Subscribers
from server.services.users import Users
from server.store.database import Database
from server.store.events import EventLog
from tests.harness import running_server

pytestmark = pytest.mark.anyio
API, ACCOUNTS = "/api/v1", "/workbench/api/subscribers"
SECRET = "correct horse"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Any]:
    async with running_server(tmp_path, rate_limit=0) as running:
        yield running


@pytest.fixture
async def client(server: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=20) as client:
        yield client


@pytest.fixture
def admin(server: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {server.services.admin_token}"}


async def account(client: httpx.AsyncClient, admin: dict[str, str], email: str = "ann@example.org",
                  **values: Any) -> tuple[int, dict[str, str]]:
    """A subscriber made over the API who has logged in: number and headers."""
    made = await client.post(ACCOUNTS, headers=admin, json={"email": email, "password": SECRET, "access": "FULL",
                                                            "credits": 10} | values)
    assert made.status_code == 201, made.text
    answer = await client.post(f"{API}/users/login", json={"email": email.upper(), "password": SECRET})
    assert answer.status_code == 200, answer.text
    return made.json()["id"], {"Authorization": f"Bearer {answer.json()['accessToken']}"}


async def test_a_login_has_the_documented_shape(client: httpx.AsyncClient, admin: dict[str, str]) -> None:
    _, headers = await account(client, admin)
    again = (await client.post(f"{API}/users/login", json={"email": "ann@example.org", "password": SECRET})).json()
    assert set(again) == {"accessToken", "tokenType", "expiresIn", "lastLogin"}
    assert again["tokenType"] == "bearer" and again["expiresIn"] == 86400 and len(again["accessToken"]) <= 4096
    assert again["lastLogin"].endswith("Z"), "the login before this one"
    answer = await client.get(f"{API}/users/subscription", headers=headers)
    assert answer.json() == {"subscription": "FULL", "balance": 10, "automaticRenewal": False}


@pytest.mark.parametrize(("body", "status", "code"), [
    pytest.param(b"{", 400, 20, id="no json"), pytest.param(b"[]", 400, 20, id="no object"),
    pytest.param(b"", 400, 20, id="empty"), pytest.param(b'{"email": "a@b.c"}', 400, 21, id="no password"),
    pytest.param(b'{"email": 5, "password": "x"}', 400, 22, id="email"),
    pytest.param(b'{"email": "a@b.c", "password": "%s"}' % (b"x" * 31), 400, 22, id="long password"),
    pytest.param(b'{"email": "a\\u0000@b.c", "password": "x"}', 400, 22, id="null"),
    pytest.param(b'{"email": "a@b.c", "password": "wrong"}', 401, 13, id="unknown"),
    pytest.param(b'{"email": "ann@example.org", "password": "wrong"}', 401, 13, id="wrong"),
    pytest.param(b'{"email": "operator", "password": "x"}', 401, 13, id="operator")])
async def test_logins_fail_with_numbers(client: httpx.AsyncClient, admin: dict[str, str], body: bytes, status: int,
                                        code: int) -> None:
    await account(client, admin)
    answer = await client.post(f"{API}/users/login", content=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert set(answer.json()) == {"code", "message", "description", "request_id"}


async def test_guessing_passwords_is_slowed_down(client: httpx.AsyncClient) -> None:
    body = {"email": "ann@example.org", "password": "wrong"}
    answers = await asyncio.gather(*(client.post(f"{API}/users/login", json=body) for _ in range(30)))
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {401, 429} and statuses.count(401) < 15


async def test_a_subscribers_token_is_good_for_nothing_else(client: httpx.AsyncClient, admin: dict[str, str]) -> None:
    _, headers = await account(client, admin)
    for path in ("/workbench/api/tokens", "/workbench/api/alerts", "/workbench/api/runs", ACCOUNTS,
                 "/workbench/api/channels"):
        assert (await client.get(path, headers=headers)).status_code == 403, path
    assert (await client.post("/workbench/api/alerts", headers=headers, json={})).status_code == 403


async def test_a_token_that_is_no_subscribers_is_refused(client: httpx.AsyncClient, server: Any) -> None:
    _, text = await server.services.users.create("reader", ["read"])
    answer = await client.get(f"{API}/users/subscription", headers={"Authorization": f"Bearer {text}"})
    assert answer.status_code == 403 and answer.json()["code"] == 403


async def test_closed_alerts_of_the_last_quarter_of_an_hour(client: httpx.AsyncClient, admin: dict[str, str],
                                                            server: Any) -> None:
    _, full = await account(client, admin)
    _, free = await account(client, admin, "bob@example.org", access="FREE")
    assert (await client.get(f"{API}/alerts/closed", headers=free)).json() == [], "nothing yet: this is not counted"
    alerts = server.services.alerts
    for ticker, exit in (("won", 108.0), ("lost", 90.0)):
        made = await alerts.create(instrument="STOCKS", ticker=ticker, start=100.0, target=110.0, stop=95.0)
        await alerts.move(made.id, "onGoing")
        await alerts.move(made.id, "closed", exit=exit)
    found = (await client.get(f"{API}/alerts/closed", headers=full)).json()
    assert [(one["ticker"], one["status"]) for one in found] == [("lost", "LOST"), ("won", "WON")]
    assert list(found[1]) == ["id", "ticker", "instrument", "durationStrategy", "direction", "start", "target", "stop",
                              "exit", "gain", "status", "startedAt", "closedAt"]
    answers = [(await client.get(f"{API}/alerts/closed", headers=free)).json() for _ in range(2)]
    assert [one["ticker"] for one in answers[0]] == ["won"] and answers[1] == []


async def test_history_is_what_was_received(client: httpx.AsyncClient, admin: dict[str, str], server: Any) -> None:
    id, headers = await account(client, admin)
    alerts, credits = server.services.alerts, server.services.credits
    made = [await alerts.create(instrument="STOCKS", ticker=f"T{number}", start=100.0, target=110.0, stop=95.0)
            for number in range(5)]
    for alert in made[:4]:
        await credits.use(alert.id, [id])
    await alerts.move(made[1].id, "aborted")
    await alerts.move(made[2].id, "onGoing")
    await alerts.move(made[3].id, "onGoing")
    await alerts.move(made[3].id, "closed", exit=107.0)

    async def ask(query: str) -> Any:
        return (await client.get(f"{API}/alerts/history?{query}", headers=headers)).json()

    page = await ask("size=3")
    assert (page["total"], page["page"], page["size"]) == (4, 1, 3)
    assert [one["ticker"] for one in page["data"]] == ["T3", "T2", "T1"]
    assert [one["status"] for one in page["data"]] == ["WON", "ONGOING", "ABORTED"] and page["data"][0]["accessDate"]
    assert [one["ticker"] for one in (await ask("size=3&page=2"))["data"]] == ["T0"]
    assert [one["ticker"] for one in (await ask("orderBy=ticker&orderDir=asc"))["data"]] == ["T0", "T1", "T2", "T3"]
    assert (await ask("status=WON"))["total"] == 1 and (await ask("ticker=t2"))["total"] == 1
    assert (await ask("instrument=FOREX"))["total"] == 0 and (await ask("to=2000-01-01"))["total"] == 0
    wrong = await client.get(f"{API}/alerts/history?size=0&orderBy=colour", headers=headers)
    assert wrong.status_code == 400 and wrong.json()["code"] == 24 and "orderBy" in wrong.json()["description"]
    back = (await ask("from=2024-02-01T00:00:00Z&to=2024-01-01T00:00:00Z"))
    assert back["code"] == 24 and back["description"].startswith("to: ")


async def test_preferences_are_checked(client: httpx.AsyncClient, admin: dict[str, str]) -> None:
    _, headers = await account(client, admin)
    place = f"{API}/users/preferences"
    assert (await client.get(place, headers=headers)).json()["durationStrategies"] == ["short", "long"]
    for body in ({"instruments": ["TULIPS"]}, {"instruments": "FOREX"}, {"durationStrategies": [["long"]]}):
        answer = await client.put(place, headers=headers, json=body)
        assert answer.status_code == 400 and answer.json()["code"] == 22, body
    assert (await client.put(place, headers=headers, json={})).json()["code"] == 20


async def test_accounts_are_managed(client: httpx.AsyncClient, admin: dict[str, str], server: Any) -> None:
    id, headers = await account(client, admin)
    place = f"{ACCOUNTS}/{id}"
    again = await client.post(ACCOUNTS, headers=admin, json={"email": "ANN@example.org"})
    assert again.status_code == 409
    assert (await client.post(place + "/credits", headers=admin, json={"amount": -11})).status_code == 409
    assert (await client.post(place + "/credits", headers=admin, json={"amount": -4, "note": "x"})).json() == {
        "balance": 6}
    ledger = (await client.get(place + "/credits", headers=admin)).json()
    assert [entry["amount"] for entry in ledger["items"]] == [-4, 10] and ledger["balance"] == 6
    assert (await client.patch(place, headers=admin, json={"access": "FREE", "renewal": 7})).json()["renewal"] == 7
    assert (await client.patch(place, headers=admin, json={"password": "battery staple"})).status_code == 200
    ended = await client.get(f"{API}/users/subscription", headers=headers)
    assert ended.status_code == 401 and ended.json()["code"] == 12
    row = await server.services.db.read(lambda connection: connection.exec_driver_sql(
        "SELECT password FROM subscribers WHERE email = 'ann@example.org'").scalar())
    assert row.startswith("$argon2id$")
    assert (await client.delete(place, headers=admin)).status_code == 204
    assert (await client.get(place, headers=admin)).status_code == 404


@pytest.mark.parametrize(("path", "body", "field"), [
    ("/credits", {"amount": True}, "amount"), ("/credits", {"amount": "5"}, "amount"),
    ("/credits", {"amount": 1.5}, "amount"), ("/credits", {"amount": 1, "note": "a\0"}, "note"),
    ("", {"renewal": True}, "renewal"), ("", {"automatic_renewal": 1}, "automatic_renewal"),
    ("", {"password": "pass\0word"}, "password"), ("", {"instruments": ["TULIPS"]}, "instruments")])
async def test_accounts_take_nothing_for_what_it_is_not(client: httpx.AsyncClient, admin: dict[str, str], path: str,
                                                        body: dict[str, Any], field: str) -> None:
    id, _ = await account(client, admin)
    place = f"{ACCOUNTS}/{id}"
    before = (await client.get(place, headers=admin)).json()
    answer = await client.request("POST" if path else "PATCH", place + path, headers=admin, json=body)
    assert answer.status_code == 422 and answer.json()["error"]["problems"][0]["field"] == field
    assert (await client.get(place, headers=admin)).json() == before
    assert (await client.post(place + "/credits", headers=admin, json={"amount": 5.0})).status_code == 201


async def test_on_a_server_without_tokens_a_login_still_says_who_asks(tmp_path: Path) -> None:
    async with running_server(tmp_path, rate_limit=0, token="") as server, httpx.AsyncClient(
            base_url=server.url) as client:
        _, headers = await account(client, {}, credits=3)
        assert (await client.get(f"{API}/users/subscription", headers=headers)).json()["balance"] == 3
        assert (await client.get(f"{API}/users/subscription")).json()["automaticRenewal"] is True, "the operator"
        answer = await client.get(f"{API}/users/subscription", headers={"Authorization": "Bearer wrong"})
        assert answer.status_code == 401 and answer.json()["code"] == 12


async def test_the_ledger_balances_whatever_happens_at_once(database: Database, tmp_path: Path) -> None:
    from engine.candle_store import CandleStore

    events = EventLog(database)
    alerts = Alerts(db=database, events=events, store=CandleStore(tmp_path / "candles"), data_dir=tmp_path)
    people, credits = Subscribers(database, Users(database)), Credits(database, events)
    ids = []
    for number, (renews, start) in enumerate([(False, 3), (False, 1), (True, 1), (True, 0), (False, 0)]):
        made = await people.create(f"p{number}@example.org", access="FULL", automatic_renewal=renews, renewal=2)
        ids.append(made.id)
        if start:
            await credits.grant(made.id, start)
    given = [await alerts.create(instrument="STOCKS", ticker=f"T{number}", start=100.0, target=110.0, stop=95.0)
            for number in range(6)]
    used = await asyncio.gather(*(credits.use(alert.id, ids) for alert in given for _ in range(2)))
    for first, second in zip(used[::2], used[1::2], strict=True):
        assert {id: use.token for id, use in first.items()} == {id: use.token for id, use in second.items()}
    paid = [sum(id in use for use in used[::2]) for id in ids]
    assert paid == [3, 1, 6, 6, 0], "nobody uses what it does not have"
    assert sum(use[ids[0]].last for use in used[::2] if ids[0] in use) == 1
    for number, alert in enumerate(given):
        await alerts.move(alert.id, "onGoing")
        await alerts.move(alert.id, "closed", exit=120.0 if number % 2 else 90.0)
    await asyncio.gather(*(credits.settle(alert.id) for alert in given for _ in range(2)), credits.settle_ended())
    assert await credits.unbalanced() == {}
    assert await credits.settle_ended() == 0, "everything is settled"
    for id in ids:
        entries = await credits.entries(id)
        kinds = [entry.kind for entry in entries]
        assert kinds.count("use") == kinds.count("reimbursement") + kinds.count("consumption")
        assert (await people.get(id)).balance == sum(entry.amount for entry in entries) >= 0
    await people.close()


@pytest.mark.parametrize(("exit", "kind", "last"), [
    pytest.param(None, "reimbursement", False, id="aborted"), pytest.param(90.0, "reimbursement", False, id="lost"),
    pytest.param(120.0, "consumption", True, id="won")])
async def test_a_credit_used_after_the_alerts_end_is_settled_with_it(
        database: Database, tmp_path: Path, exit: float | None, kind: str, last: bool) -> None:
    """As by somebody who resumes and leaves before the end is told, or whose stream the last credit ends."""
    from engine.candle_store import CandleStore

    events = EventLog(database)
    alerts = Alerts(db=database, events=events, store=CandleStore(tmp_path / "candles"), data_dir=tmp_path)
    people, credits = Subscribers(database, Users(database)), Credits(database, events)
    ann = (await people.create("ann@example.org", access="FULL")).id
    await credits.grant(ann, 1)
    alert = await alerts.create(instrument="STOCKS", ticker="T", start=100.0, target=110.0, stop=95.0)
    await alerts.move(alert.id, "aborted" if exit is None else "onGoing")
    if exit is not None:
        await alerts.move(alert.id, "closed", exit=exit)
    assert await credits.settle(alert.id) == {}, "nobody had paid yet"
    use = (await credits.use(alert.id, [ann]))[ann]
    entries = await credits.entries(ann)
    assert [entry.kind for entry in entries] == [kind, "use", "grant"] and entries[0].token == use.token
    assert use.last is last and (await people.get(ann)).balance == (0 if last else 1)
    assert await credits.unbalanced() == {} and await credits.settle_ended() == 0
    await people.close()


async def test_grants_are_checked(database: Database) -> None:
    people, credits = Subscribers(database, Users(database)), Credits(database, EventLog(database))
    made = await people.create("ann@example.org")
    for amount in (0, 10**13, True, 1.5):
        with pytest.raises(Invalid):
            await credits.grant(made.id, amount)  # type: ignore[arg-type]
    with pytest.raises(Conflict):
        await credits.grant(made.id, -1)
    for email in ("", "x", "a@b@c", "a b@c"):
        with pytest.raises(Invalid):
            await people.create(email)
    await people.close()


async def test_a_gain_below_the_threshold_is_reimbursed(database: Database, tmp_path: Path) -> None:
    from engine.candle_store import CandleStore

    events = EventLog(database)
    alerts = Alerts(db=database, events=events, store=CandleStore(tmp_path / "candles"), data_dir=tmp_path)
    people, credits = Subscribers(database, Users(database)), Credits(database, events, threshold=5.0)
    ann = (await people.create("ann@example.org", access="FULL")).id
    await credits.grant(ann, 5)
    states = []
    for exit in (104.0, 105.0, 105.5):  # percent of the start and price are the same here
        alert = await alerts.create(instrument="STOCKS", ticker="T", start=100.0, target=110.0, stop=95.0)
        await credits.use(alert.id, [ann])
        await alerts.move(alert.id, "onGoing")
        await alerts.move(alert.id, "closed", exit=exit)
        states.append((await credits.settle(alert.id))[ann].state)
    assert states == ["REIMBURSED", "REIMBURSED", "CONSUMED"] and (await people.get(ann)).balance == 4
    assert await credits.unbalanced() == {}
    await people.close()
