"""Subscribers of the alerts and their credits, for the operator.

    GET, POST /workbench/api/subscribers            GET, PATCH, DELETE /workbench/api/subscribers/{id}
    GET, POST /workbench/api/subscribers/{id}/credits
"""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field

from engine import times
from engine.alerts import DURATIONS, INSTRUMENTS
from engine.errors import NotFound
from server.dialects.base import BaseHandler
from server.dialects.bodies import STRICT, Whole
from server.dialects.routes import Answer, Path, Query, Route
from server.services import Services
from server.services.credits import Entry
from server.services.passwords import LONGEST, SHORTEST
from server.services.subscribers import RENEWAL, Subscriber

__all__ = ["routes"]

BASE: Final = "/workbench/api/subscribers"

Email = Annotated[str, Field(min_length=3, max_length=255)]
Password = Annotated[str, Field(min_length=SHORTEST, max_length=LONGEST)]
Access = Literal["FREE", "FULL"]
Renewal = Annotated[Whole, Field(ge=0, le=10**9, description="credits that a renewal adds")]
Instruments = Annotated[list[str], Field(max_length=20, description="any of " + ", ".join(INSTRUMENTS))]
Durations = Annotated[list[str], Field(max_length=5, description="any of " + ", ".join(DURATIONS))]


class Strict(BaseModel):
    model_config = STRICT


class NewSubscriber(Strict):
    """Without a password nobody can log in to the account. `credits` are granted at once."""

    email: Email
    password: Password | None = None
    access: Access = "FREE"
    automatic_renewal: bool = False
    renewal: Renewal = RENEWAL
    instruments: Instruments = list(INSTRUMENTS)
    durations: Durations = list(DURATIONS)
    credits: Annotated[Whole, Field(ge=0, le=10**9)] = 0


class SubscriberChange(Strict):
    """Fields that are left out stay. A new password ends the account's logins."""

    password: Password | None = None
    access: Access | None = None
    automatic_renewal: bool | None = None
    renewal: Renewal | None = None
    instruments: Instruments | None = None
    durations: Durations | None = None


class Grant(Strict):
    """Credits to give or, below zero, to take back."""

    amount: Annotated[Whole, Field(ge=-10**9, le=10**9)]
    note: Annotated[str, Field(max_length=1000)] = ""


def subscriber_json(one: Subscriber) -> dict[str, Any]:
    return {"id": one.id, "email": one.email, "access": one.access, "balance": one.balance,
            "automatic_renewal": one.automatic_renewal, "renewal": one.renewal,
            "instruments": [name for name in INSTRUMENTS if name in one.instruments],
            "durations": [name for name in DURATIONS if name in one.durations],
            "created_at": times.iso(one.created_at),
            "last_login_at": times.iso(one.last_login_at) if one.last_login_at else None}


def entry_json(entry: Entry) -> dict[str, Any]:
    return {"id": entry.id, "kind": entry.kind, "amount": entry.amount, "token": entry.token, "alert": entry.alert_id,
            "at": times.iso(entry.at), "note": entry.note}


def number_of(id: str) -> int:
    """The id of a path. Raises `NotFound` for what is no number."""
    if not (id.isascii() and id.isdigit() and len(id) < 19):
        raise NotFound(f"there is no subscriber {id[:50]!r}")
    return int(id)


class SubscribersHandler(BaseHandler):
    async def get(self) -> None:
        found = await self.services.subscribers.list(after=self.query["after"], limit=self.query["limit"])
        await self.send_json({"items": [subscriber_json(one) for one in found]})

    async def post(self) -> None:
        wanted = await self.read_model(NewSubscriber)
        values = wanted.model_dump(exclude={"email", "password", "credits"})
        made = await self.services.subscribers.create(wanted.email, wanted.password or "", **values)
        if wanted.credits:
            await self.services.credits.grant(made.id, wanted.credits, "at the beginning")
        self.write_json(subscriber_json(await self.services.subscribers.get(made.id)), status=201)


class SubscriberHandler(BaseHandler):
    async def get(self, id: str) -> None:
        self.write_json(subscriber_json(await self.services.subscribers.get(number_of(id))))

    async def patch(self, id: str) -> None:
        wanted = await self.read_model(SubscriberChange)
        changed = await self.services.subscribers.change(number_of(id), **wanted.model_dump(exclude_none=True))
        self.write_json(subscriber_json(changed))

    async def delete(self, id: str) -> None:
        await self.services.subscribers.delete(number_of(id))
        self.set_status(204)
        self.finish()


class CreditsHandler(BaseHandler):
    async def get(self, id: str) -> None:
        account = await self.services.subscribers.get(number_of(id))
        found = await self.services.credits.entries(account.id, before=self.query["before"], limit=self.query["limit"])
        await self.send_json({"balance": account.balance, "items": [entry_json(entry) for entry in found]})

    async def post(self, id: str) -> None:
        wanted = await self.read_model(Grant)
        balance = await self.services.credits.grant(number_of(id), wanted.amount, wanted.note)
        self.write_json({"balance": balance}, status=201)


def routes(services: Services) -> list[Route]:
    one = Answer(doc="the subscriber", model={"type": "object", "required": ["id", "email", "access", "balance"]})
    many = {"type": "object", "required": ["items"]}
    place = (Path(name="id", doc="the subscriber's number"),)
    limit = Query(name="limit", kind="integer", low=1, high=1000, default=100)
    return [
        Route(methods="GET", path=BASE, handler=SubscribersHandler, auth="admin", tag="subscribers",
              name="list_subscribers", summary="Subscribers in the order in which they were made",
              query=(Query(name="after", kind="integer", low=0, default=0, doc="the last id shown before"), limit),
              answers={200: Answer(doc="subscribers", model=many)}),
        Route(methods="POST", path=BASE, handler=SubscribersHandler, auth="admin", tag="subscribers",
              name="create_subscriber", summary="Make an account", request=NewSubscriber, answers={201: one},
              errors=(409, 422)),
        Route(methods="GET", path=BASE + "/{id}", handler=SubscriberHandler, auth="admin", tag="subscribers",
              parameters=place, name="get_subscriber", summary="One account", answers={200: one}),
        Route(methods="PATCH", path=BASE + "/{id}", handler=SubscriberHandler, auth="admin", tag="subscribers",
              parameters=place, name="change_subscriber", summary="Change an account", request=SubscriberChange,
              answers={200: one}, errors=(422,)),
        Route(methods="DELETE", path=BASE + "/{id}", handler=SubscriberHandler, auth="admin", tag="subscribers",
              parameters=place, name="delete_subscriber", summary="Delete an account with its ledger", errors=(409,),
              answers={204: Answer(doc="it is gone")}),
        Route(methods="GET", path=BASE + "/{id}/credits", handler=CreditsHandler, auth="admin", tag="subscribers",
              parameters=place, name="list_credits", summary="The ledger of an account, newest first",
              query=(Query(name="before", kind="integer", low=1, doc="the last id of the page before"), limit),
              answers={200: Answer(doc="balance and entries", model=many)}),
        Route(methods="POST", path=BASE + "/{id}/credits", handler=CreditsHandler, auth="admin", tag="subscribers",
              parameters=place, name="grant_credits", summary="Give credits, or take unused ones back", request=Grant,
              answers={201: Answer(doc="the new balance", model={"type": "object", "required": ["balance"]})},
              errors=(409, 422)),
    ]
