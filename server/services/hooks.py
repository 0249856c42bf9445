"""Hooks: addresses with a secret in them, to which charting services post alerts.

A message is JSON or, by the hook's template, text. Charting services deliver again when an answer is slow, so the same
message on one day (UTC), or one with the same `key`, makes one alert. A message that names an alert's `id` and a
`state` moves it. Only the secret's sha256 is kept.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from sqlalchemy import Connection, delete, insert, select, update

from engine import times
from engine.alerts import DURATIONS, HIGHEST, INSTRUMENTS, STATES, Alert
from engine.errors import Invalid, NotFound, Problem, WorkbenchError
from engine.model import Market
from server.services.alerts import Alerts
from server.store.database import Database
from server.store.tables.alerts import hooks

__all__ = ["Hook", "Hooks", "read_text"]

FIELDS: Final = ("instrument", "ticker", "durationStrategy", "start", "target", "stop", "market", "reason", "key",
                 "id", "state", "exit")
NUMBERS: Final = ("start", "target", "stop", "exit")
ALIASES: Final = {"symbol": "ticker", "entry": "start", "price": "start", "take_profit": "target", "tp": "target",
                  "stop_loss": "stop", "sl": "stop", "duration_strategy": "durationStrategy", "comment": "reason"}
LONGEST: Final = 4096  # characters of a template
LONGEST_KEY: Final = 200
SAME: Final = times.DAY
ONE_MESSAGES: Final = ("id", "key")  # what belongs to one message, and no default
_PRICE: Final = re.compile(
    r"[+-]?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_PLACE: Final = re.compile(r"\{\{([A-Za-z_]+)\}\}")
_SECRET: Final = re.compile(r"[A-Za-z0-9_-]{20,100}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Hook:
    """One address, without its secret. `template`: the text that messages have, with places such as `{{ticker}}`;
    "" when they are JSON. `defaults` fill fields that a message leaves out. `error`: what was wrong with the last
    message. Instants in microseconds."""

    id: str
    name: str
    template: str
    defaults: Mapping[str, Any]
    owner: str
    created_at: int
    used_at: int | None = None
    error: str | None = None


class Hooks:
    """Makes hooks, and takes in what comes to them."""

    def __init__(self, db: Database, alerts: Alerts) -> None:
        self._db = db
        self._alerts = alerts

    async def create(self, name: str, *, template: str = "", defaults: Mapping[str, Any] | None = None,
                     owner: str = "") -> tuple[Hook, str]:
        """A new hook and its secret, which cannot be had again. Raises `Invalid`."""
        _check_template(template)
        defaults = _checked_defaults(defaults or {})
        secret = secrets.token_urlsafe(32)
        made = Hook(id=secrets.token_hex(8), name=name, template=template, defaults=defaults, owner=owner,
                    created_at=times.micros(times.now()))
        row = {"id": made.id, "name": name, "digest": _digest(secret), "template": template,
               "defaults": defaults, "owner": owner, "created_at": made.created_at}
        await self._db.write(lambda connection: connection.execute(insert(hooks).values(row)))
        return made, secret

    async def list(self) -> list[Hook]:
        """Newest first."""
        query = select(hooks).order_by(hooks.c.created_at.desc(), hooks.c.id)
        return await self._db.read(lambda connection: [_hook(row) for row in connection.execute(query)])

    async def delete(self, id: str) -> None:
        """Raises `NotFound`."""
        def work(connection: Connection) -> None:
            if not connection.execute(delete(hooks).where(hooks.c.id == id)).rowcount:
                raise NotFound(f"there is no hook {id[:50]!r}")

        await self._db.write(work)

    async def of(self, secret: str) -> Hook:
        """The hook of an address. Raises `NotFound`, whatever is wrong with it."""
        digest = _digest(secret)
        row = None
        if _SECRET.fullmatch(secret):
            # Looked up by a hash: how long that takes says nothing about the secret.
            query = select(hooks).where(hooks.c.digest == digest)
            row = await self._db.read(lambda connection: connection.execute(query).first())
        if row is None or not hmac.compare_digest(row.digest, digest):
            raise NotFound("there is no such hook", remedy="look at the address again, or make a new hook")
        return _hook(row)

    async def take(self, hook: Hook, body: bytes, *, key: str | None = None) -> Alert:
        """The alert that a message makes or moves. Raises what is wrong with it, and remembers that."""
        at = times.micros(times.now())
        try:
            alert = await self._take(hook, body, key, at)
        except WorkbenchError as error:
            await self._note(hook, at, str(error)[:1000])
            raise
        await self._note(hook, at, None)
        return alert

    async def _take(self, hook: Hook, body: bytes, key: str | None, at: int) -> Alert:
        found = dict(hook.defaults) | read_message(body, hook.template)
        moves = "id" in found or found.get("state", "working") != "working"
        needed = ("id", "state") if moves else ("instrument", "ticker", "start", "target", "stop")
        missing = [name for name in needed if name not in found]
        if missing:
            raise Invalid("this message makes no alert", problems=[
                Problem(name, "this field is missing", "add it to the message, or to the hook's defaults")
                for name in missing])
        if moves:
            return await self._alerts.move(found["id"], found["state"], exit=found.get("exit"),
                                           reason=found.get("reason", ""))
        given = found.get("key") or key or ""
        if len(given) > LONGEST_KEY:
            raise Invalid(f"{len(given)} characters are too many", field="key", remedy=f"use at most {LONGEST_KEY}")
        named = given or hashlib.sha256(b"%d %s" % (at // SAME, body)).hexdigest()
        return await self._alerts.create(
            instrument=found["instrument"], ticker=found["ticker"], start=found["start"], target=found["target"],
            stop=found["stop"], duration_strategy=found.get("durationStrategy", "short"),
            market=found.get("market", ""), reason=found.get("reason", ""), source=f"hook {hook.name}"[:64],
            key=f"hook {hook.id} {named}")

    async def _note(self, hook: Hook, at: int, error: str | None) -> None:
        change = update(hooks).where(hooks.c.id == hook.id).values(used_at=at, error=error)
        await self._db.write(lambda connection: connection.execute(change))


def read_message(body: bytes, template: str) -> dict[str, Any]:
    """A message's fields by our names: a JSON object, or text of the template's form. Raises `Invalid`."""
    try:
        text = body.decode().strip()
    except UnicodeDecodeError:
        raise Invalid("the message is not text", remedy="send UTF-8") from None
    if not text:
        raise Invalid("the message is empty", remedy="send JSON, or text of the hook's template")
    found: Any = None
    if text.startswith("{"):
        try:
            found = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            if not template:
                raise Invalid(f"the message is not JSON: {error}", remedy="look at quotes and commas; numbers that are "
                              "placeholders stand without quotes") from None
    if isinstance(found, dict):
        named = {ALIASES.get(str(name), str(name)): value for name, value in found.items()}
        told: dict[str, Any] = {name: value for name, value in named.items() if name in FIELDS}
    elif template:
        told = dict(read_text(text, template))
    else:
        raise Invalid("the message is no JSON object", remedy="send one, or give the hook a template for text")
    return _checked(told)


def read_text(text: str, template: str) -> dict[str, str]:
    """What stands in a text at the places of a template: `{{ticker}} at {{start}}`. White space counts as one blank.

    Raises `Invalid` with the template when the text has another form.
    """
    parts, end = [], 0
    for place in _PLACE.finditer(template):
        name = ALIASES.get(place[1], place[1])
        parts += [_blanks(template[end:place.start()]), rf"(?P<{name}>[^\r\n]{{1,500}}?)"]
        end = place.end()
    match = re.fullmatch("".join([*parts, _blanks(template[end:])]), text.strip())
    if match is None:
        raise Invalid(f"the message does not have the hook's form: {text[:200]!r}", field="template",
                      remedy=f"the template is {template[:500]!r}")
    return {name: value.strip() for name, value in match.groupdict().items()}


def _blanks(text: str) -> str:
    """A regular expression for literal text."""
    pieces = re.split(r"\s+", text)
    return r"\s+".join(re.escape(piece) for piece in pieces)


def _check_template(template: str) -> None:
    names = [ALIASES.get(name, name) for name in _PLACE.findall(template)]
    problem = ("is too long", f"use at most {LONGEST} characters") if len(template) > LONGEST else None
    if template and not problem:
        unknown = [name for name in names if name not in FIELDS]
        if unknown:
            problem = (f"knows no {{{{{unknown[0]}}}}}", "places are " + ", ".join(FIELDS))
        elif not names or len(set(names)) != len(names):
            problem = ("needs places, each of them once", "write for example {{ticker}} {{start}} {{target}} {{stop}}")
        elif re.search(r"\}\}\{\{", template):
            problem = ("has two places side by side", "put something between them")
    if problem:
        raise Invalid(f"the template {problem[0]}", field="template", remedy=problem[1])


def _checked_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that a hook adds to its messages; raises `Invalid` for those that no message could be made of."""
    names = [name for name in FIELDS if name not in ONE_MESSAGES]
    for name in given:
        if name not in names:
            raise Invalid(f"there is no default of {name[:50]!r}", field="defaults", remedy="use " + ", ".join(names))
    try:
        found = _checked(given)
        for name, choices in (("instrument", INSTRUMENTS), ("durationStrategy", DURATIONS), ("state", STATES)):
            if found.get(name, choices[0]) not in choices:
                raise Invalid(f"{found[name][:80]!r} is not a choice", field=name, remedy="use " + ", ".join(choices))
        if "market" in found:
            Market.parse(found["market"])
    except Invalid as error:
        raise Invalid(error.message, field=f"defaults.{error.field}", remedy=error.remedy) from None
    return found


