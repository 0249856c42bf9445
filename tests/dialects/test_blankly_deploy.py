"""The Deployment API over HTTP: every route, every generation of fields, and everything that can be wrong with them."""

import asyncio
import io
import json
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.harness import running_server, until

pytestmark = pytest.mark.anyio
SECRET = "s3cret-of-the-exchange"
PASS = "s3cret-api-pass"
FOREVER = "import time\nprint('up', flush=True)\nwhile True: time.sleep(0.05)\n"
BACKTEST = """
from blankly_external import Reporter
class Strategy:
    def __init__(self): Reporter.export_strategy(self)
    def backtest(self, **args):
        day = 86400
        Reporter.export_backtest_result({
            "symbols": ["BTC-USD"], "quote_asset": "USD", "start_time": args["start"],
            "stop_time": args["start"] + 9 * day,
            "account_values": [{"time": args["start"] + n * day, "value": 1000.0 + 10 * n} for n in range(10)],
            "trades": [], "metrics": {}, "indicators": {}})
Strategy()
"""


def zipped(script: str = FOREVER, *, root: str = "/model/", **more: str) -> bytes:
    """An archive as the programs make it, secrets and all."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(root + "bot.py", script)
        archive.writestr(root + "blankly.json", json.dumps({"main_script": "./bot.py", "api_pass": PASS}))
        archive.writestr(root + "keys.json", json.dumps({"coinbase": {"p": {"API_SECRET": SECRET}}}))
        for name, text in more.items():
            archive.writestr(root + name, text)
    return buffer.getvalue()


class Desk:
    """A server and a program that has logged in."""

    def __init__(self, server: Any, client: httpx.AsyncClient) -> None:
        self.server, self.services, self.client = server, server.services, client
        self.user, self.token = "", ""

    async def log_in(self, refresh: str) -> None:
        answer = (await self.client.post("/auth/token", data={"refreshToken": refresh})).json()
        self.token, self.user = answer["idToken"], answer["data"]["user_id"]

    async def ask(self, method: str, path: str, status: int = 200, **more: Any) -> Any:
        answer = await self.client.request(method, path, **({"headers": {"token": self.token}} | more))
        assert answer.status_code == status, (path, answer.text)
        assert answer.headers["Content-Type"] == "application/json"
        assert SECRET not in answer.text and PASS not in answer.text
        return answer.json()

    async def post(self, path: str, status: int = 200, file: bytes | None = None, **fields: Any) -> Any:
        files = {} if file is None else {"files": {"model": ("model.zip", file)}}
        return await self.ask("POST", path, status, data=fields, **files)

    async def refused(self, path: str, words: str, file: bytes | None = None, status: int = 400, **fields: Any) -> None:
        answer = await self.post(path, status, file, **fields)
        assert isinstance(answer["error"], str) and words in answer["error"], answer

    async def model(self, name: str = "bot", **more: str) -> str:
        words = {"projectId": self.user, "name": name, "type": "strategy", "description": ""}
        return str((await self.post("/model/create-model", **(words | more)))["modelId"])

    async def reaches(self, model: str, status: str) -> Any:
        async def there() -> Any:
            found = await self.post("/model/status", modelId=model)
            return found if found["status"] == status else None

        return await until(there, 60)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with (running_server(tmp_path / "data", rate_limit=0) as server,
                httpx.AsyncClient(base_url=server.url, timeout=60) as client):
        await server.start_models()
        made = Desk(server, client)
        await made.log_in(server.services.admin_token)
        yield made


async def bound(desk: Desk, project: str, *scopes: str, model: str = "") -> dict[str, str]:
    _, text = await desk.services.users.create("bound", scopes or ("deploy",), project=project, model=model)
    return {"headers": {"token": text}}  # type: ignore[dict-item]


# -- logging in


async def test_a_token_is_exchanged_for_one_that_may_less(desk: Desk) -> None:
    refresh = desk.services.admin_token
    for body in ({"data": {"refreshToken": refresh}}, {"json": {"refreshToken": refresh}},
                 {"files": {"refreshToken": (None, refresh)}}):
        answer = await desk.client.post("/auth/token", **body)
        found = answer.json()
        assert answer.headers["Cache-Control"] == "no-store" and found["status"] == "success"
        assert found["data"] | {"user_id": desk.user, "project_id": desk.user, "expires_in": "3600",
                                "refresh_token": refresh, "id_token": found["idToken"]} == found["data"]
    bearer = {"headers": {"Authorization": f"Bearer {desk.token}"}}
    assert (await desk.client.get("/workbench/api/models", **bearer)).status_code == 200
    assert (await desk.client.get("/workbench/api/tokens", **bearer)).status_code == 403, "it makes no tokens"
    assert refresh not in desk.token


async def test_an_id_token_ends_with_its_token_and_by_itself(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    token, text = await desk.services.users.create("laptop", ["deploy"])
    await desk.log_in(text)
    await desk.ask("GET", "/project/list")
    other = desk.token[:-1] + ("0" if desk.token[-1] != "0" else "1")
    late = desk.token.split("_")
    late[2] = str(int(late[2]) + 1)
    for false in (other, "_".join(late), "pass_", "pass_00_1_" + "0" * 64, "nonsense"):
        answer = await desk.ask("GET", "/project/list", 401, headers={"token": false})
        assert answer["error"] == "Not Authenticated"
    real = __import__("time").time
    monkeypatch.setattr("server.auth.time.time", lambda: real() + 3602)
    await desk.ask("GET", "/project/list", 401)
    monkeypatch.undo()
    await desk.ask("GET", "/project/list")
    await desk.services.users.revoke(token.id)
    await desk.ask("GET", "/project/list", 401)


async def test_who_may_not_log_in(desk: Desk) -> None:
    _, reader = await desk.services.users.create("reader", ["read"])
    for fields, status, words in (({"refreshToken": "wrong"}, 401, "Not Authenticated"), ({}, 400, "refreshToken"),
                                  ({"refreshToken": reader}, 401, "deploy"), ({"refreshToken": ""}, 400, "refresh"),
                                  ({"refreshToken": desk.token}, 401, "Not Authenticated")):
        answer = await desk.ask("POST", "/auth/token", status, data=fields, headers={})
        assert words in answer["error"] or status == 401
    await desk.ask("GET", "/project/list", 401, headers={})
    await desk.ask("GET", "/project/list", 401, headers={"token": reader})


@pytest.mark.parametrize("header", ["token", "Token", "api_pass", "X-API-Key", "Authorization"])
async def test_where_the_token_may_stand(desk: Desk, header: str) -> None:
    text = f"Bearer {desk.token}" if header == "Authorization" else desk.token
    assert await desk.ask("GET", "/project/list", headers={header: text})


async def test_without_authentication_everybody_deploys(tmp_path: Path) -> None:
    async with (running_server(tmp_path, token="", rate_limit=0) as server,
                httpx.AsyncClient(base_url=server.url) as client):
        made = (await client.post("/auth/token", data={"refreshToken": "anything"})).json()
        listed = await client.get("/project/list", headers={"token": made["idToken"]})
        assert [project["id"] for project in listed.json()] == [made["data"]["user_id"]]
        answer = await client.post("/auth/signin", data={"token": ""})
        assert answer.headers["Location"].startswith("http://localhost:9082/?token=")


async def test_signing_in_leads_to_the_program_and_nowhere_else(desk: Desk) -> None:
    page = await desk.client.get("/auth/signin?redirectUrl=/deploy")
    assert page.status_code == 200 and 'name="token"' in page.text and "no-store" in page.headers["Cache-Control"]
    assert "form-action 'self' http://localhost:9082;" in page.headers["Content-Security-Policy"]
    assert page.headers["Referrer-Policy"] == "same-origin", "or browsers send the form with the origin null"
    token = desk.services.admin_token
    for target in ("/deploy", "/deploy/https://evil.example", "/deploy?x=//evil"):
        answer = await desk.client.post("/auth/signin", params={"redirectUrl": target}, data={"token": token})
        assert (answer.status_code, answer.headers["Location"]) == (303, f"http://localhost:9082/?token={token}")
    for target in ("https://evil.example/deploy", "//evil.example/deploy", "/other"):
        answer = await desk.client.get("/auth/signin", params={"redirectUrl": target})
        assert (answer.status_code, answer.headers["Location"]) == (303, "/login")
    assert "token=" not in str((await desk.client.get(f"/auth/signin?token={token}")).headers)
    wrong = await desk.client.post("/auth/signin", data={"token": "<b>wrong"})
    assert wrong.status_code == 401 and "not valid" in wrong.text and "<b>wrong" not in wrong.text
    _, reader = await desk.services.users.create("reader", ["read"])
    assert (await desk.client.post("/auth/signin", data={"token": reader})).status_code == 401


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Origin": "null"},
                                     {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}])
async def test_another_site_cannot_sign_a_program_in(desk: Desk, headers: dict[str, str]) -> None:
    sent = {"data": {"token": desk.services.admin_token}}
    answer = await desk.client.post("/auth/signin", headers=headers, **sent)
    assert answer.status_code in (401, 403) and "Location" not in answer.headers
    answer = await desk.client.post("/auth/signin", headers={"Origin": desk.server.url}, **sent)
    assert answer.status_code == 303


# -- projects


async def test_projects_plans_teams(desk: Desk) -> None:
    [own] = await desk.ask("GET", "/project/list")
    assert (own["id"], own["projectId"], own["name"]) == (desk.user, desk.user, "admin")
    assert await desk.ask("GET", "/project/teams") == [{"id": desk.user, "name": "admin"}], "slate init needs one"
    made = await desk.post("/project/create", name="RSI Models", description="Bots that buy < 30")
    assert made["status"] == "success" and made["name"] == "RSI Models" and made["createdAt"]
    assert await desk.ask("GET", "/project/teams") == [{"id": made["projectId"], "name": "RSI Models"}]
    listed = await desk.ask("GET", "/project/list")
    assert [(each["projectId"], each["description"]) for each in listed] == [
        (desk.user, ""), (made["projectId"], "Bots that buy < 30")]
    live = await desk.post("/project/plans", type="live")
    assert live["nano"] == {"cpu": 250, "ram": 512}
    assert "slow" in await desk.post("/project/plans", type="backtesting")
    await desk.refused("/project/plans", "no plans of type", type="other")
    await desk.refused("/project/plans", "Missing required argument: type")
    await desk.refused("/project/create", "Missing required argument: name", description="x")
    await desk.refused("/project/create", "", name="x" * 1000)
    model = await desk.model(projectId=made["projectId"])
    await desk.post("/project/delete", projectId=made["projectId"])
    await desk.refused("/model/details", "not found", modelId=model)
    assert len(await desk.ask("GET", "/project/list")) == 1
    await desk.refused("/project/delete", "not found", projectId="nowhere")


async def test_keys_of_a_project(desk: Desk) -> None:
    made = (await desk.client.post("/project/generate-project-token", headers={"token": desk.token}, data={
        "projectId": desk.user, "name": "Local keys for x", "autogenerated": "True"})).json()
    assert made["apiKey"] == desk.user and set(made) == {"apiKey", "apiPass"}
    model = await desk.model()
    headers = {"api_key": made["apiKey"], "api_pass": made["apiPass"], "model_id": model}
    line = {"json": {"line": "x", "type": "stdout"}}
    assert (await desk.client.post("/v1/live/log", headers=headers, **line)).status_code == 200
    [listed] = await desk.post("/project/list-tokens", projectId=desk.user)
    assert (listed["name"], listed["write"], listed["projectId"]) == ("Local keys for x", True, desk.user)
    assert made["apiPass"] not in json.dumps(listed)
    await desk.refused("/project/delete-project-token", "tokenId", projectId=desk.user)
    await desk.refused("/project/delete-project-token", "not found", projectId=desk.user, tokenId="none")
    await desk.post("/project/delete-project-token", projectId=desk.user, tokenId=listed["id"])
    assert await desk.post("/project/list-tokens", projectId=desk.user) == []
    refused = await desk.client.post("/v1/live/log", headers=headers, **line)
    assert refused.status_code == 401, "revoked is revoked at once"


# -- models


async def test_models_are_made_listed_and_told_of(desk: Desk) -> None:
    model = await desk.model("RSI", description="buys low")
    screener = await desk.model("news", type="screener")
    listed = await desk.post("/model/list", projectId=desk.user)
    assert [(each["id"], each["name"], each["type"], each["description"]) for each in listed] == [
        (model, "RSI", "strategy", "buys low"), (screener, "news", "screener", "")]
    found = await desk.post("/model/details", modelId=model)  # the oldest name no project
    assert found["exists"] and found["id"] == model and found["versions"] == []
    assert found["deployment"] == {"status": "not deployed"}
    assert (await desk.ask("GET", "/model/status"))["status"] == "server is running"
    assert await desk.ask("GET", "/model/starter-models") == []
    json_made = await desk.ask("POST", "/model/create-model", json={"projectId": desk.user, "name": "j"})
    assert (await desk.post("/model/details", modelId=json_made["modelId"]))["type"] == "strategy"
    await desk.refused("/model/create-model", "Missing required argument: name", projectId=desk.user)
    await desk.refused("/model/create-model", "no type", name="x", type="<signal>")
    await desk.refused("/model/create-model", "This projectId was not found", name="x", projectId="nowhere")
    await desk.refused("/model/list", "not found", projectId="nowhere")
    for path in ("details", "status", "run", "kill", "delete", "backtestUploadedModel"):
        await desk.refused(f"/model/{path}", "Missing required argument: modelId", projectId=desk.user)
        await desk.refused(f"/model/{path}", "This modelId was not found under this project", modelId="nobody")


async def test_a_model_is_deployed_run_killed_and_deleted(desk: Desk) -> None:
    model = await desk.model()
    made = await desk.post("/model/deploy", file=zipped(), pythonVersion="3.11", versionDescription="first",
                           projectId=desk.user, modelId=model, type="strategy", plan="nano")
    assert made["status"] == "success" and made["modelId"] == model and made["projectId"] == desk.user
    assert made["timestamp"] > 1e9 and made["description"] == "first" and made["createdAt"]
    running = await desk.reaches(model, "running")
    assert (running["versionId"], running["plan"]) == (made["versionId"], "nano")

    async def up() -> bool:
        page = await desk.services.events.page(f"model/{model}/log")
        return "up" in [event.data["line"] for event in page]

    await until(up, 60)
    second = await desk.post("/model/upload", file=zipped("print(2)"), modelId=model, versionDescription="second")
    found = await desk.post("/model/details", modelId=model, projectId=desk.user)
    assert [(each["number"], each["versionDescription"]) for each in found["versions"]] == [(2, "second"), (1, "first")]
    assert found["deployment"]["versionId"] == made["versionId"], "an upload by itself runs nothing"
    await desk.post("/model/kill", modelId=model, projectId=desk.user)
    await desk.reaches(model, "stopped")
    await desk.post("/model/run", modelId=model, projectId=desk.user, versionId=second["versionId"], plan="small",
                    type="strategy")
    done = await desk.reaches(model, "completed")
    assert (done["versionId"], done["plan"]) == (second["versionId"], "small")
    await desk.refused("/model/run", "no version", modelId=model, versionId="none")
    await desk.refused("/model/run", "no plan", modelId=model, plan="huge")
    await desk.post("/model/run", modelId=model, versionId=made["versionId"])
    await desk.reaches(model, "running")
    await desk.post("/model/delete", modelId=model, projectId=desk.user)
    await desk.refused("/model/details", "not found", modelId=model)
    assert desk.services.deployments.lives.busy == 0 and await desk.services.deployments.list() == []
    archives = [path for path in (desk.server.config.data_dir / "archives").rglob("*") if path.is_file()]
    assert archives == []


async def test_archives_that_another_model_has_stay(desk: Desk) -> None:
    first, second = await desk.model("a"), await desk.model("b")
    for model in (first, second):
        await desk.post("/model/upload", file=zipped(), modelId=model)
    await desk.post("/model/delete", modelId=first)
    [version] = await desk.services.deployments.versions.list(second)
    assert desk.services.deployments.versions.path_of(version.sha256).is_file()


async def test_the_oldest_programs_name_models_themselves(desk: Desk) -> None:
    fields = {"plan": "nano", "name": "RSI Model", "modelId": "aikglemvk94b", "projectId": desk.user,
              "generalDescription": "buys below 30", "versionDescription": "v1", "pythonVersion": "3.11"}
    await desk.refused("/model/deploy", "not found under this project", file=zipped(), createNew="False", **fields)
    made = await desk.post("/model/deploy", file=zipped("print(1)"), createNew="True", **fields)
    assert made["modelId"] == "aikglemvk94b"
    again = await desk.post("/model/deploy", file=zipped("print(2)"), createNew="False", **(
        fields | {"name": "RSI 2", "generalDescription": "better"}))
    found = await desk.post("/model/details", modelId="aikglemvk94b")
    assert (found["name"], found["description"], found["type"]) == ("RSI 2", "better", "strategy")
    assert [each["versionId"] for each in found["versions"]] == [again["versionId"], made["versionId"]]
    nameless = await desk.post("/model/upload", file=zipped(root="model/"), createNew="true", name="of ours")
    assert len(nameless["modelId"]) == 20
    other = (await desk.post("/project/create", name="other"))["projectId"]
    await desk.refused("/model/upload", "not found under this project", file=zipped(), modelId="aikglemvk94b",
                       projectId=other)
    await desk.refused("/model/upload", "already", file=zipped(), modelId="aikglemvk94b", projectId=other,
                       createNew="true")


async def test_uploads_of_a_new_model_at_once_are_versions_of_one(desk: Desk) -> None:
    words = {"modelId": "made-up", "name": "new", "createNew": "True"}
    answers = await asyncio.gather(*(desk.post("/model/upload", file=zipped(f"print({n})"), **words)
                                     for n in range(4)))
    assert {answer["modelId"] for answer in answers} == {"made-up"}
    assert len({answer["versionId"] for answer in answers}) == 4
    assert len((await desk.post("/model/details", modelId="made-up"))["versions"]) == 4
    other = await desk.services.activity.create_project("other")
    await desk.services.activity.create_model(other.id, "theirs", id="theirs")
    taken = await bound(desk, desk.user)
    answer = await desk.ask("POST", "/model/upload", 400, data={"modelId": "theirs", "createNew": "True"},
                            files={"model": ("model.zip", zipped())}, **taken)
    assert "already" in answer["error"]


async def test_screeners_need_a_schedule(desk: Desk) -> None:
    model = await desk.model(type="screener")
    fields = {"modelId": model, "type": "screener", "plan": "nano"}
    await desk.refused("/model/deploy", "Missing required argument: schedule", file=zipped(), **fields)
    await desk.refused("/model/deploy", "is no schedule", file=zipped(), schedule="every day", **fields)
    await desk.refused("/model/deploy", "This model is a screener", file=zipped(), modelId=model, type="strategy")
    await desk.refused("/model/backtest", "cannot be backtested", file=zipped(), modelId=model, backtestArgs="{}")
    assert (await desk.post("/model/details", modelId=model))["versions"] == [], "what is refused leaves nothing"
    await desk.post("/model/deploy", file=zipped(), schedule="30 14 * * 1-5", **fields)
    waiting = await desk.reaches(model, "waiting")
    assert waiting["schedule"] == "30 14 * * 1-5"


ARGS = {"start": 1_600_000_000}


@pytest.mark.parametrize("fields", [
    {"backtestArgs": json.dumps(ARGS), "plan": "slow"}, {"backtestingArgs": json.dumps(ARGS), "plan": "nano"},
    {"backtestArgs": json.dumps(ARGS), "createNew": "True", "name": "x", "modelId": "made-here"},
], ids=["now", "hosted", "oldest"])
async def test_a_backtest_of_an_upload_becomes_a_run(desk: Desk, fields: dict[str, str]) -> None:
    given = {"modelId": fields.get("modelId") or await desk.model(), "projectId": desk.user, "type": "strategy"}
    made = await desk.post("/model/backtest", file=zipped(BACKTEST), pythonVersion="3.11", backtestDescription="why",
                           **(given | fields))
    assert made["status"] == "success" and made["versionId"]

    async def finished() -> Any:
        found = await desk.services.runs.get(made["backtestId"])
        return found if found.finished else None

    run = await until(finished, 60)
    assert run.state == "completed" and run.metrics["total_return"] == pytest.approx(0.09), run.error


@pytest.mark.parametrize("path", ["backtestUploadedModel", "backtest-uploaded-model"])
async def test_an_uploaded_version_is_backtested(desk: Desk, path: str) -> None:
    other = (await desk.post("/project/create", name="team"))["projectId"]
    made = await desk.post("/model/upload", file=zipped(BACKTEST), name="x", projectId=other)
    words = {"projectId": desk.user, "modelId": made["modelId"], "versionId": made["versionId"],  # the user, always
             "backtestDescription": "why"}
    found = await desk.ask("POST", f"/model/{path}", json={**words, "backtestArgs": ARGS})
    assert found["status"] == "success" and found["versionId"] == made["versionId"]
    found = await desk.post(f"/model/{path}", backtestArgs=json.dumps(ARGS), plan="slow", **words)
    for wrong in ("[]", "1", '{"a": ', "null", "{\"a\": NaN}"):
        await desk.refused(f"/model/{path}", "backtestArgs", backtestArgs=wrong, **words)
    await desk.refused(f"/model/{path}", "Missing required argument: backtestArgs", **words)
    await desk.refused(f"/model/{path}", "no plan", backtestArgs="{}", plan="warp", **words)
    await desk.refused(f"/model/{path}", "no version", backtestArgs="{}", **(words | {"versionId": "x"}))


# -- what is wrong


def hostile(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/bot.py", "print(1)")
        archive.writestr(name, "0" * (2**24 if name.endswith("bomb") else 1))
    return buffer.getvalue()


@pytest.mark.parametrize(("body", "words"), [
    (hostile("model/../../etc/passwd"), "leaves the model's folder"), (hostile("/etc/passwd"), "absolute"),
    (hostile("model/bomb"), "times its size"), (b"PK\x03\x04garbage", "zip"), (b"\x00\x01", "zip"), (b"", "zip"),
    (zipped(**{"blankly.json ": "x"}), "path"), (zipped().replace(b"blankly.json", b"blankly.jsox"), "")],
    ids=["dots", "absolute", "bomb", "garbage", "binary", "empty", "blank", "other"])
async def test_hostile_archives(desk: Desk, body: bytes, words: str) -> None:
    if not words:  # a folder without a manifest is fine
        await desk.post("/model/upload", file=body, name="good")
        return
    answer = await desk.post("/model/upload", 413 if words == "times its size" else 400, file=body, name="bad")
    assert words.split()[0] in answer["error"]
    assert await desk.post("/model/list") == [], "the model that was to be made for it is not there"
    archives = desk.server.config.data_dir / "archives"
    assert not archives.exists() or [path for path in archives.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("path", ["deploy", "upload", "backtest"])
async def test_uploads_without_what_they_need(desk: Desk, path: str) -> None:
    more = {"backtestArgs": "{}"} if path == "backtest" else {}
    model = await desk.model()
    await desk.refused(f"/model/{path}", "Missing required argument: modelId", file=zipped(), **more)
    await desk.refused(f"/model/{path}", "Missing required argument: model", modelId=model, **more)
    await desk.ask("POST", f"/model/{path}", 400, json={"modelId": model, **more})
    await desk.ask("POST", f"/model/{path}", 400)
    await desk.ask("POST", f"/model/{path}", 400, content=b"{", headers={
        "token": desk.token, "Content-Type": "application/json"})
    await desk.refused(f"/model/{path}", "neither true nor false", file=zipped(), modelId=model, createNew="x", **more)
    if path == "deploy":
        await desk.refused("/model/deploy", "no plan", file=zipped(), modelId=model, plan="huge")
    await desk.refused(f"/model/{path}", "Python", file=zipped(), modelId=model, pythonVersion="3" * 40, **more)
    await desk.refused(f"/model/{path}", "", file=zipped(), createNew="true", modelId="x" * 500, name="x", **more)
    assert (await desk.post("/model/details", modelId=model))["versions"] == []


BOUNDARY = {"Content-Type": "multipart/form-data; boundary=b"}
PART = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'


@pytest.mark.parametrize(("headers", "body"), [
    ({"Content-Type": "multipart/form-data"}, b"--b--"), (BOUNDARY, b"no part"), (BOUNDARY, PART % (b"modelId", b"x")),
    (BOUNDARY, b"--b\r\nX: y\r\n\r\nz\r\n--b--\r\n"), (BOUNDARY, PART % (b"name", b"\xff\xfe") + b"--b--\r\n"),
    (BOUNDARY, b"".join(PART % (b"f%d" % n, b"") for n in range(300)) + b"--b--\r\n"),
    (BOUNDARY, (PART % (b"model", b"x")) * 2 + b"--b--\r\n"), (BOUNDARY, PART % (b"name", b"x" * 2**21) + b"--b--\r\n"),
    (BOUNDARY, b"--b\r\n" + b"X: " + b"y" * 10_000 + b"\r\n\r\n--b--\r\n"),
], ids=["boundary", "nothing", "cut", "nameless", "binary", "parts", "files", "long", "header"])
async def test_bodies_that_cannot_be_read(desk: Desk, headers: dict[str, str], body: bytes) -> None:
    long = body.count(b"x") > 2**20
    answer = await desk.ask("POST", "/model/upload", 413 if long else 400, content=body,
                            headers={"token": desk.token, **headers})
    assert answer["error"]
    archives = desk.server.config.data_dir / "archives"
    assert not archives.exists() or list(archives.iterdir()) == [], "nothing is left of it"


async def test_tokens_of_a_project_see_no_other(desk: Desk) -> None:
    mine = (await desk.post("/project/create", name="mine"))["projectId"]
    model, foreign = await desk.model(projectId=mine), await desk.model()
    only = await bound(desk, mine)
    exchanged = (await desk.client.post("/auth/token", data={"refreshToken": only["headers"]["token"]})).json()  # type: ignore[index]
    assert exchanged["data"]["user_id"] == mine, "its user is its project"
    for given in (only, {"headers": {"token": exchanged["idToken"]}}):
        assert [each["id"] for each in await desk.ask("GET", "/project/list", **given)] == [mine]
        assert [each["id"] for each in await desk.ask("GET", "/project/teams", **given)] == [mine]
        assert [each["id"] for each in await desk.ask("POST", "/model/list", **given)] == [model]
        for path in ("details", "status", "kill", "delete", "run"):
            await desk.ask("POST", f"/model/{path}", 400, data={"modelId": foreign}, **given)
        for path, fields in (("model/list", {}), ("model/create-model", {"name": "x"}), ("project/list-tokens", {}),
                             ("project/generate-project-token", {})):
            await desk.ask("POST", f"/{path}", 400, data={"projectId": desk.user, **fields}, **given)
        await desk.ask("POST", "/project/create", 401, data={"name": "x"}, **given)
        await desk.ask("POST", "/project/delete", 401, data={"projectId": mine}, **given)
        await desk.ask("POST", "/model/upload", 400, data={"modelId": foreign},
                       files={"model": ("m.zip", zipped())}, **given)
    key = (await desk.services.activity.create_key(mine))[2]
    await desk.ask("GET", "/project/list", 401, headers={"token": key})


async def test_nothing_secret_is_told(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    model = await desk.model()
    made = await desk.post("/model/deploy", file=zipped("raise ValueError('no')"), modelId=model)
    broken = zipped(**{"slate.json": "{"})
    await desk.refused("/model/deploy", "", file=broken[:-30], modelId=model)
    await desk.reaches(model, "waiting")
    headers = {"Authorization": f"Bearer {desk.services.admin_token}"}
    for path in (f"/models/{model}", f"/models/{model}/versions", f"/models/{model}/versions/{made['versionId']}",
                 f"/models/{model}/logs", f"/models/{model}/events", f"/models/{model}/deployment", "/deployments",
                 f"/models/{model}/versions/{made['versionId']}/file?path=blankly.json",
                 f"/models/{model}/versions/{made['versionId']}/file?path=keys.json", "/runs", "/tokens"):
        text = (await desk.client.get("/workbench/api" + path, headers=headers)).text
        assert SECRET not in text and PASS not in text, path
    await desk.post("/model/kill", modelId=model)
    assert SECRET not in caplog.text and PASS not in caplog.text and desk.token not in caplog.text


ENVIRONMENT = """
import json, os, urllib.request
names = ("PROJECT_ID", "MODEL_ID", "UID", "VERSION_ID", "API_KEY", "API_PASS", "TYPE", "URL_MODEL_EVENTS_API",
         "SLATE_MODEL_ID", "SLATE_API_KEY", "SLATE_API_PASS")
