"""Alerts over the native API: bots post and move their own, people and programs list and follow all.

    GET, POST /workbench/api/alerts      GET, PATCH /workbench/api/alerts/{id}      GET /workbench/api/alerts/statistics
    GET /workbench/api/alerts/stream     (WebSocket)
    GET, POST /workbench/api/hooks       DELETE /workbench/api/hooks/{id}
    POST /workbench/hooks/{secret}       what charting services post

Whose token may post alerts may read them, and has to mind them: an alert that nobody moves stays open.
"""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field

from engine import times
from engine.alerts import DIRECTIONS, DURATIONS, INSTRUMENTS, STATES
from engine.errors import Busy, Forbidden, Invalid, NotFound
from engine.model import Event, Principal
from server.dialects.base import BaseHandler
from server.dialects.bodies import STRICT, Line
from server.dialects.routes import Answer, Path, Query, Route
from server.dialects.streams import StreamHandler
from server.limits import RateLimiter
from server.services import Services
from server.services.alert_rows import AlertFilters
from server.services.hooks import LONGEST, Hook

__all__ = ["routes"]

BASE: Final = "/workbench/api/alerts"
HOOKS: Final = "/workbench/api/hooks"
WRONG_A_MINUTE: Final = 30  # messages to addresses that there are not

class Strict(BaseModel):
    model_config = STRICT


class NewAlert(Strict):
    """Target above start is a buy. `market` names one of ours, for charts."""

    instrument: Annotated[str, Field(description="one of " + ", ".join(INSTRUMENTS))]
    ticker: Annotated[str, Field(min_length=1, max_length=128)]
    durationStrategy: Literal["short", "long"]
    start: float
    target: float
    stop: float
    market: Annotated[str, Field(max_length=128)] = ""
    reason: Annotated[str, Field(max_length=10_000)] = ""
    source: Annotated[str, Field(max_length=64)] = "external"


class AlertMove(Strict):
    """The alert's next state; `exit`, when it is closed, the price at which."""

    state: Literal["onGoing", "aborted", "closed"]
    exit: float | None = None
    reason: Annotated[str, Field(max_length=10_000)] = ""


class NewHook(Strict):
    """`template`: the form of text messages, for example `{{ticker}} {{start}} {{target}} {{stop}}`; "" for JSON.
    `defaults`: fields that messages leave out, such as instrument."""

    name: Annotated[Line, Field(min_length=1, max_length=200)]
    template: Annotated[str, Field(max_length=LONGEST)] = ""
    defaults: Annotated[dict[str, Any], Field(max_length=20)] = {}


def alert_id(text: str) -> int:
    """The id of a path. Raises `NotFound` for what is no number."""
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise NotFound(f"there is no alert {text[:50]!r}")
    return int(text)


def hook_json(hook: Hook) -> dict[str, Any]:
    return {"id": hook.id, "name": hook.name, "template": hook.template, "defaults": dict(hook.defaults),
            "owner": hook.owner, "created_at": times.iso(hook.created_at),
            "used_at": None if hook.used_at is None else times.iso(hook.used_at), "error": hook.error}


def filters_of(query: dict[str, Any]) -> AlertFilters:
    def at(name: str) -> Any:
        return None if query[name] is None else times.instant(query[name])

    return AlertFilters(
        states=query["state"] or None, instruments=query["instrument"] or None, durations=query["duration"] or None,
        detector=query["detector"], market=query["market"], ticker=query["ticker"], direction=query["direction"],
        source=query["source"], won=query["won"], since=at("since"), until=at("until"))


def check_reader(principal: Principal) -> None:
    """Raise `Forbidden` for a token that may not see all alerts; subscribers' tokens may not, they pay for theirs."""
    if not (principal.may("read") or principal.may("alerts")):
        raise Forbidden("this token may not see alerts", remedy="use a token with the scope read or alerts")


