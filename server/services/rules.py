"""Rules on what bots do: a condition that holds for long enough fires, once, until it holds no longer.

    no_heartbeat   seconds since the model was last heard of; a model that said it has stopped is not missed
    no_data        seconds since its last order, metric, result … (anything but log lines)
                   (both count from the server's start at the earliest: before that nobody could be heard)
    error_rate     error lines in its log within `window` seconds
    order_rejects  orders rejected within `window` seconds, whenever they were placed
    drawdown       how far its profit lies below its highest, in its currency (of several: the furthest)
    daily_loss     how far its profit lies below that of the last midnight (UTC)

A rule fires when its value has been above `threshold` for `lasting` seconds, and again only `cooldown` seconds later;
while it is silenced it waits. Every firing and its end is a row and an event on the stream `rules`, from which notices
are made. The state lies in the database: a restart neither forgets nor repeats a firing.
"""

import asyncio
import logging
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, delete, insert, select, update

from engine import times
from engine.errors import Invalid, NotFound, WorkbenchError
from engine.pnl_figures import Figures
from server.services.profit import Profit
from server.services.rule_values import CONDITIONS, PROFIT, value_of
from server.store.database import Database
from server.store.events import EventLog
from server.store.tables.activity import models
from server.store.tables.alerts import rule_firings, rule_states, rules

__all__ = ["CONDITIONS", "STREAM", "Firing", "Rule", "Rules"]

STREAM: Final = "rules"
EVERY: Final = 5.0  # seconds between two looks

