"""Tokens, sessions, origins, limits: who gets in, and who does not."""

import re
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine import times
from engine.errors import Conflict, Invalid, NotFound
from server.auth import local_path
from server.limits import RateLimiter
from server.services.users import Users
from server.store.database import Database
from tests.harness import running_server

pytestmark = pytest.mark.anyio
ME = "/workbench/api/me"

PUBLIC = {"health", "metrics", "openapi", "docs", "login_page", "login", "logout", "root",
          "glowback_health", "blankly_time", "blankly_signin_page", "blankly_signin", "blankly_token",
          "tradingpartners_login", "hook_message",
          "slash", "nowhere"}  # the last two only redirect and say 404


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Any]:
    async with running_server(tmp_path) as running:
        yield running


@pytest.fixture
async def client(server: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        yield client


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


async def test_the_public_routes_are_these(server: Any) -> None:
    public = {route.name for methods in server.context.routes.values() for route in methods.values()
              if route.auth is None}
    assert public == PUBLIC, "every public route is listed here by name; all others need a token"


async def test_no_route_that_needs_a_token_answers_without_one(server: Any, client: httpx.AsyncClient) -> None:
    asked = 0
    for path, methods in server.context.routes.items():
        for verb, route in methods.items():
            if route.auth is not None and not route.upgrade:  # a page answers there when nobody upgrades
                for headers in ({}, bearer("wrong"), {"X-API-Key": "wrong"}, {"Cookie": "workbench=1"}):
                    answer = await client.request(verb, re.sub(r"\{[^}]+\}", "x", path), headers=headers)
                    # a stream says so in its close code, once the socket is open
                    refused = {401, 426} if route.websocket else {401}
                    assert answer.status_code in refused, (verb, path)
                    asked += 1
    assert asked > 20


@pytest.mark.parametrize("headers", [
    {"Authorization": "Bearer {}"}, {"Authorization": "bearer  {}"}, {"X-API-Key": "{}"},
    {"Authorization": "Basic abc", "X-API-Key": "{}"}, {"Authorization": "Bearer", "X-API-Key": "{}"},
])
async def test_a_token_comes_in_two_headers(server: Any, client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    headers = {name: value.format(server.services.admin_token) for name, value in headers.items()}
    answer = await client.get(ME, headers=headers)
    assert answer.json() == {"name": "admin", "scopes": ["admin"]}


async def test_the_first_credential_decides(server: Any, client: httpx.AsyncClient) -> None:
    token = server.services.admin_token
    answer = await client.get(ME, headers={**bearer("wb_00000000_wrong"), "X-API-Key": token})
    assert answer.status_code == 401 and answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert (await client.get(f"{ME}?token={token}&api_key={token}")).status_code == 401


@pytest.mark.parametrize("text", ["x", "wb_", "é" * 10, "a" * 5000, "wb_00000000_" + "x" * 43, "' OR 1=1 --"])
async def test_odd_tokens_are_only_wrong(client: httpx.AsyncClient, text: str) -> None:
    assert (await client.get(ME, headers={"Authorization": b"Bearer " + text.encode()})).status_code == 401


async def test_scopes_bound_what_a_token_may(server: Any, client: httpx.AsyncClient) -> None:
    admin = bearer(server.services.admin_token)
    made = (await client.post("/workbench/api/tokens", headers=admin, json={"name": "reader", "scopes": ["read"]}))
    assert made.status_code == 201
    reader = bearer(made.json()["token"])
    assert (await client.get(ME, headers=reader)).json() == {"name": "reader", "scopes": ["read"]}
    assert (await client.get("/workbench/api/markets", headers=reader)).status_code == 200
    refused = await client.get("/workbench/api/tokens", headers=reader)
    assert refused.status_code == 403 and "admin" in refused.json()["error"]["message"]


async def test_the_text_of_a_token_is_shown_once_and_stored_never(server: Any, client: httpx.AsyncClient) -> None:
    admin = bearer(server.services.admin_token)
    text = (await client.post("/workbench/api/tokens", headers=admin,
                              json={"name": "bot", "scopes": ["ingest", "read"]})).json()["token"]
    assert re.fullmatch(r"wb_[0-9a-f]{8}_[A-Za-z0-9_-]{43}", text)
    listed = (await client.get("/workbench/api/tokens", headers=admin)).text
    assert text not in listed and text.rpartition("_")[2] not in listed and text[:11] in listed
    await server.services.db.close()
    for file in server.config.data_dir.glob("workbench.sqlite*"):
        assert text.encode() not in file.read_bytes()
    await server.services.db.open()


async def test_a_revoked_token_is_refused_at_once(server: Any, client: httpx.AsyncClient) -> None:
    admin = bearer(server.services.admin_token)
    made = (await client.post("/workbench/api/tokens", headers=admin, json={"name": "x", "scopes": ["read"]})).json()
    assert (await client.get(ME, headers=bearer(made["token"]))).status_code == 200
    assert (await client.delete(f"/workbench/api/tokens/{made['id']}", headers=admin)).json()["revoked_at"]
    assert (await client.get(ME, headers=bearer(made["token"]))).status_code == 401
    assert (await client.delete("/workbench/api/tokens/none", headers=admin)).status_code == 404


async def test_the_last_admin_token_cannot_be_revoked(server: Any, client: httpx.AsyncClient) -> None:
    admin = bearer(server.services.admin_token)
    [only] = (await client.get("/workbench/api/tokens", headers=admin)).json()["items"]
    assert (await client.delete(f"/workbench/api/tokens/{only['id']}", headers=admin)).status_code == 409
    await client.post("/workbench/api/tokens", headers=admin, json={"name": "two", "scopes": ["admin"]})
    assert (await client.delete(f"/workbench/api/tokens/{only['id']}", headers=admin)).status_code == 200
    assert (await client.get(ME, headers=admin)).status_code == 401


@pytest.mark.parametrize(("body", "field"), [
    ({"name": "", "scopes": ["read"]}, "name"), ({"name": "x", "scopes": []}, "scopes"),
    ({"name": "x", "scopes": ["root"]}, "scopes"), ({"name": "x", "scopes": ["read"], "more": 1}, "more"),
    ({"name": "x", "scopes": ["read"], "expires_at": "2001-01-01"}, "expires_at"),
    ({"name": "x", "scopes": ["read"], "expires_at": "soon"}, "expires_at"), ({"name": 5, "scopes": ["read"]}, "name"),
    ({"name": "   ", "scopes": ["read"]}, "name"),
])
async def test_a_wrong_request_for_a_token_names_its_field(server: Any, client: httpx.AsyncClient,
                                                           body: dict[str, Any], field: str) -> None:
    answer = await client.post("/workbench/api/tokens", headers=bearer(server.services.admin_token), json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["problems"][0]["field"] == field


async def test_an_expired_token_is_refused(server: Any, client: httpx.AsyncClient,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    _, text = await server.services.users.create("short", ["read"], expires_at=times.now() + timedelta(hours=1))
    assert (await client.get(ME, headers=bearer(text))).status_code == 200
    later = times.now() + timedelta(hours=1)
    monkeypatch.setattr(times, "now", lambda: later)
    assert (await client.get(ME, headers=bearer(text))).status_code == 401


async def test_recognising_a_token_again_costs_no_sql(server: Any, client: httpx.AsyncClient,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    headers = bearer(server.services.admin_token)
    await client.get(ME, headers=headers)

    async def never(work: Any) -> None:
        raise AssertionError("asked the database")

    monkeypatch.setattr(server.services.db, "read", never)
    monkeypatch.setattr(server.services.db, "write", never)
    assert (await client.get(ME, headers=headers)).status_code == 200


# -- sessions


async def log_in(server: Any, client: httpx.AsyncClient) -> None:
    answer = await client.post("/login", data={"token": server.services.admin_token, "next": "/docs"})
    assert answer.status_code == 303 and answer.headers["Location"] == "/docs"


async def test_the_login_form_begins_a_session_and_logout_ends_it(server: Any, client: httpx.AsyncClient) -> None:
    await log_in(server, client)
    [cookie] = client.cookies.jar
    assert server.services.admin_token not in (cookie.value or "")
    assert (await client.get(ME)).json()["name"] == "admin"
    await client.get("/logout")
    assert (await client.get(ME)).status_code == 401


async def test_the_cookie_is_protected(server: Any, client: httpx.AsyncClient) -> None:
    answer = await client.post("/login", data={"token": server.services.admin_token})
    attributes = {part.strip() for part in answer.headers["Set-Cookie"].split(";")[1:]}
    assert attributes == {"Path=/", "Max-Age=1209600", "HttpOnly", "SameSite=Lax"}


async def test_a_link_logs_in_and_the_token_leaves_the_address(server: Any, client: httpx.AsyncClient) -> None:
    answer = await client.get("/login", params={"token": server.services.admin_token, "next": "/docs?x=1"})
    assert answer.status_code == 303 and answer.headers["Location"] == "/docs?x=1"
    assert (await client.get(ME)).status_code == 200
    client.cookies.clear()
    answer = await client.get("/", params={"token": server.services.admin_token})
    assert answer.status_code == 303 and "token" not in answer.headers["Location"]
    assert (await client.get(ME)).status_code == 200


async def test_a_page_asked_for_with_a_token_is_opened_without_it(server: Any, client: httpx.AsyncClient) -> None:
    token = server.services.admin_token
    for target, expected in ((f"/?token={token}", "/"), (f"/run?id=a%26b&token={token}&x=", "/run?id=a%26b&x=")):
        answer = await client.get("/login", params={"next": target})
        assert (answer.status_code, answer.headers["Location"]) == (303, expected)
        assert (await client.get(ME)).status_code == 200
        client.cookies.clear()
    answer = await client.get("/login", params={"next": "/?token=wrong"})
    assert answer.status_code == 401 and "Set-Cookie" not in answer.headers and "wrong" not in answer.text


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example", "/\\evil.example", "\\\\evil", "evil",
                                    "javascript:alert(1)", "/\t/evil.example", "/ok\r\nX: 1", "", "///evil.example"])
async def test_a_login_leads_nowhere_else(server: Any, client: httpx.AsyncClient, target: str) -> None:
    assert local_path(target) == "/"
    answer = await client.post("/login", data={"token": server.services.admin_token, "next": target})
    assert answer.headers["Location"] == "/"


async def test_a_wrong_token_shows_the_form_again_and_escapes_it(client: httpx.AsyncClient) -> None:
    answer = await client.post("/login", data={"token": "no", "next": '/"><script>alert(1)</script>'})
    assert answer.status_code == 401 and "not valid" in answer.text
    assert "<script>alert" not in answer.text
    assert "Set-Cookie" not in answer.headers
    assert "http://" not in answer.text and "https://" not in answer.text


async def test_guessing_is_slowed_down(client: httpx.AsyncClient) -> None:
    statuses = [(await client.post("/login", data={"token": f"no{number}"})).status_code for number in range(15)]
    assert statuses[0] == 401 and statuses[-1] == 429
    answer = await client.get("/login?token=no")
    assert answer.status_code == 429 and int(answer.headers["Retry-After"]) > 0


async def test_a_forged_or_foreign_cookie_is_refused(server: Any, client: httpx.AsyncClient, tmp_path: Path) -> None:
    await log_in(server, client)
    [cookie] = client.cookies.jar
    value = cookie.value or ""
    forged = [value[:-1] + ("0" if value[-1] != "0" else "1"), value.replace("|", "||"), "", "x" * 5000,
              value[:20], server.services.admin_token]
    client.cookies.clear()
    for text in forged:
        answer = await client.get(ME, headers={"Cookie": f"{cookie.name}={text}"})
        assert answer.status_code == 401, text
    assert (await client.get(ME, headers={"Cookie": f"{cookie.name}={value}"})).status_code == 200


async def test_a_session_ends_with_its_token(server: Any, client: httpx.AsyncClient) -> None:
    token, text = await server.services.users.create("desk", ["read"])
    await client.post("/login", data={"token": text})
    assert (await client.get(ME)).json()["name"] == "desk"
    await server.services.users.revoke(token.id)
    assert (await client.get(ME)).status_code == 401


@pytest.mark.parametrize(("headers", "status"), [
    ({}, 403), ({"Origin": "https://evil.example"}, 403), ({"Origin": "null"}, 403), ({"Origin": ""}, 403),
    ({"Origin": "http://localhost:1"}, 403), ({"Sec-Fetch-Site": "cross-site"}, 403),
    ({"Origin": "http://localhost.evil.example"}, 403), ({"Origin": "file://{host}"}, 403),
    ({"Origin": "http://{host}"}, 201), ({"Sec-Fetch-Site": "same-origin"}, 201),
])
async def test_writes_with_a_cookie_must_come_from_our_own_pages(server: Any, client: httpx.AsyncClient,
                                                                headers: dict[str, str], status: int) -> None:
    await log_in(server, client)
    host = server.url.removeprefix("http://")
    headers = {name: value.format(host=host) for name, value in headers.items()}
    answer = await client.post("/workbench/api/tokens", json={"name": "x", "scopes": ["read"]}, headers=headers)
    assert answer.status_code == status
    assert (await client.get(ME, headers=headers)).status_code == 200, "reading is not forbidden"


async def test_writes_with_a_token_may_come_from_anywhere(server: Any, client: httpx.AsyncClient) -> None:
    answer = await client.post("/workbench/api/tokens", json={"name": "x", "scopes": ["read"]},
                               headers={**bearer(server.services.admin_token), "Origin": "https://other.example"})
    assert answer.status_code == 201


# -- without authentication


async def test_without_a_token_everybody_on_this_machine_is_admin_but_not_foreign_pages(tmp_path: Path) -> None:
    async with running_server(tmp_path, token="") as server, httpx.AsyncClient(base_url=server.url) as client:
        assert (await client.get(ME)).json()["scopes"] == ["admin"]
        body = {"name": "x", "scopes": ["read"]}
        assert (await client.post("/workbench/api/tokens", json=body)).status_code == 201
        for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
            assert (await client.post("/workbench/api/tokens", json=body, headers=headers)).status_code == 403
        assert "token" not in server.login_url
        assert not (tmp_path / "token").exists()


# -- the admin token


async def test_the_made_token_is_kept_privately_and_used_again(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server:
        first = server.services.admin_token
        assert (tmp_path / "token").read_text().strip() == first
        assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
        assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    async with running_server(tmp_path) as server:
        assert server.services.admin_token == first
        assert len(await server.services.users.list()) == 1
    (tmp_path / "token").write_text("damaged")
    async with running_server(tmp_path) as server:
        assert server.services.admin_token not in (first, "damaged")


async def test_a_set_token_replaces_the_one_set_before(tmp_path: Path) -> None:
    async with Database(f"sqlite:///{tmp_path}/a.sqlite") as db:
        users = Users(db)
        assert await users.ensure_admin(tmp_path, "first-secret") == "first-secret"
        assert (await users.principal("first-secret")).may("admin")
        await users.ensure_admin(tmp_path, "second-secret")
        assert await users.principal("first-secret") is None
        assert (await users.principal("second-secret")).may("admin")
        await users.ensure_admin(tmp_path, "first-secret")
        assert (await users.principal("first-secret")).may("admin")
        assert not (tmp_path / "token").exists()
        for token in await users.list():
            assert "secret" not in token.prefix


async def test_users_on_each_backend(database: Database) -> None:
    users = Users(database)
    token, text = await users.create("desk", ["read", "read", "backtest"])
    principal = await users.principal(text)
    assert principal.name == "desk" and principal.scopes == {"read", "backtest"} and principal.token_id == token.id
    assert not principal.may("deploy")
    [listed] = await users.list()
    assert listed.id == token.id and listed.last_used_at is not None and listed.scopes == ("read", "backtest")
    await users.revoke(token.id)
    assert await users.principal(text) is None and await users.principal_of(token.id) is None
    with pytest.raises(NotFound):
        await users.revoke("none")
    with pytest.raises(Invalid):
        await users.create("x", ["nothing"])
    admin, _ = await users.create("admin", ["admin"])
    with pytest.raises(Conflict):
        await users.revoke(admin.id)


# -- the rate limit


async def test_the_limit_is_told_and_kept(tmp_path: Path) -> None:
    async with running_server(tmp_path, rate_limit=5) as server, httpx.AsyncClient(base_url=server.url) as client:
        headers = bearer(server.services.admin_token)
        answers = [await client.get(ME, headers=headers) for _ in range(7)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
        assert [int(answer.headers["X-RateLimit-Remaining"]) for answer in answers] == [4, 3, 2, 1, 0, 0, 0]
        last = answers[-1]
        assert last.headers["X-RateLimit-Limit"] == "5"
        assert 1 <= int(last.headers["Retry-After"]) <= 12
        assert 0 < int(last.headers["X-RateLimit-Reset"]) - times.now().timestamp() <= 61
        assert last.json()["error"]["code"] == "busy"
        assert (await client.get("/healthz", headers=headers)).status_code == 200
        assert (await client.get(ME)).status_code == 401, "another client has an allowance of its own"


def test_a_bucket_refills_evenly() -> None:
    now = 0.0
    limiter = RateLimiter(60, clock=lambda: now)
    assert [limiter.take("a").exceeded for _ in range(61)] == [False] * 60 + [True]
    now = 1.0
    assert [limiter.take("a").exceeded for _ in range(2)] == [False, True]
    assert limiter.take("b").remaining == 59
    now = 1000.0
    assert limiter.take("a").remaining == 59
    assert RateLimiter(0).take("a") is None
