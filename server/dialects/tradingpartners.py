"""TradingPartners' alert service: alerts over Server-Sent Events, and what is around them.

    their word               ours
    user                     a subscriber (`server.services.subscribers`)
    token of an event        the credit that the alert cost (`server.services.credits`)
    tokenState               what became of it when the alert ended: REIMBURSED, CONSUMED
    durationStrategy         short, long
    ONMARK, ONGOING, WON …   working, onGoing, closed with and without a gain, aborted

    POST /api/v1/users/login           e-mail address and password -> accessToken, tokenType, expiresIn, lastLogin
    GET  /api/v1/users/subscription    subscription, balance, automaticRenewal
    GET, PUT /api/v1/users/preferences instruments, durationStrategies (only a web page is documented for these)
    GET  /api/v1/alerts                the stream; FULL access
    GET  /api/v1/alerts/closed         alerts closed within 15 minutes; FREE: the won ones, once in 15 minutes
    GET  /api/v1/alerts/history        alerts that the subscriber received

Disagreements. The documentation prints `event: ping,`; the comma is left out, since a client would see a type of that
name. Ids, resumption by Last-Event-ID and pings every 12 s are ours. The page on errors names numbers, not the keys of
the JSON. When the last credit is used and none is added by itself, the stream ends with `event: error`, whose data
is the payment-required error. Query parameters that are wrong have the number of path parameters.

A Bearer token or the session cookie of a page says who asks, never the query. Tokens with the scope alerts (or admin)
stand for the operator, whose credits renew themselves. These addresses lie below Gekko's `/api` catch-all and must
come before it.
"""

from datetime import timedelta
from typing import Any, Final

from engine import times
from engine.alerts import DURATIONS, INSTRUMENTS
from engine.errors import Busy, Invalid
from server.dialects.failures import Malformed
from server.dialects.routes import Answer, Query, Route
from server.dialects.tradingpartners_blocks import alert_json, instant
from server.dialects.tradingpartners_desk import Desk
from server.dialects.tradingpartners_errors import ERROR, BodyProblem
from server.dialects.tradingpartners_handler import Partner, text_field
from server.dialects.tradingpartners_stream import AlertStream
from server.services import Services
from server.services.alert_rows import AlertFilters
from server.services.subscribers import Subscriber

__all__ = ["routes"]

BASE: Final = "/api/v1"
RECENT: Final = timedelta(minutes=15)
SORTS: Final = {"accessDate": "accessed_at", "startedAt": "detected_at", "closedAt": "ended_at", "ticker": "ticker",
                "instrument": "instrument", "figureTime": "detected_at", "gain": "gain", "status": "state"}
STATUSES: Final[dict[str, dict[str, Any]]] = {
    "ONMARK": {"states": ["working"]}, "ONGOING": {"states": ["onGoing"]}, "ABORTED": {"states": ["aborted"]},
    "WON": {"won": True}, "LOST": {"won": False}}


class LoginHandler(Partner):
    async def post(self) -> None:
        data = await self.read_object()
        email, password = text_field(data, "email", 255), text_field(data, "password", 30)
        for client in (self.request.remote_ip or "", f"account {email.strip().lower()}"):
            allowance = self.context.logins.take(client)
            if allowance is not None and allowance.exceeded:
                self.lasting_header("Retry-After", str(allowance.retry_after))
                raise Busy("too many attempts to log in", remedy=f"wait {allowance.retry_after} s")
        account, text, seconds = await self.services.subscribers.log_in(email, password)
        self.write_json({"accessToken": text, "tokenType": "bearer", "expiresIn": seconds,
                         "lastLogin": instant(account.last_login_at)})


class SubscriptionHandler(Partner):
    async def get(self) -> None:
        account = await self.read_account()
        self.write_json({"subscription": account.access, "balance": account.balance,
                         "automaticRenewal": account.automatic_renewal})


class PreferencesHandler(Partner):
    async def get(self) -> None:
        self.write_json(preferences(await self.read_account()))

    async def put(self) -> None:
        account, data = await self.read_account(), await self.read_object()
        changes: dict[str, Any] = {}
        for name, column, choices in (("instruments", "instruments", INSTRUMENTS),
                                      ("durationStrategies", "durations", DURATIONS)):
            if name not in data:
                continue
            wanted = data[name]
            if not isinstance(wanted, list) or not all(isinstance(one, str) and one in choices for one in wanted):
                raise BodyProblem(22, name, "this is no list of choices", "choose of " + ", ".join(choices))
            changes[column] = wanted
        if not changes:
            raise Malformed("nothing is to change", remedy="send instruments, durationStrategies or both")
        self.write_json(preferences(await self.services.subscribers.change(account.id, **changes)))


def preferences(account: Subscriber) -> dict[str, Any]:
    return {"instruments": [one for one in INSTRUMENTS if one in account.instruments],
            "durationStrategies": [one for one in DURATIONS if one in account.durations]}