class AlertsHandler(BaseHandler):
    async def get(self) -> None:
        check_reader(self.principal)
        query = self.query
        last = await self.services.credits.position()  # read first: who follows after it misses nothing of the page
        page = await self.services.alerts.page(filters_of(query), sort=query["sort"],
                                               descending=query["order"] == "desc", limit=query["limit"],
                                               offset=query["offset"])
        await self.send_json({"items": [alert.as_json() for alert in page.items], "total": page.total,
                              "last": last})

    async def post(self) -> None:
        wanted = await self.read_model(NewAlert)
        key = self.request.headers.get("Idempotency-Key")
        if key is not None and not 1 <= len(key) <= 200:
            raise Invalid("this key has no usable length", field="Idempotency-Key", remedy="use 1 to 200 characters")
        alert = await self.services.alerts.create(
            instrument=wanted.instrument, ticker=wanted.ticker, start=wanted.start, target=wanted.target,
            stop=wanted.stop, duration_strategy=wanted.durationStrategy, market=wanted.market, reason=wanted.reason,
            source=wanted.source or "external",
            key=None if key is None else f"{self.principal.token_id or 'open'} {key}")
        self.set_header("Location", f"{BASE}/{alert.id}")
        self.write_json(alert.as_json(), status=201)


class AlertHandler(BaseHandler):
    async def get(self, id: str) -> None:
        check_reader(self.principal)
        self.write_json((await self.services.alerts.get(alert_id(id))).as_json())

    async def patch(self, id: str) -> None:
        wanted = await self.read_model(AlertMove)
        if wanted.state != "closed" and wanted.exit is not None:
            raise Invalid("only a closed alert has an exit", field="exit", remedy="leave it out")
        moved = await self.services.alerts.move(alert_id(id), wanted.state, exit=wanted.exit, reason=wanted.reason)
        self.write_json(moved.as_json())


class StatisticsHandler(BaseHandler):
    async def get(self) -> None:
        check_reader(self.principal)
        await self.send_json({"items": await self.services.alerts.statistics(filters_of(self.query))})


class AlertSocket(StreamHandler):
    """Every step of every alert; `after`: the seq that came last, left out for what happens from now on."""

    async def events(self) -> AsyncIterator[Event]:  # type: ignore[override]
        check_reader(self.principal)
        after = self.query["after"]
        if after is None:
            after = await self.services.credits.position()
        async for event in self.services.events.follow("alerts", after):
            yield event


class HooksHandler(BaseHandler):
    async def get(self) -> None:
        self.write_json({"items": [hook_json(hook) for hook in await self.services.hooks.list()]})

    async def post(self) -> None:
        wanted = await self.read_model(NewHook)
        hook, secret = await self.services.hooks.create(wanted.name, template=wanted.template,
                                                        defaults=wanted.defaults, owner=self.principal.name)
        self.write_json(hook_json(hook) | {"path": f"/workbench/hooks/{secret}"}, status=201)


class OneHookHandler(BaseHandler):
    async def delete(self, id: str) -> None:
        await self.services.hooks.delete(id)
        self.set_status(204)
        self.finish()


class MessageHandler(BaseHandler):
    """A message to a hook. Its address is a secret, so neither the log nor an error repeats it."""

    async def post(self, secret: str) -> None:
        assert self.route is not None
        wrong: RateLimiter = self.route.options["wrong"]
        try:
            hook = await self.services.hooks.of(secret)
        except NotFound:
            allowance = wrong.take(self.request.remote_ip or "")
            if allowance is not None and allowance.exceeded:
                raise Busy("too many messages to hooks that there are not",
                           remedy=f"wait {allowance.retry_after} s") from None
            raise
        alert = await self.services.hooks.take(hook, self.body, key=self.request.headers.get("Idempotency-Key"))
        self.write_json({"id": alert.id, "state": alert.state}, status=201)