log = logging.getLogger("workbench.rules")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One rule. `model` "": all. `threshold` in the condition's unit, `window`, `lasting`, `cooldown` in seconds;
    `silenced_until` in microseconds."""

    id: str
    name: str
    condition: str
    threshold: float
    window: float
    model: str
    lasting: float
    cooldown: float
    enabled: bool
    silenced_until: int | None
    owner: str
    created_at: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Firing:
    """One time that a rule fired; instants in microseconds."""

    id: int
    rule: str
    model: str
    at: int
    resolved_at: int | None
    value: float | None
    message: str


class Rules:
    """Makes rules and looks at them every few seconds."""

    def __init__(self, *, db: Database, events: EventLog, profit: Profit | None = None) -> None:
        self._db = db
        self._events = events
        self._profit = profit
        self._task: asyncio.Task[None] | None = None
        self._listening = 0

    async def start(self) -> None:
        self._listening = times.micros(times.now())
        self._task = asyncio.create_task(self._look(), name="rules")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    # -- rules

    async def create(self, name: str, condition: str, threshold: float, *, window: float = 300.0, model: str = "",
                     lasting: float = 0.0, cooldown: float = 300.0, owner: str = "") -> Rule:
        """A new rule, switched on. Raises `Invalid`."""
        _check(condition)
        row: dict[str, Any] = {"id": secrets.token_hex(8), "name": name, "condition": condition,
               "params": {"threshold": threshold, "window": window}, "model": model, "lasting": lasting,
               "cooldown": cooldown, "enabled": True, "owner": owner, "created_at": times.micros(times.now())}
        await self._db.write(lambda connection: connection.execute(insert(rules).values(row)))
        return await self.get(row["id"])

    async def list(self) -> list[Rule]:
        """In the order in which they were made."""
        query = select(rules).order_by(rules.c.created_at, rules.c.id)
        return await self._db.read(lambda connection: [_rule(row) for row in connection.execute(query)])

    async def get(self, id: str) -> Rule:
        """Raises `NotFound`."""
        return _rule(await self._db.read(lambda connection: _one(connection, id)))

    async def change(self, id: str, **values: Any) -> Rule:
        """Change `name`, `condition`, `model`, `threshold`, `window`, `lasting`, `cooldown`, `enabled` or
        `silenced_until`. With another condition or model it begins anew: what fired by the old one is over."""
        _check(values.get("condition"))
        at = times.micros(times.now())

        def work(connection: Connection) -> None:
            row = _one(connection, id)
            params = {name: values[name] for name in ("threshold", "window") if name in values}
            changes = {name: value for name, value in values.items() if name not in params}
            if params:
                changes["params"] = {**row.params, **params}
            if any(values.get(name, getattr(row, name)) != getattr(row, name) for name in ("condition", "model")):
                self._begin_anew(connection, row, at)
            if changes:
                connection.execute(update(rules).where(rules.c.id == id).values(changes))

        await self._db.write(work)
        return await self.get(id)

    def _begin_anew(self, connection: Connection, rule: Any, at: int) -> None:
        """End what a rule has fired, and forget the state of every model."""
        states = select(rule_states).where(rule_states.c.rule_id == rule.id)
        for state in connection.execute(states.where(rule_states.c.state == "firing")).all():
            self._take(connection, _Step(rule, state.model_id, "firing", "ok", None), at)
        connection.execute(delete(rule_states).where(rule_states.c.rule_id == rule.id))

    async def delete(self, id: str) -> None:
        """Delete a rule with its firings. Raises `NotFound`."""
        def work(connection: Connection) -> None:
            _one(connection, id)
            connection.execute(delete(rules).where(rules.c.id == id))

        await self._db.write(work)

    async def firings(self, *, rule: str | None = None, model: str | None = None, before: int | None = None,
                      limit: int = 100) -> Sequence[Firing]:
        """Newest first, with an id below `before`."""
        query = select(rule_firings).order_by(rule_firings.c.id.desc()).limit(limit)
        for column, value in ((rule_firings.c.rule_id, rule), (rule_firings.c.model_id, model)):
            query = query if value is None else query.where(column == value)
        query = query if before is None else query.where(rule_firings.c.id < before)
        return await self._db.read(lambda connection: [
            Firing(id=row.id, rule=row.rule_id, model=row.model_id, at=row.at, resolved_at=row.resolved_at,
                   value=row.value, message=row.message) for row in connection.execute(query)])

    # -- looking

    async def _look(self) -> None:
        while True:
            try:
                await self.evaluate()
            except WorkbenchError as error:
                log.warning("rules wait: %s", error)
            except Exception as error:
                log.error("rules failed", exc_info=error)
            await asyncio.sleep(EVERY)

    async def evaluate(self, now: int | None = None) -> int:
        """Look at every rule that is switched on, for every model that it concerns; how many changed their state."""
        at = times.micros(times.now()) if now is None else now
        asked = select(rules).where(rules.c.enabled)
        figures = await self._figures()

        def measure(connection: Connection) -> list[tuple[Any, str, Any, float | None]]:
            found = []
            known = {(row.rule_id, row.model_id): row for row in connection.execute(select(rule_states))}
            for rule in connection.execute(asked).all():
                query = select(models)
                if rule.model:
                    query = query.where(models.c.id == rule.model)
                for model in connection.execute(query).all():
                    state, mine = known.pop((rule.id, model.id), None), figures.get(model.id)
                    if rule.condition in PROFIT and mine is None and self._profit is not None:
                        continue  # it is known at the next look
                    # Who is known to be silent stays so: that the server was away as well does not end it.
                    silent = state is not None and state.state != "ok"
                    value = value_of(connection, rule.condition, model, at, rule.params, mine,
                                     0 if silent else self._listening)
                    found.append((rule, model.id, state, value))
                # of models that are no more
                found += [(rule, gone, known.pop((rule.id, gone)), None) for of, gone in list(known) if of == rule.id]
            return found

        steps = [step for each in await self._db.read(measure) if (step := _step(*each, at)) is not None]
        if steps:
            def work(connection: Connection) -> None:
                for step in steps:
                    self._take(connection, step, at)

            await self._db.write(work)
        return len(steps)

    async def _figures(self) -> dict[str, Figures]:
        """How the models fare that rules on profit concern, as far as it is known; the rest is known at the next
        look."""
        if self._profit is None:
            return {}
        query = select(rules.c.model).where(rules.c.enabled, rules.c.condition.in_(PROFIT)).distinct()
        every = select(models.c.id)

        def concerned(connection: Connection) -> list[str]:
            named = list(connection.execute(query).scalars())
            return named if "" not in named else list(connection.execute(every).scalars())

        known = {model: self._profit.known(model)[0] for model in await self._db.read(concerned)}
        return {model: figures for model, figures in known.items() if figures is not None}

    def _take(self, connection: Connection, step: "_Step", at: int) -> None:
        """Write a change of state down, unless another server has done so, or the rule says something else by now."""
        rule, key = step.rule, (rule_states.c.rule_id == step.rule.id, rule_states.c.model_id == step.model)
        found = connection.execute(select(rule_states).where(*key)).first()
        now = connection.execute(select(rules).where(rules.c.id == rule.id)).first()
        if (found.state if found else "ok") != step.before or now is None:
            return
        if (now.condition, now.model, now.params) != (rule.condition, rule.model, rule.params):
            return
        if step.after == "firing" and (not now.enabled or now.silenced_until != rule.silenced_until):
            return
        values: dict[str, Any] = {"state": step.after, "since_at": at, "value": step.value}
        if step.after == "firing":
            values["fired_at"] = at
        if found is None:
            connection.execute(insert(rule_states).values(rule_id=rule.id, model_id=step.model, **values))
        else:
            connection.execute(update(rule_states).where(*key).values(values))
        message = f"{CONDITIONS[rule.condition]}: {_figure(step.value)}, threshold {_figure(rule.params['threshold'])}"
        told = {"rule": rule.id, "name": rule.name, "condition": rule.condition, "model": step.model,
                "value": step.value, "threshold": rule.params["threshold"], "message": message}
        if step.after == "firing":
            connection.execute(insert(rule_firings).values(rule_id=rule.id, model_id=step.model, at=at,
                                                           value=step.value, message=message))
            self._events.append(connection, STREAM, "firing", told)
        elif step.before == "firing":
            connection.execute(update(rule_firings).where(
                rule_firings.c.rule_id == rule.id, rule_firings.c.model_id == step.model,
                rule_firings.c.resolved_at.is_(None)).values(resolved_at=at))
            self._events.append(connection, STREAM, "resolved", told)


@dataclass(frozen=True, slots=True)
class _Step:
    rule: Any
    model: str
    before: str
    after: str
    value: float | None


def _step(rule: Any, model: str, state: Any, value: float | None, at: int) -> _Step | None:
    """The change of state that a value makes; None when all stays as it is."""
    before = state.state if state else "ok"
    holds = value is not None and value > rule.params["threshold"]
    after = before
    if not holds:
        after = "ok"
    elif before == "ok":
        after = "pending"
    since = state.since_at if state is not None and before == "pending" else at
    if after == "pending" and at - since >= rule.lasting * times.SECOND and not _held_back(rule, state, at):
        after = "firing"
    return None if after == before else _Step(rule, model, before, after, value)


def _held_back(rule: Any, state: Any, at: int) -> bool:
    """Whether a rule that would fire is silenced or has fired too recently."""
    cooling = state is not None and state.fired_at is not None and at - state.fired_at < rule.cooldown * times.SECOND
    return cooling or (rule.silenced_until is not None and at < rule.silenced_until)


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:,.6g}"


def _check(condition: str | None) -> None:
    """Raise `Invalid` for a word that is no condition."""
    if condition is not None and condition not in CONDITIONS:
        raise Invalid(f"{condition!r} is no condition", field="condition", remedy="use " + ", ".join(CONDITIONS))


def _one(connection: Connection, id: str) -> Any:
    row = connection.execute(select(rules).where(rules.c.id == id)).first()
    if row is None:
        raise NotFound(f"there is no rule {id[:50]!r}")
    return row


def _rule(row: Any) -> Rule:
    params: Mapping[str, float] = row.params
    return Rule(id=row.id, name=row.name, condition=row.condition, threshold=params["threshold"],
                window=params["window"], model=row.model, lasting=row.lasting, cooldown=row.cooldown,
                enabled=row.enabled, silenced_until=row.silenced_until, owner=row.owner, created_at=row.created_at)