class ClosedHandler(Partner):
    async def get(self) -> None:
        account = await self.read_account()
        filters = AlertFilters(states=["closed"], won=None if account.access == "FULL" else True,
                               ended_since=times.now() - RECENT)
        found = (await self.services.alerts.page(filters, sort="ended_at", limit=1000)).items
        if found and account.access != "FULL" and not await self.services.subscribers.take_free(account.id):
            found = ()
        await self.send_json([alert_json(alert) for alert in found])


class HistoryHandler(Partner):
    async def get(self) -> None:
        account, query = await self.read_account(), self.query
        if query["from"] is not None and query["to"] is not None and query["from"] > query["to"]:
            raise Invalid("the range ends before it begins", field="to", remedy="give one that is not before from")
        filters = AlertFilters(
            instruments=[query["instrument"]] if query["instrument"] else None, ticker=query["ticker"] or None,
            since=times.instant(query["from"]) if query["from"] is not None else None,
            until=times.instant(query["to"]) if query["to"] is not None else None, **STATUSES.get(query["status"], {}))
        found, total = await self.services.credits.history(
            account.id, filters, sort=SORTS[query["orderBy"]], descending=query["orderDir"] == "desc",
            limit=query["size"], offset=(query["page"] - 1) * query["size"])
        await self.send_json({"total": total, "page": query["page"], "size": query["size"], "data": [
            {**alert_json(alert), "accessDate": instant(times.instant(at)), "figureTime": instant(alert.detected_at)}
            for alert, at in found]})


def routes(services: Services) -> list[Route]:
    """The alert service's addresses."""
    plain = {"error_schema": ERROR}
    page = {"type": "object", "required": ["total", "page", "size", "data"]}
    wanted = {"type": "object", "properties": {
        "instruments": {"type": "array", "items": {"type": "string", "enum": list(INSTRUMENTS)}},
        "durationStrategies": {"type": "array", "items": {"type": "string", "enum": list(DURATIONS)}}}}
    told = Answer(doc="what the subscriber wants to hear of", model=wanted)
    history = (
        Query(name="page", kind="integer", low=1, high=10**6, default=1),
        Query(name="size", kind="integer", low=1, high=1000, default=10),
        Query(name="from", kind="time", doc="detected at or after"), Query(name="to", kind="time", doc="… or before"),
        Query(name="ticker", high=128, default="", doc="any part of it, in any case"),
        Query(name="instrument", kind="choice", choices=INSTRUMENTS), Query(name="status", kind="choice",
                                                                            choices=tuple(STATUSES)),
        Query(name="orderBy", kind="choice", choices=tuple(SORTS), default="accessDate"),
        Query(name="orderDir", kind="choice", choices=("asc", "desc"), default="desc"))
    return [
        Route(methods="POST", path=f"{BASE}/users/login", handler=LoginHandler, auth=None, tag="alerts",
              name="tradingpartners_login", summary="Log a subscriber in", options=plain, max_body=2**14, request={
                  "type": "object", "required": ["email", "password"],
                  "properties": {"email": {"type": "string", "minLength": 1, "maxLength": 255},
                                 "password": {"type": "string", "minLength": 1, "maxLength": 30}}},
              answers={200: Answer(doc="a token that is good for a day", model={"type": "object", "required": [
                  "accessToken", "tokenType", "expiresIn", "lastLogin"]})}, errors=(400, 401)),
        Route(methods="GET", path=f"{BASE}/users/subscription", handler=SubscriptionHandler, auth="", tag="alerts",
              name="tradingpartners_subscription", summary="Access and credits", options=plain,
              answers={200: Answer(doc="the account", model={"type": "object", "required": [
                  "subscription", "balance", "automaticRenewal"]})}),
        Route(methods="GET", path=f"{BASE}/users/preferences", handler=PreferencesHandler, auth="", tag="alerts",
              name="tradingpartners_preferences", summary="Which alerts arrive", options=plain, answers={200: told}),
        Route(methods="PUT", path=f"{BASE}/users/preferences", handler=PreferencesHandler, auth="", tag="alerts",
              name="tradingpartners_set_preferences", summary="Choose which alerts arrive", options=plain,
              request=wanted, answers={200: told}, errors=(400,)),
        Route(methods="GET", path=f"{BASE}/alerts", handler=AlertStream, auth="", tag="alerts",
              name="tradingpartners_alerts", summary="Alerts as they happen (Server-Sent Events)",
              description="Events ping, working, aborted, onGoing, closed. Go on after the event that came last with "
                          "the header Last-Event-ID. Each alert costs one credit; see /workbench/api/subscribers.",
              options=plain | {"desk": Desk(services)}, errors=(400, 402),
              answers={200: Answer(doc="the stream", content=("text/event-stream",))}),
        Route(methods="GET", path=f"{BASE}/alerts/closed", handler=ClosedHandler, auth="", tag="alerts",
              name="tradingpartners_closed", summary="Alerts closed within 15 minutes", options=plain,
              answers={200: Answer(doc="newest first", model={"type": "array", "items": {"type": "object"}})}),
        Route(methods="GET", path=f"{BASE}/alerts/history", handler=HistoryHandler, auth="", tag="alerts",
              name="tradingpartners_history", summary="Alerts that the subscriber received", options=plain,
              query=history, errors=(400,), answers={200: Answer(doc="a page", model=page)}),
    ]