def routes(services: Services) -> list[Route]:
    """Alerts, hooks, and the address that hooks post to."""
    one = Answer(doc="the alert", model={"type": "object", "required": ["id", "state", "instrument", "ticker"]})
    many = Answer(doc="a page", model={"type": "object", "required": ["items"]})
    place = (Path(name="id", doc="the number that the alert was given"),)
    filters = (
        Query(name="state", many=True, kind="choice", choices=STATES, default=()),
        Query(name="instrument", many=True, kind="choice", choices=INSTRUMENTS, default=()),
        Query(name="duration", many=True, kind="choice", choices=DURATIONS, default=()),
        Query(name="detector", high=128),
        Query(name="market", high=128), Query(name="ticker", high=128, doc="any part of it, in any case"),
        Query(name="direction", kind="choice", choices=DIRECTIONS), Query(name="source", high=64),
        Query(name="won", kind="switch"), Query(name="since", kind="time", doc="detected at or after"),
        Query(name="until", kind="time", doc="… or before"))
    page = (Query(name="sort", high=32, default="detected_at"),
            Query(name="order", kind="choice", choices=("asc", "desc"), default="desc"),
            Query(name="limit", kind="integer", low=1, high=1000, default=50),
            Query(name="offset", kind="integer", low=0, high=10**9, default=0))
    return [
        Route(methods="GET", path=BASE, handler=AlertsHandler, auth="", tag="alerts", name="list_alerts",
              summary="Alerts, newest first", query=filters + page, answers={200: many},
              description="`last`: the number of the last step that the page shows; follow the stream after it."),
        Route(methods="POST", path=BASE, handler=AlertsHandler, auth="alerts", tag="alerts", name="post_alert",
              summary="Post a bot's own alert", request=NewAlert, answers={201: one}, errors=(409, 422),
              description="With the header Idempotency-Key the same alert is made once."),
        Route(methods="GET", path=BASE + "/statistics", handler=StatisticsHandler, auth="", tag="alerts",
              name="alert_statistics", summary="What became of alerts, by detector, instrument and duration",
              query=filters, answers={200: many}),
        Route(methods="GET", path=BASE + "/stream", handler=AlertSocket, auth="", tag="alerts",
              name="follow_alerts", summary="Every step of every alert", websocket=True,
              query=(Query(name="after", kind="integer", low=0),)),
        Route(methods="GET", path=BASE + "/{id}", handler=AlertHandler, auth="", tag="alerts", parameters=place,
              name="get_alert", summary="One alert", answers={200: one}),
        Route(methods="PATCH", path=BASE + "/{id}", handler=AlertHandler, auth="alerts", tag="alerts",
              parameters=place, name="move_alert", summary="Move a bot's own alert", request=AlertMove,
              answers={200: one}, errors=(409, 422)),
        Route(methods="GET", path=HOOKS, handler=HooksHandler, auth="alerts", tag="alerts", name="list_hooks",
              summary="Hooks, without their secrets", answers={200: many}),
        Route(methods="POST", path=HOOKS, handler=HooksHandler, auth="alerts", tag="alerts", name="create_hook",
              summary="Make an address that charting services can post alerts to", request=NewHook, errors=(422,),
              answers={201: Answer(doc="the hook, with its path shown this once", model={
                  "type": "object", "required": ["id", "path"]})}),
        Route(methods="DELETE", path=HOOKS + "/{id}", handler=OneHookHandler, auth="alerts", tag="alerts",
              name="delete_hook", parameters=(Path(name="id", doc="the hook's id"),),
              summary="Make a hook's address worthless", answers={204: Answer(doc="it is gone")}),
        Route(methods="POST", path="/workbench/hooks/{secret}", handler=MessageHandler, auth=None, tag="alerts",
              name="hook_message", summary="A charting service's message", max_body=2**16,
              request={"type": "object"}, request_content=("application/json", "text/plain"), errors=(409, 422, 429),
              options={"wrong": RateLimiter(WRONG_A_MINUTE)},
              parameters=(Path(name="secret", doc="the secret that came with the hook"),),
              answers={201: Answer(doc="the alert that the message made or moved", model={
                  "type": "object", "required": ["id", "state"]})}),
    ]
