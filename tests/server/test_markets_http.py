"""Market data over HTTP: list, candles in every form, paging, upload, delete, quality, and who may do what."""

import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from engine import times
from engine.candle_files import arrow_stream, csv_text
from engine.candles import Candles
from engine.model import Market
from server.auth import Authenticator, Origins, Sessions
from server.config import Config
from server.dialects import native_markets
from server.dialects.context import Context
from server.dialects.routes import group, pattern
from server.limits import RateLimiter
from server.metrics import Metrics
from server.services import Services
from tests.harness import new_database

pytestmark = pytest.mark.anyio
API = "/workbench/api/markets"
TOKEN = "a-secret-token-of-the-tests"
JANUARY = times.micros(times.parse("2020-01-01"))
ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"


def bars(n: int, *, resolution: int = 60, start: int = JANUARY, market: Market | None = None) -> Candles:
    close = 100 + np.arange(n, dtype=float)
    return Candles(market=market or Market("demo", "XBT", "USD"), resolution=resolution,
                   time=start + np.arange(n, dtype=np.int64) * resolution * 10**6, open=close - 0.5, high=close + 1,
                   low=close - 1, close=close, volume=np.full(n, 2.0))


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    """The real services without the pool, whose processes take seconds to start."""
    new_database(tmp_path / "workbench.sqlite")
    config = Config.load(argv=[], env={}, data_dir=tmp_path, token=TOKEN, max_upload=4 * 2**20)
    made = await Services.open(config, compute=False)
    yield made
    await made.close()


@pytest.fixture
async def url(services: Services) -> AsyncIterator[str]:
    """The market routes on a port of their own."""
    config = services.config
    context = Context(
        config=config, services=services, metrics=Metrics(), origins=Origins(config), limiter=RateLimiter(0),
        authenticator=Authenticator(services.users, Sessions("key", 1.0), open_to_all=False), logins=RateLimiter(0),
        routes=group(native_markets.routes(services)))
    application = Application([(pattern(path), next(iter(methods.values())).handler,
                                {"context": context, "operations": methods})
                               for path, methods in context.routes.items()])
    server = HTTPServer(application)
    (socket,) = bind_sockets(0, "127.0.0.1")
    server.add_socket(socket)
    yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    server.stop()
    await server.close_all_connections()


@pytest.fixture
async def client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as opened:
        yield opened


async def test_nothing_is_stored_at_first(client: httpx.AsyncClient) -> None:
    assert (await client.get(API)).json() == {"items": []}
    answer = await client.get(f"{API}/demo/XBT/USD/candles")
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "not_found"


async def test_what_is_uploaded_in_any_form_comes_back(client: httpx.AsyncClient) -> None:
    given = bars(100)
    columns = {name: column.tolist() for name, column in given.columns().items()}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    parquet = io.BytesIO()
    pq.write_table(pa.table(columns), parquet)
    forms = {"JSON": ("application/json", json.dumps(columns)),
             "ROWS": ("application/json; charset=utf-8", json.dumps(rows)),
             "CSV": ("text/csv", csv_text(given)), "ARROW": (ARROW, arrow_stream(given)),
             "PARQUET": (PARQUET, parquet.getvalue()), "GUESS": ("application/octet-stream", arrow_stream(given))}
    for asset, (kind, body) in forms.items():
        answer = await client.post(f"{API}/demo/{asset}/USD/candles?resolution=1m", content=body,
                                   headers={"Content-Type": kind})
        assert answer.status_code == 200, answer.text
        said = answer.json()
        assert (said["added"], said["kept"], said["replaced"]) == (100, 0, 0)
        assert (said["resolution"], said["first"]) == ("1m", "2020-01-01T00:00:00.000000Z")
        found = (await client.get(f"{API}/demo/{asset}/USD/candles?resolution=1m")).json()
        assert found["columns"] == columns and found["rows"] == 100 and found["next"] is None
    items = (await client.get(API)).json()["items"]
    assert sorted(item["asset"] for item in items) == sorted(forms)
    assert items[0]["rows"] == 100 and items[0]["resolution"] == "1m" and items[0]["exchange"] == "demo"


async def test_an_upload_merges_and_overwrites_when_told(client: httpx.AsyncClient) -> None:
    url = f"{API}/demo/XBT/USD/candles"
    await client.post(url, content=arrow_stream(bars(10)), headers={"Content-Type": ARROW})
    later = bars(10, start=JANUARY + 5 * times.MINUTE)
    said = (await client.post(url, content=arrow_stream(later), headers={"Content-Type": ARROW})).json()
    assert (said["added"], said["kept"], said["replaced"]) == (5, 5, 0)
    said = (await client.post(url + "?overwrite=true", content=arrow_stream(later),
                              headers={"Content-Type": ARROW})).json()
    assert (said["added"], said["kept"], said["replaced"]) == (0, 5, 5)


