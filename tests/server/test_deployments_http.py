"""Uploaded models over HTTP: versions up and down, deployments, backtests, who may do what."""

import io
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.app import Server
from server.config import Config
from tests.harness import until

pytestmark = pytest.mark.anyio
TOKEN = "a-secret-token-of-the-tests"
API = "/workbench/api"
FOREVER = b"import time\nprint('up', flush=True)\nwhile True: time.sleep(0.05)\n"


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr("model/" + name.replace("__", "."), content)
    return buffer.getvalue()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    made = Server(Config(data_dir=tmp_path / "data", port=0, token=TOKEN, max_upload=2**20))
    await made.start(compute=False)
    await made.services.deployments.start()
    yield made
    await made.stop()


@pytest.fixture
async def api(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url + API, timeout=60,
                                 headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        yield client


async def model(api: httpx.AsyncClient, name: str = "bot") -> str:
    if not (await api.get("/projects")).json()["items"]:
        assert (await api.post("/projects", json={"name": "mine", "id": "p"})).status_code == 201
    made = await api.post("/models", json={"name": name, "project": "p"})
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


async def upload(api: httpx.AsyncClient, id: str, body: bytes, **query: str) -> dict[str, Any]:
    answer = await api.post(f"/models/{id}/versions", content=body, params=query,
                            headers={"Content-Type": "application/zip"})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def test_versions_go_up_and_come_down_again(api: httpx.AsyncClient) -> None:
    id = await model(api)
    body = zipped(bot__py=b"print(1)", keys__json=b'{"secret": "s-1"}')
    first = await upload(api, id, body, file="my model.zip", description="the first", python="3.11")
    assert (first["number"], first["script"], first["files"]) == (1, "bot.py", 2)
    assert {each["path"]: each["secret"] for each in first["contents"]} == {"bot.py": False, "keys.json": True}
    second = await upload(api, id, b"print(2)", file="bot.py")
    items = (await api.get(f"/models/{id}/versions")).json()["items"]
    assert [each["id"] for each in items] == [second["id"], first["id"]]
    one = f"/models/{id}/versions/{first['id']}"
    assert (await api.get(one + "/archive")).content == body
    assert (await api.get(one + "/file", params={"path": "bot.py"})).json()["text"] == "print(1)"
    hidden = await api.get(one + "/file", params={"path": "keys.json"})
    assert hidden.status_code == 422 and "s-1" not in hidden.text
    changed = (await api.get(one + "/difference", params={"to": second["id"]})).json()
    assert (changed["changed"], changed["removed"]) == (["bot.py"], ["keys.json"])


async def test_what_cannot_be_taken_is_refused_and_leaves_nothing(api: httpx.AsyncClient, server: Server) -> None:
    id = await model(api)
    for body, status in ((b"", 422), (b"\x89PNG\0", 422), (zipped(readme__txt=b"x"), 422), (b"x" * (2**20 + 1), 413)):
        answer = await api.post(f"/models/{id}/versions", content=body)
        assert answer.status_code == status, answer.text
    assert (await api.post("/models/nobody/versions", content=b"print(1)")).status_code == 404
    assert not [path for path in (server.config.data_dir / "archives").rglob("*") if path.is_file()]
    version = await upload(api, id, b"print(1)", file="bot.py")
    for wrong in ({"plan": "huge"}, {"schedule": "never"}, {"nonsense": 1}):
        answer = await api.put(f"/models/{id}/deployment", json=wrong)
        assert answer.status_code == 422 and answer.json()["error"]["problems"][0]["field"] == next(iter(wrong))
    for path in (f"/models/{id}/deployment", f"/models/{id}/versions/none", "/models/none/versions"):
        assert (await api.get(path)).status_code == 404
    other = await model(api, "other")
    assert (await api.get(f"/models/{other}/versions/{version['id']}")).status_code == 404
    assert (await api.post(f"/models/{other}/backtests", json={})).status_code == 404


async def test_a_model_is_deployed_and_stopped(api: httpx.AsyncClient) -> None:
    id = await model(api)
    await upload(api, id, FOREVER, file="bot.py")
    deployed = await api.put(f"/models/{id}/deployment", json={"plan": "micro"})
    assert deployed.status_code == 200 and deployed.json()["wanted"] == "running"

    async def up() -> bool:
        return [each["line"] for each in (await api.get(f"/models/{id}/logs")).json()["items"]] == ["up"]

    await until(up, 60)

    async def measured() -> bool:
        found = (await api.get(f"/models/{id}/deployment")).json()
        return bool(found["state"] == "running" and found["usage"].get("memory"))

    await until(measured, 30)
    assert [each["model"] for each in (await api.get("/deployments")).json()["items"]] == [id]
    assert (await api.delete(f"/models/{id}/deployment")).json()["wanted"] == "stopped"

    async def stopped() -> bool:
        return bool((await api.get(f"/models/{id}/deployment")).json()["state"] == "stopped")

    await until(stopped, 30)
    plans = (await api.get("/plans")).json()
    assert plans["live"][0]["name"] == "nano" and plans["isolation"]["kind"] in ("bubblewrap", "limits")


async def test_who_may_what(api: httpx.AsyncClient, server: Server) -> None:
    id, other = await model(api), await model(api, "other")
    await upload(api, id, b"print(1)", file="bot.py")
    _, reader = await server.services.users.create("reader", ["read"])
    _, _, bound = await server.services.activity.create_key("p", id)
    async with httpx.AsyncClient(base_url=server.url + API, headers={"X-API-Key": reader}) as client:
        assert (await client.get(f"/models/{id}/versions")).status_code == 200
        assert (await client.put(f"/models/{id}/deployment", json={})).status_code == 403
        assert (await client.post(f"/models/{id}/versions", content=b"print(2)")).status_code == 403
    async with httpx.AsyncClient(base_url=server.url + API, headers={"X-API-Key": bound}) as client:
        assert (await client.put(f"/models/{other}/deployment", json={})).status_code == 403
    async with httpx.AsyncClient(base_url=server.url + API) as client:
        assert (await client.get(f"/models/{id}/versions")).status_code == 401


async def test_an_uploaded_strategy_is_one_of_the_strategies(api: httpx.AsyncClient, tmp_path: Path) -> None:
    id = await model(api)
    script = b'''
import workbench as wb
@wb.strategy(params={"level": 100.0})
def above(params, state, bars, advice, out):
    """Long above a level."""
    advice[0] = 1.0 if bars[0, 3] > params[0] else 0.0
'''
    version = await upload(api, id, script, file="above.py")
    assert version["strategies"] == [f"upload.{version['id']}"] and not version["strategy_error"]
    listed = {each["name"]: each for each in (await api.get("/strategies")).json()["items"]}
    told = listed[version["strategies"][0]]
    assert told["doc"] == "Long above a level." and told["parameters"][0]["default"] == 100.0
    body = "start,open,high,low,close,volume\n" + "".join(f"{n * 86400},1,2,1,1.5,10\n" for n in range(40))
    await api.post("/markets/demo/A/USD/candles", content=body, headers={"Content-Type": "text/csv"})
    spec = {"strategy": told["name"], "markets": ["demo:A/USD"], "params": {"level": 1.0}}
    assert (await api.post("/runs", json=spec)).status_code == 201
    wrong = await api.post("/runs", json={**spec, "params": {"depth": 1}})
    assert wrong.status_code == 422 and wrong.json()["error"]["problems"][0]["field"] == "params.depth"
    sweep = {"base": spec, "parameters": {"level": [1.0, 2.0]}}
    assert (await api.post("/sweeps", json=sweep)).status_code == 201
    broken = await upload(api, id, b"import workbench as wb\n@wb.strategy\ndef f(: pass\n", file="broken.py")
    assert broken["strategies"] == [] and "SyntaxError" in broken["strategy_error"]
    assert "broken.py, line 3" in broken["strategy_error"]
    other = await model(api)
    copy = await upload(api, other, script, file="above.py")
    assert (await api.delete(f"/models/{id}")).is_success
    names = {each["name"] for each in (await api.get("/strategies")).json()["items"]}
    assert f"upload.{copy['id']}" in names and told["name"] not in names, "its archive stays, for the other model"
    assert [path.name for path in tmp_path.rglob("upload.*")] == [f"upload.{copy['id']}.json"]
