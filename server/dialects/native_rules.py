"""Rules on what bots do, and when they fired.

    GET, POST /workbench/api/rules          GET, PATCH, DELETE /workbench/api/rules/{id}
    GET /workbench/api/rules/firings        GET /workbench/api/rules/stream (WebSocket)
"""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field

from engine import times
from engine.errors import Invalid
from engine.model import Event
from server.dialects.base import BaseHandler
from server.dialects.bodies import STRICT, Line
from server.dialects.routes import Answer, Path, Query, Route
from server.dialects.streams import StreamHandler
from server.services import Services
from server.services.rules import CONDITIONS, STREAM, Firing, Rule

__all__ = ["routes"]

BASE: Final = "/workbench/api/rules"

Name = Annotated[Line, Field(min_length=1, max_length=200)]
Number = Annotated[float, Field(ge=0, lt=1e15)]
Seconds = Annotated[float, Field(ge=0, le=366 * 86400)]
Window = Annotated[float, Field(ge=1, le=7 * 86400, description="seconds that are counted")]


class Strict(BaseModel):
    model_config = STRICT


class NewRule(Strict):
    """Fires when the condition's value has been above `threshold` for `lasting` seconds; again after `cooldown`."""

    name: Name
    condition: Annotated[str, Field(description="one of " + ", ".join(
        f"{name} ({doc})" for name, doc in CONDITIONS.items()))]
    threshold: Number
    window: Window = 300.0
    model: Annotated[str, Field(max_length=128, description="a model's id; empty: all")] = ""
    lasting: Seconds = 0.0
    cooldown: Seconds = 300.0


class RuleChange(Strict):
    """Fields that are left out stay. `silenced_until`: an ISO 8601 time until which the rule waits; "" for none. With
    another condition or model the rule begins anew."""

    name: Name | None = None
    condition: str | None = None
    model: Annotated[str | None, Field(max_length=128, description="a model's id; empty: all")] = None
    threshold: Number | None = None
    window: Window | None = None
    lasting: Seconds | None = None
    cooldown: Seconds | None = None
    enabled: bool | None = None
    silenced_until: Annotated[str | None, Field(max_length=64)] = None


def rule_json(rule: Rule) -> dict[str, Any]:
    return {"id": rule.id, "name": rule.name, "condition": rule.condition, "threshold": rule.threshold,
            "window": rule.window, "model": rule.model, "lasting": rule.lasting, "cooldown": rule.cooldown,
            "enabled": rule.enabled, "owner": rule.owner, "created_at": times.iso(rule.created_at),
            "silenced_until": None if rule.silenced_until is None else times.iso(rule.silenced_until)}


def firing_json(firing: Firing) -> dict[str, Any]:
    return {"id": firing.id, "rule": firing.rule, "model": firing.model, "at": times.iso(firing.at),
            "resolved_at": None if firing.resolved_at is None else times.iso(firing.resolved_at),
            "value": firing.value, "message": firing.message}


class RulesHandler(BaseHandler):
    async def get(self) -> None:
        self.write_json({"items": [rule_json(rule) for rule in await self.services.rules.list()]})

    async def post(self) -> None:
        wanted = await self.read_model(NewRule)
        self.write_json(rule_json(await self.services.rules.create(**wanted.model_dump(), owner=self.principal.name)),
                        status=201)


class RuleHandler(BaseHandler):
    async def get(self, id: str) -> None:
        self.write_json(rule_json(await self.services.rules.get(id)))

    async def patch(self, id: str) -> None:
        values = (await self.read_model(RuleChange)).model_dump(exclude_none=True)
        if not values:
            raise Invalid("nothing is to change", remedy="send what is to change")
        if "silenced_until" in values:
            text = values["silenced_until"]
            values["silenced_until"] = times.micros(times.parse(text, field="silenced_until")) if text else None
        self.write_json(rule_json(await self.services.rules.change(id, **values)))

    async def delete(self, id: str) -> None:
        await self.services.rules.delete(id)
        self.set_status(204)
        self.finish()


class FiringsHandler(BaseHandler):
    async def get(self) -> None:
        found = await self.services.rules.firings(**self.query)
        await self.send_json({"items": [firing_json(firing) for firing in found]})


class RulesSocket(StreamHandler):
    async def events(self) -> AsyncIterator[Event]:  # type: ignore[override]
        async for event in self.services.events.follow(STREAM, self.query["after"]):
            yield event


def routes(services: Services) -> list[Route]:
    one = Answer(doc="the rule", model={"type": "object", "required": ["id", "condition", "threshold"]})
    many = Answer(doc="a page", model={"type": "object", "required": ["items"]})
    place = (Path(name="id", doc="the rule's id"),)
    return [
        Route(methods="GET", path=BASE, handler=RulesHandler, auth="read", tag="rules", name="list_rules",
              summary="Rules on what bots do", answers={200: many}),
        Route(methods="POST", path=BASE, handler=RulesHandler, auth="admin", tag="rules", name="create_rule",
              summary="Make a rule", request=NewRule, answers={201: one}, errors=(422,)),
        Route(methods="GET", path=BASE + "/firings", handler=FiringsHandler, auth="read", tag="rules",
              name="list_firings", summary="When rules fired, newest first", answers={200: many}, query=(
                  Query(name="rule", high=32), Query(name="model", high=128),
                  Query(name="before", kind="integer", low=1, doc="the last id shown before"),
                  Query(name="limit", kind="integer", low=1, high=1000, default=100))),
        Route(methods="GET", path=BASE + "/stream", handler=RulesSocket, auth="read", tag="rules",
              name="follow_rules", summary="Firings and their ends as they happen", websocket=True,
              query=(Query(name="after", kind="integer", low=0, default=0),)),
        Route(methods="GET", path=BASE + "/{id}", handler=RuleHandler, auth="read", tag="rules", parameters=place,
              name="get_rule", summary="One rule", answers={200: one}),
        Route(methods="PATCH", path=BASE + "/{id}", handler=RuleHandler, auth="admin", tag="rules", parameters=place,
              name="change_rule", summary="Change or silence a rule", request=RuleChange, answers={200: one},
              errors=(422,)),
        Route(methods="DELETE", path=BASE + "/{id}", handler=RuleHandler, auth="admin", tag="rules", parameters=place,
              name="delete_rule", summary="Delete a rule with its firings", answers={204: Answer(doc="it is gone")}),
    ]
