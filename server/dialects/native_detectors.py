"""Detectors over the native API: what there is, backtests, and detection switched on and off.

    GET  /workbench/api/detectors           GET …/detectors/{key}      POST …/detectors/{key}/backtest
    GET  /workbench/api/detector-backtests/{id}      what a finished backtest says of the alerts, and the alerts
    GET  /workbench/api/detections
    GET, PUT, DELETE …/detections/{exchange}/{asset}/{currency}/{detector}

A detector's backtest is a run of kind "backtest" and dialect "alerts": the routes on runs list, follow, cancel and
delete it too, and its report compares with any other's.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field

from engine import times
from engine.errors import Conflict, Invalid, NotFound
from engine.model import Market
from engine.spec import BacktestSpec, Costs, ParameterValue
from server.dialects.base import BaseHandler
from server.dialects.bodies import STRICT, Line
from server.dialects.native_runs import run_json
from server.dialects.routes import Answer, Path, Query, Route
from server.services import Services
from server.services.alerts import DetectionSetting

__all__ = ["routes"]

BASE: Final = "/workbench/api/detectors"
DETECTIONS: Final = "/workbench/api/detections"
MINUTE: Final = 60
_INSTANTS: Final = ("detected_at", "started_at", "ended_at")
_LEFT_OUT: Final = ("time", *_INSTANTS)


class Strict(BaseModel):
    model_config = STRICT


class DetectorBacktest(Strict):
    """`resolution` None: candles of 1m where all markets have them, else the finest they have. `bar` None: the
    detector's own, or the candles themselves where they are coarser. `risk`: fraction of the cash between start and
    stop, for the portfolio beside the alerts."""

    markets: Annotated[list[str], Field(min_length=1, max_length=500)]
    params: dict[str, ParameterValue] = {}
    resolution: Annotated[str | None, Field(max_length=20)] = None
    bar: Annotated[str | None, Field(max_length=20)] = None
    start: str | None = None
    end: str | None = None
    cash: Annotated[float, Field(gt=0, le=1e12)] = 100_000.0
    costs: Costs = Costs()
    risk: Annotated[float, Field(gt=0, le=1)] = 0.01
    name: Annotated[str, Field(max_length=200)] = ""
    tags: Annotated[list[str], Field(max_length=50)] = []


class DetectionRequest(Strict):
    """`params`, `resolution`, `bar`, `instrument`, `ticker` None: as before, else the defaults."""

    state: Literal["on", "paused", "off"] = "on"
    params: dict[str, ParameterValue] | None = None
    resolution: Annotated[str | None, Field(max_length=20)] = None
    bar: Annotated[str | None, Field(max_length=20)] = None
    instrument: Annotated[str | None, Field(max_length=32)] = None
    ticker: Annotated[Line | None, Field(min_length=1, max_length=128)] = None


class DetectorList(BaseHandler):
    async def get(self) -> None:
        from engine import detectors

        self.write_json({"items": detectors.describe()})


class OneDetector(BaseHandler):
    async def get(self, key: str) -> None:
        self.write_json(_detector(key).describe())


class BacktestHandler(BaseHandler):
    async def post(self, key: str) -> None:
        detector = _detector(key)
        wanted = await self.read_model(DetectorBacktest)
        markets = [Market.parse(text, field=f"markets.{place}") for place, text in enumerate(wanted.markets)]
        resolution = times.resolution(wanted.resolution) if wanted.resolution else await _finest(
            self.services, markets)
        bar = times.resolution(wanted.bar, field="bar") if wanted.bar else max(detector.bar, resolution)
        currency = markets[0].currency if markets[0].currency.isalnum() and markets[0].currency.isupper() else "USD"
        spec = BacktestSpec.read({
            "strategy": key, "params": wanted.params, "markets": wanted.markets,
            "resolution": times.resolution_name(resolution), "start": wanted.start, "end": wanted.end,
            "cash": wanted.cash, "currency": currency[:10] if len(currency) >= 2 else "USD", "costs": wanted.costs,
            "direction": "both", "fill_model": "alerts",
            "fill_options": {"bar": times.resolution_name(bar), "risk": wanted.risk}})
        run = await self.services.runs.submit(
            spec, dialect="alerts", name=wanted.name, tags=wanted.tags, owner=self.principal.name,
            idempotency_key=self.request.headers.get("Idempotency-Key"))
        self.write_json(run_json(run), status=201)


class BacktestReport(BaseHandler):
    async def get(self, id: str) -> None:
        run = await self.services.runs.get(id)
        if run.spec.get("fill_model") != "alerts":
            raise NotFound(f"{id[:80]!r} is no backtest of a detector")
        if run.state != "completed":
            raise Conflict(f"the run is {run.state}" + (f": {run.error}" if run.error else ""),
                           remedy="a report exists once a run is completed")
        summary = await self.services.runs.summary(id)
        table = await self.services.runs.table(id, "alerts")
        offset, limit = self.query["offset"], self.query["limit"]
        rows = await self.off_loop(lambda: _rows(table.slice(offset, limit).to_pydict()))
        await self.send_json({
            "run": run_json(run), "detector": summary["extra"]["detector"], "duration": summary["extra"]["duration"],
            "bar": summary["extra"]["bar"], "statistics": summary["extra"]["alerts"], "alerts": rows,
            "total": table.num_rows})


def _rows(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """The alerts as objects; what is not there is null."""
    names = [name for name in columns if name not in _LEFT_OUT]
    rows = []
    for place in range(len(columns["time"])):
        row = {name: columns[name][place] for name in names}
        row = {name: None if isinstance(value, float) and value != value else value for name, value in row.items()}
        row |= {name: times.iso(columns[name][place]) if columns[name][place] else None for name in _INSTANTS}
        rows.append(row)
    return rows


async def _finest(services: Services, markets: Sequence[Market]) -> int:
    """The resolution (seconds) at which every market is walked: a minute if all have it, else the coarsest of what is
    the finest of each."""
    finest = []
    for place, market in enumerate(markets):
        stored = [dataset.resolution for dataset in await services.markets.list(market)]
        if not stored:
            raise Invalid(f"there are no candles of {market.key}", field=f"markets.{place}",
                          remedy="import them first")
        finest.append(max(MINUTE, min(stored)))
    return max(finest)


def _detector(key: str) -> Any:
    from engine import detectors

    if key not in detectors.names():
        raise NotFound(f"there is no detector {key[:80]!r}", remedy="detectors are " + ", ".join(detectors.names()))
    return detectors.get(key)


class DetectionList(BaseHandler):
    async def get(self) -> None:
        await self.send_json({"items": [_setting_json(each) for each in await self.services.alerts.detections()]})


class OneDetection(BaseHandler):
    async def get(self, exchange: str, asset: str, currency: str, detector: str) -> None:
        market = Market(exchange, asset, currency)
        for each in await self.services.alerts.detections():
            if (each.market, each.detector) == (market.key, detector):
                return self.write_json(_setting_json(each))
        raise NotFound(f"{detector[:80]} was never switched on for {market.key}")

    async def put(self, exchange: str, asset: str, currency: str, detector: str) -> None:
        _detector(detector)
        wanted = await self.read_model(DetectionRequest)
        setting = await self.services.alerts.switch(
            Market(exchange, asset, currency), detector, wanted.state, params=wanted.params,
            resolution=wanted.resolution, bar=wanted.bar, instrument=wanted.instrument, ticker=wanted.ticker,
            owner=self.principal.name)
        self.write_json(_setting_json(setting))

    async def delete(self, exchange: str, asset: str, currency: str, detector: str) -> None:
        await self.services.alerts.forget(Market(exchange, asset, currency), detector)
        self.set_status(204)
        self.finish()


def _setting_json(setting: DetectionSetting) -> dict[str, Any]:
    return {
        "market": setting.market, "detector": setting.detector, "state": setting.state,
        "params": dict(setting.params), "resolution": times.resolution_name(setting.resolution),
        "bar": times.resolution_name(setting.bar), "instrument": setting.instrument, "ticker": setting.ticker,
        "owner": setting.owner, "created_at": times.iso(setting.created_at),
        "position": None if setting.position is None else times.iso(setting.position), "late": setting.late,
        "alert_id": setting.alert_id,
    }


def routes(services: Services) -> list[Route]:
    """The operations on detectors."""
    key = (Path(name="key", doc="the detector's key", examples=("breakout_retest_short",)),)
    id_path = (Path(name="id", doc="the run's id"),)
    place = (Path(name="exchange", examples=("demo",)), Path(name="asset", examples=("AAPL",)),
             Path(name="currency", examples=("USD",)), Path(name="detector", examples=("ma_pullback_long",)))
    one = DETECTIONS + "/{exchange}/{asset}/{currency}/{detector}"
    listed = {"type": "object", "required": ["items"]}
    setting = Answer(doc="the setting", model={"type": "object", "required": ["market", "detector", "state"]})
    return [
        Route(methods="GET", path=BASE, handler=DetectorList, auth="read", tag="detectors", name="list_detectors",
              summary="Detectors with their parameters and sources", answers={200: Answer(doc="all", model=listed)}),
        Route(methods="GET", path=BASE + "/{key}", handler=OneDetector, auth="read", tag="detectors", parameters=key,
              name="detector", summary="One detector", answers={200: Answer(doc="the detector", model={
                  "type": "object", "required": ["key", "parameters"]})}, errors=(404,)),
        Route(methods="POST", path=BASE + "/{key}/backtest", handler=BacktestHandler, auth="backtest", tag="detectors",
              name="backtest_detector", summary="Queue a backtest of a detector", parameters=key,
              request=DetectorBacktest, errors=(400, 404, 409, 413, 422, 503),
              answers={201: Answer(doc="the run", model={"type": "object", "required": ["id", "state"]})}),
        Route(methods="GET", path="/workbench/api/detector-backtests/{id}", handler=BacktestReport, auth="read",
              tag="detectors", name="detector_backtest", parameters=id_path,
              summary="What a detector's backtest says of its alerts, and the alerts",
              query=(Query(name="limit", kind="integer", low=0, high=100_000, default=1000),
                     Query(name="offset", kind="integer", low=0, high=2**31, default=0)),
              answers={200: Answer(doc="statistics (all, BUY, SELL, and by duration) and alerts", model={
                  "type": "object", "required": ["run", "statistics", "alerts", "total"]})}, errors=(404, 409, 422)),
        Route(methods="GET", path=DETECTIONS, handler=DetectionList, auth="read", tag="detectors",
              name="list_detections", summary="What is switched on, with positions",
              answers={200: Answer(doc="all, also those switched off", model=listed)}),
        Route(methods="GET", path=one, handler=OneDetection, auth="read", tag="detectors", parameters=place,
              name="detection", summary="One detector on one market", answers={200: setting}, errors=(404, 422)),
        Route(methods="PUT", path=one, handler=OneDetection, auth="alerts", tag="detectors", parameters=place,
              name="switch_detection", summary="Switch a detector on, to paused, or off for a market",
              request=DetectionRequest, answers={200: setting}, errors=(400, 404, 413, 422, 503)),
        Route(methods="DELETE", path=one, handler=OneDetection, auth="alerts", tag="detectors", parameters=place,
              name="forget_detection", summary="Switch off and forget the setting; alerts stay",
              answers={204: Answer(doc="forgotten")}, errors=(404, 422)),
    ]