async def test_the_range_and_the_form_are_chosen_by_the_query(client: httpx.AsyncClient) -> None:
    url = f"{API}/demo/XBT/USD/candles"
    await client.post(url, content=arrow_stream(bars(600)), headers={"Content-Type": ARROW})
    query = {"resolution": "5m", "start": "2020-01-01T01:00:00Z", "end": "2020-01-01T02:00:00Z"}
    answer = await client.get(url, params=query)
    found = answer.json()["columns"]
    assert found["time"] == [JANUARY + (60 + 5 * k) * times.MINUTE for k in range(13)]
    assert found["volume"] == [10.0] * 13 and found["open"][0] == 159.5 and found["close"][0] == 164.0
    arrow = await client.get(url, params=query | {"format": "arrow"})
    assert arrow.headers["Content-Type"] == ARROW and arrow.headers["X-Resolution"] == "5m"
    table = pa.ipc.open_stream(arrow.content).read_all()
    assert table["time"].cast(pa.int64()).to_pylist() == found["time"] and table["close"].to_pylist() == found["close"]
    text = await client.get(url, params=query | {"format": "csv"})
    assert text.headers["Content-Type"].startswith("text/csv")
    assert text.text.splitlines()[:2] == ["start,open,high,low,close,volume",
                                          "2020-01-01T01:00:00Z,159.5,165,159,164,10"]


async def test_pages_follow_each_other_without_hole_or_double(client: httpx.AsyncClient) -> None:
    url = f"{API}/demo/XBT/USD/candles"
    hole = bars(300).take(np.r_[0:100, 250:300])
    await client.post(url + "?resolution=1m", content=arrow_stream(hole), headers={"Content-Type": ARROW})
    for form in ("json", "arrow"):
        seen: list[int] = []
        cursor: str | None = ""
        while cursor is not None:
            answer = await client.get(url, params={"resolution": "1m", "limit": 7, "cursor": cursor, "format": form})
            assert answer.status_code == 200, answer.text
            if form == "json":
                seen += answer.json()["columns"]["time"]
                cursor = answer.json()["next"]
            else:
                seen += pa.ipc.open_stream(answer.content).read_all()["time"].cast(pa.int64()).to_pylist()
                cursor = answer.headers.get("X-Next-Cursor")
        assert seen == hole.time.tolist()


async def test_points_draw_the_range_with_fewer_bars(client: httpx.AsyncClient) -> None:
    url = f"{API}/demo/XBT/USD/candles"
    await client.post(url, content=arrow_stream(bars(6000)), headers={"Content-Type": ARROW})
    found = (await client.get(url, params={"resolution": "1m", "points": 200})).json()
    assert found["resolution"] == "30m" and found["rows"] == 200
    assert (found["columns"]["open"][0], found["columns"]["close"][-1]) == (99.5, 6099.0)
    assert max(found["columns"]["high"]) == 6100.0 and sum(found["columns"]["volume"]) == 12000.0


async def test_an_unchanged_answer_is_not_sent_again(client: httpx.AsyncClient) -> None:
    url = f"{API}/demo/XBT/USD/candles"
    await client.post(url, content=arrow_stream(bars(10)), headers={"Content-Type": ARROW})
    tag = (await client.get(url + "?resolution=1m")).headers["Etag"]
    again = await client.get(url + "?resolution=1m", headers={"If-None-Match": tag})
    assert again.status_code == 304 and again.content == b""
    await client.post(url, content=arrow_stream(bars(11)), headers={"Content-Type": ARROW})
    assert (await client.get(url + "?resolution=1m", headers={"If-None-Match": tag})).json()["rows"] == 11


async def test_deletion_takes_the_named_resolution(client: httpx.AsyncClient) -> None:
    url = f"{API}/demo/XBT/USD/candles"
    await client.post(url, content=arrow_stream(bars(10)), headers={"Content-Type": ARROW})
    assert (await client.delete(url)).status_code == 422
    assert (await client.delete(url + "?resolution=1h")).status_code == 404
    assert (await client.delete(url + "?resolution=1m")).json() == {"removed": 10}
    assert (await client.get(API)).json() == {"items": []}


async def test_quality_is_told(client: httpx.AsyncClient) -> None:
    await client.post(f"{API}/demo/XBT/USD/candles", content=arrow_stream(bars(300).take(np.r_[0:100, 150:300])),
                      headers={"Content-Type": ARROW})
    found = (await client.get(f"{API}/demo/XBT/USD/quality?resolution=1m")).json()
    assert found["gaps"] == [{"start": "2020-01-01T01:40:00.000000Z", "end": "2020-01-01T02:29:00.000000Z",
                              "missing": 50, "severity": "gap"}]
    assert found["coverage"] == 250 / 300 and found["calendar"] == "24x7" and len(found["fingerprint"]) == 64


