"""Market data over the native API: what is stored, candles out and in, quality.

    GET    /workbench/api/markets
    GET    /workbench/api/markets/{exchange}/{asset}/{currency}/candles?resolution=&start=&end=&points=&limit=&cursor=
    POST   the same ?resolution=&overwrite=     the body is JSON, CSV, an Arrow stream or Parquet
    DELETE the same ?resolution=
    GET    /workbench/api/markets/{exchange}/{asset}/{currency}/quality?resolution=
"""

from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from typing import Any, Final

from engine import times
from engine.candle_files import NotJson, arrow_stream, csv_text
from engine.candle_store import Dataset
from engine.candles import Candles
from engine.errors import Invalid
from engine.model import Market
from engine.quality import Quality
from server.dialects.base import BaseHandler
from server.dialects.failures import Malformed, UnsupportedMedia
from server.dialects.routes import Answer, Path, Query, Route
from server.services import Services

__all__ = ["routes"]

_BASE: Final = "/workbench/api/markets"
_MARKET: Final = _BASE + "/{exchange}/{asset}/{currency}"
ARROW: Final = "application/vnd.apache.arrow.stream"
PARQUET: Final = "application/vnd.apache.parquet"
_BODIES: Final[Mapping[str, str]] = {
    "application/json": "json", "text/csv": "csv", "text/plain": "csv", ARROW: "arrow",
    "application/vnd.apache.arrow.file": "arrow", PARQUET: "parquet", "application/x-parquet": "parquet",
    "application/octet-stream": "", "": "",
}
_JSON_LIMIT: Final = 10_000
_MOST: Final = 1_000_000
_CSV_LINES: Final = 20_000


def routes(services: Services) -> list[Route]:
    """The operations on market data."""
    resolution = Query(name="resolution", default="1d", high=20, doc="1m, 15m, 1h, 1d, 1w, or seconds")
    start = Query(name="start", kind="time", doc="first bar open, inclusive")
    end = Query(name="end", kind="time", doc="last bar open, inclusive")
    places = (Path(name="exchange", examples=("demo",)), Path(name="asset", examples=("AAPL",)),
              Path(name="currency", examples=("USD",)))
    return [
        Route(methods="GET", path=_BASE, handler=Datasets, auth="read", tag="markets", summary="List stored candles",
              answers={200: Answer(doc="one entry for each market and stored resolution", model=_DATASETS)}),
        Route(methods="GET", path=_MARKET + "/candles", handler=CandleBars, auth="read", tag="markets",
              summary="Candles of a range", parameters=places,
              description="A resolution that is not stored is made from a finer one. `points` gathers the range into "
                          "at most that many coarser bars, for charts. `limit` pages: the next page begins at `next`, "
                          "given back as `cursor` (for Arrow and CSV in the header X-Next-Cursor). JSON without either "
                          f"gives the first {_JSON_LIMIT} bars; Arrow and CSV the whole range.",
              query=(resolution, start, end, Query(name="points", kind="integer", low=2, high=100_000),
                     Query(name="limit", kind="integer", low=1, high=_MOST), Query(name="cursor", high=30),
                     Query(name="format", kind="choice", choices=("json", "arrow", "csv"), default="json")),
              answers={200: Answer(doc="columns; times are microseconds since 1970", model=_COLUMNS,
                                   content=(ARROW, "text/csv")),
                       304: Answer(doc="unchanged since the ETag given in If-None-Match")}, errors=(404, 413, 422)),
        Route(methods="POST", path=_MARKET + "/candles", handler=CandleBars, auth="ingest", tag="markets",
              summary="Upload candles", parameters=places,
              description="Stores all bars or none. A bar that is stored already stays unless `overwrite`. The "
                          "resolution is read off the times unless given. Columns: start (or timestamp, date, time), "
                          "open, high, low, close, volume, and when present vwp and trades.",
              query=(Query(name="resolution", high=20), Query(name="overwrite", kind="switch", default=False)),
              request={"oneOf": [{"type": "object"}, {"type": "array"}]}, max_body="upload", spool=True,
              request_content=("application/json", "text/csv", ARROW, PARQUET),
              answers={200: Answer(doc="how many bars are new, were there already, and changed", model=_REPORT)},
              errors=(400, 413, 415, 422, 503)),
        Route(methods="DELETE", path=_MARKET + "/candles", handler=CandleBars, auth="admin", tag="markets",
              summary="Delete the candles of one resolution", parameters=places,
              query=(Query(name="resolution", required=True, high=20, doc="which stored resolution to delete"),),
              answers={200: Answer(doc="how many bars were removed",
                                   model={"type": "object", "properties": {"removed": {"type": "integer"}}})},
              errors=(404, 422)),
        Route(methods="GET", path=_MARKET + "/quality", handler=CandleQuality, auth="read", tag="markets",
              summary="How good the candles are", parameters=places, query=(resolution, start, end),
              answers={200: Answer(doc="gaps, doubles, impossible bars, outliers, calendar", model=_QUALITY)},
              errors=(404, 422)),
    ]


class Datasets(BaseHandler):
    async def get(self) -> None:
        await self.send_json({"items": [_dataset(each) for each in await self.services.markets.list()]})