def _checked(told: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the right types; those that are null are left out. Raises `Invalid` naming the first that is wrong."""
    found: dict[str, Any] = {}
    for name, value in told.items():
        if value is not None:
            found[name] = (_number(name, value) if name in NUMBERS else _id(value) if name == "id"
                           else _text(name, value))
    return found


def _text(name: str, value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and name in ("ticker", "key"):
        return str(value)  # placeholders without quotes: some exchanges' tickers are numbers
    if not isinstance(value, str) or "\x00" in value:
        raise Invalid(f"{str(value)[:100]!r} is not text", field=name, remedy="send text without null characters")
    return value


def _number(name: str, value: Any) -> float:
    """A price. Commas stand between thousands only: whether 69,5 means 695 is not for us to guess."""
    text = value.strip() if isinstance(value, str) else repr(value)
    if isinstance(value, str | int | float) and not isinstance(value, bool) and _PRICE.fullmatch(text):
        number = float(text.replace(",", ""))
        if abs(number) < HIGHEST:
            return number
    raise Invalid(f"{str(value)[:100]!r} is not a price", field=name,
                  remedy="send a number such as 69872.4, with a point before the fraction")


def _id(value: Any) -> int:
    text = str(value)
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise Invalid(f"{text[:50]!r} is no alert's id", field="id", remedy="send the number that the alert was given")
    return int(text)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _hook(row: Any) -> Hook:
    return Hook(id=row.id, name=row.name, template=row.template, defaults=row.defaults, owner=row.owner,
                created_at=row.created_at, used_at=row.used_at, error=row.error)