async def test_a_change_is_told_on_the_markets_stream(client: httpx.AsyncClient, services: Services) -> None:
    url = f"{API}/demo/XBT/USD/candles"
    for n in (10, 10, 12):
        await client.post(url, content=arrow_stream(bars(n)), headers={"Content-Type": ARROW})
    await client.delete(url + "?resolution=1m")
    events = await services.events.page("market/demo:XBT/USD")
    assert [(event.type, event.data.get("added"), event.data.get("rows")) for event in events] == [
        ("candles", 10, None), ("candles", 2, None), ("deleted", None, 12)]


@pytest.mark.parametrize(("query", "body", "kind", "status", "word"), [
    ("", b"", "text/csv", 400, "empty"),
    ("", b'{"time": [1, 2', "application/json", 400, "malformed JSON"),
    ("", b"x", "image/png", 415, "image/png"),
    ("", b"date,open,high,low,close\n2020-01-01,1,1,1,1\n2020-01-02,1,x,1,1\n", "text/csv", 422, "line 3"),
    ("?resolution=1h", b"start,open,high,low,close\n1577836800,1,1,1,1\n1577836860,1,1,1,1\n", "text/csv", 422,
     "60 s apart"),
    ("?resolution=banana", b"start,open,high,low,close\n", "text/csv", 422, "banana"),
    ("", b"PAR1 and nothing else", PARQUET, 422, "Parquet"),
    ("", b"\xff\xff\xff\xff\x10\x00\x00\x00nonsense", ARROW, 422, "Arrow"),
    ("", b"x" * (5 * 2**20), "text/csv", 413, "too large"),
])
async def test_a_faulty_upload_says_why_and_stores_nothing(client: httpx.AsyncClient, query: str, body: bytes,
                                                           kind: str, status: int, word: str) -> None:
    answer = await client.post(f"{API}/demo/XBT/USD/candles{query}", content=body, headers={"Content-Type": kind})
    assert answer.status_code == status, answer.text
    assert word in answer.text
    assert (await client.get(API)).json() == {"items": []}


@pytest.mark.parametrize(("query", "status", "field"), [
    ("resolution=90s", 422, "resolution"), ("resolution=x", 422, "resolution"), ("start=x", 422, "start"),
    ("resolution=1m&start=2030-01-01", 422, "start"), ("resolution=1m&end=2010-01-01", 422, "end"),
    ("resolution=1m&points=1", 422, "points"), ("resolution=1m&points=5&limit=5", 422, "points"),
    ("resolution=1m&limit=0", 422, "limit"), ("resolution=1m&cursor=x", 422, "cursor"),
    ("resolution=1m&format=xml", 422, "format"), ("resolution=1m&limit=3&start=2030-01-01", 422, "start"),
])
async def test_a_faulty_question_names_the_field(client: httpx.AsyncClient, query: str, status: int,
                                                 field: str) -> None:
    await client.post(f"{API}/demo/XBT/USD/candles", content=arrow_stream(bars(10)), headers={"Content-Type": ARROW})
    answer = await client.get(f"{API}/demo/XBT/USD/candles?{query}")
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["problems"][0]["field"] == field


@pytest.mark.parametrize("exchange", ["..", ".locks", "%2e%2e", "a%2Fb", "a%00b", "-x", "x" * 41, "%F0%9F%92%A9",
                                      "a+b"])
async def test_a_market_cannot_lead_out_of_the_folder(client: httpx.AsyncClient, services: Services,
                                                      exchange: str) -> None:
    before = sorted(path for path in services.config.data_dir.rglob("*.parquet"))
    for asset in (exchange, "x"):
        place = f"{exchange}/{asset}/USD" if asset == "x" else f"x/{exchange}/USD"
        target = client.base_url.copy_with(raw_path=f"{API}/{place}/candles?resolution=1m".encode())
        answer = await client.post(target, content=arrow_stream(bars(3)), headers={"Content-Type": ARROW})
        assert answer.status_code in (404, 422), answer.text
    assert sorted(path for path in services.config.data_dir.rglob("*.parquet")) == before


async def test_reading_uploading_and_deleting_need_their_scopes(client: httpx.AsyncClient, services: Services) -> None:
    url = f"{client.base_url}{API}/demo/XBT/USD/candles?resolution=1m".replace("//work", "/work")
    allowed = {"read": {"GET"}, "ingest": {"POST"}, "admin": {"GET", "POST", "DELETE"}, "alerts": set()}
    body = arrow_stream(bars(3))
    for scope, methods in allowed.items():
        _, token = await services.users.create(name=scope, scopes=[scope])
        async with httpx.AsyncClient(headers={"X-API-Key": token}) as other:
            for method in ("GET", "POST", "DELETE"):
                answer = await other.request(method, url, content=body if method == "POST" else None)
                assert (answer.status_code == 403) == (method not in methods), (scope, method, answer.text)
    async with httpx.AsyncClient() as nobody:
        assert (await nobody.get(url)).status_code == 401