found = {name: os.environ[name] for name in names}
headers = {"api_key": found["API_KEY"], "api_pass": found["API_PASS"], "model_id": found["MODEL_ID"],
           "Content-Type": "application/json"}
def post(path, body):
    urllib.request.urlopen(urllib.request.Request(found["URL_MODEL_EVENTS_API"] + path, json.dumps(body).encode(),
                                                  headers), timeout=60).read()
post("/v1/live/spot-market", {"symbol": "BTC-USD", "size": 1, "id": "o1", "side": "buy", "exchange": "x"})
post("/v1/live/event", {"args": found, "response": {}, "type": "environment"})
import time
while True: time.sleep(0.05)
"""


async def test_a_live_model_reports_with_a_key_of_its_own(desk: Desk) -> None:
    model = await desk.model()
    made = await desk.post("/model/deploy", file=zipped(ENVIRONMENT), modelId=model)

    async def told() -> Any:
        return [event.data for event in await desk.services.events.page(f"model/{model}", types=["call"])]

    [call] = await until(told, 60)
    found = call["args"]
    assert found | {"PROJECT_ID": desk.user, "MODEL_ID": model, "UID": desk.user, "VERSION_ID": made["versionId"],
                    "API_KEY": desk.user, "TYPE": "STRATEGY", "SLATE_MODEL_ID": model} == found
    assert found["SLATE_API_KEY"] == found["API_KEY"] and found["SLATE_API_PASS"] == found["API_PASS"]
    assert (await desk.services.activity.order(model, "o1")).symbol == "BTC-USD"
    key = {"api_key": desk.user, "api_pass": found["API_PASS"], "model_id": model}
    other = await desk.model("other")
    line = {"json": {"line": "x", "type": "stdout"}}
    assert (await desk.client.post("/v1/live/log", headers=key, **line)).status_code == 200
    assert (await desk.client.post("/v1/live/log", headers=key | {"model_id": other}, **line)).status_code == 401
    await desk.post("/model/kill", modelId=model)
    await desk.reaches(model, "stopped")

    async def over() -> bool:
        return (await desk.client.post("/v1/live/log", headers=key, **line)).status_code == 401

    await until(over)
    assert all(token.owner != "deployed model" for token in await desk.services.users.list())