class CandleBars(BaseHandler):
    async def get(self, exchange: str, asset: str, currency: str) -> None:
        market, query = Market(exchange, asset, currency), self.query
        resolution = times.resolution(_number(query["resolution"]))
        form, limit = query["format"], query["limit"]
        if limit is None and query["points"] is None and (form == "json" or query["cursor"]):
            limit = _JSON_LIMIT
        markets = self.services.markets
        self.set_header("Etag", f'W/"{await markets.stamp(market)}"')
        self.set_header("Cache-Control", "private, no-cache")
        if self.check_etag_header():
            self.set_status(304)
            await self.finish()
            return
        page = await markets.candles(market, resolution, query["start"], query["end"], points=query["points"],
                                     limit=limit, cursor=_cursor(query["cursor"]))
        following = None if page.next is None else str(page.next)
        self.set_header("X-Resolution", times.resolution_name(page.candles.resolution))
        if following:
            self.set_header("X-Next-Cursor", following)
        if form == "json":
            await self.send_json(_columns(page.candles, following))
        elif form == "arrow":
            self.write_bytes(await self.off_loop(arrow_stream, page.candles), ARROW)
        else:
            await self._send_csv(page.candles)

    async def _send_csv(self, candles: Candles) -> None:
        """In pieces: a thread that writes a million lines at a stretch would hold up the loop."""
        self.set_header("Content-Type", "text/csv; charset=utf-8")
        for begin in range(0, len(candles), _CSV_LINES):
            part = candles.take(slice(begin, begin + _CSV_LINES))
            self.write(await self.off_loop(partial(csv_text, part, header=begin == 0)))
            await self.flush()
        await self.finish()

    async def post(self, exchange: str, asset: str, currency: str) -> None:
        market = Market(exchange, asset, currency)
        given = self.query["resolution"]
        resolution = times.resolution(_number(given)) if given else None
        if self.content_type not in _BODIES:
            raise UnsupportedMedia(f"{self.content_type!r} is no form of candles", field="Content-Type",
                                   remedy="send " + ", ".join(name for name in _BODIES if name))
        if self.body_file is None or self._received == 0:
            raise Malformed("the body is empty", remedy="send candles")
        try:
            candles, report = await self.services.markets.upload(
                market, self.body_file, _BODIES[self.content_type], resolution=resolution,
                overwrite=self.query["overwrite"])
        except NotJson as error:
            raise Malformed(error.message, remedy=error.remedy) from None
        self.write_json({
            "market": market.key, "resolution": times.resolution_name(candles.resolution), "rows": len(candles),
            "first": times.iso(int(candles.time[0])), "last": times.iso(int(candles.time[-1])),
            "added": report.added, "kept": report.kept, "replaced": report.replaced,
        })

    async def delete(self, exchange: str, asset: str, currency: str) -> None:
        resolution = times.resolution(_number(self.query["resolution"]))
        removed = await self.services.markets.delete(Market(exchange, asset, currency), resolution)
        self.write_json({"removed": removed})


class CandleQuality(BaseHandler):
    async def get(self, exchange: str, asset: str, currency: str) -> None:
        resolution = times.resolution(_number(self.query["resolution"]))
        found = await self.services.markets.quality(Market(exchange, asset, currency), resolution,
                                                    self.query["start"], self.query["end"])
        await self.send_json(found.to_json())


def _number(text: str) -> str | int:
    """A resolution in the query: its name, or seconds."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 and int(text) else text


def _cursor(text: str | None) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.lstrip("-").isdigit() and len(text) < 18):
        raise Invalid(f"{text!r} is not a cursor", field="cursor", remedy="give back `next` of the page before")
    return int(text)


def _dataset(dataset: Dataset) -> dict[str, Any]:
    market = dataset.market
    return {"market": market.key, "exchange": market.exchange, "asset": market.asset, "currency": market.currency,
            "resolution": times.resolution_name(dataset.resolution), "first": times.iso(dataset.first),
            "last": times.iso(dataset.last), "rows": dataset.rows, "bytes": dataset.bytes, "files": dataset.files}


def _columns(candles: Candles, following: str | None) -> dict[str, Any]:
    return {"market": candles.market.key, "resolution": times.resolution_name(candles.resolution),
            "columns": candles.columns(), "rows": len(candles), "next": following}


_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_DATASETS: Final = {"type": "object", "required": ["items"], "properties": {"items": {"type": "array", "items": {
    "type": "object", "required": ["market", "resolution", "first", "last", "rows", "bytes"],
    "properties": dict.fromkeys(("market", "exchange", "asset", "currency", "resolution", "first", "last"), _TEXT)
    | dict.fromkeys(("rows", "bytes", "files"), _COUNT)}}}}
_COLUMNS: Final = {"type": "object", "required": ["market", "resolution", "columns", "rows", "next"], "properties": {
    "market": _TEXT, "resolution": _TEXT, "rows": _COUNT, "next": {"type": ["string", "null"]},
    "columns": {"type": "object", "additionalProperties": {
        "type": "array", "items": {"type": ["number", "null"]}}}}}
_REPORT: Final = {"type": "object", "required": ["added", "kept", "replaced"], "properties":
    dict.fromkeys(("added", "kept", "replaced", "rows"), _COUNT)
    | dict.fromkeys(("market", "resolution", "first", "last"), _TEXT)}
_QUALITY: Final = {"type": "object", "required": [each.name for each in fields(Quality)] + ["findings"]}
