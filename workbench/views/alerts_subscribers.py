"""Accounts of the alert stream: access, preferences, credits and their ledger. For administrators."""

from collections.abc import Mapping
from html import escape
from typing import Any, Final

import panel as pn

from engine import times
from engine.alerts import DURATIONS, INSTRUMENTS
from engine.errors import Forbidden, Invalid
from engine.plots.style import Style
from workbench.client import AsyncClient
from workbench.views.alerts_history import box, grid
from workbench.views.base import PageView, markup
from workbench.views.live_rows import LiveRows, Row

__all__ = ["Subscribers"]

COLUMNS: Final = [
    {"key": "email", "title": "E-mail", "kind": "text"}, {"key": "access", "title": "Access", "kind": "state"},
    {"key": "balance", "title": "Credits", "kind": "number", "digits": 0},
    {"key": "renewal", "title": "Renews by", "kind": "text"}, {"key": "wants", "title": "Hears of", "kind": "text"},
    {"key": "login", "title": "Logged in", "kind": "ago"}]
LEDGER: Final = [
    {"key": "at", "title": "Time (UTC)", "kind": "time"}, {"key": "kind", "title": "What", "kind": "text"},
    {"key": "amount", "title": "Credits", "kind": "money"}, {"key": "alert", "title": "Alert", "kind": "link"},
    {"key": "note", "title": "Note", "kind": "text"}]
KINDS: Final[Mapping[str, str]] = {"grant": "given", "renewal": "renewed", "use": "used for an alert",
                                   "reimbursement": "given back", "consumption": "consumed: the alert won"}


def _millis(text: str | None) -> float | None:
    return None if not text else times.micros(times.parse(text)) / 1000


class Subscribers:
    """The fourth tab. `view` is its layout."""

    def __init__(self, page: PageView, client: AsyncClient, look: Style) -> None:
        self._page, self._client = page, client
        self._accounts: dict[str, dict[str, Any]] = {}
        self._picked: int | None = None
        wide: dict[str, Any] = {"sizing_mode": "stretch_width", "margin": 0}
        self.email = pn.widgets.TextInput(label="E-mail address", **wide)
        self.password = pn.widgets.PasswordInput(label="Password", placeholder="empty: nobody can log in", **wide)
        self.access = pn.widgets.Select(label="Access", options=["FREE", "FULL"], **wide)
        self.renews = pn.widgets.Checkbox(label="Credits renew themselves", **wide)
        self.renewal = pn.widgets.IntInput(label="Credits of a renewal", value=100, start=0, **wide)
        self.instruments = pn.widgets.MultiChoice(label="Instruments", options=list(INSTRUMENTS),
                                                  value=list(INSTRUMENTS), **wide)
        self.durations = pn.widgets.MultiChoice(label="Duration strategies", options=list(DURATIONS),
                                                value=list(DURATIONS), **wide)
        self.credits = pn.widgets.IntInput(label="Credits to begin with", value=10, start=0, **wide)
        self._save = pn.widgets.Button(label="Create account", button_type="primary", width=150, margin=0)
        self._new = pn.widgets.Button(label="New account", width=120, margin=0, visible=False)
        self._delete = pn.widgets.Button(label="Delete account", button_type="danger", width=140, margin=0,
                                         visible=False)
        self._sure = pn.widgets.Button(label="Really delete", button_type="danger", width=130, margin=0, visible=False)
        self.amount = pn.widgets.IntInput(label="Credits to give (below 0: to take back)", value=10, **wide)
        self.note = pn.widgets.TextInput(label="Note", **wide)
        self._grant = pn.widgets.Button(label="Book", width=90, margin=0)
        for button, work in ((self._save, self._saved), (self._new, self._cleared), (self._grant, self._granted),
                             (self._sure, self._deleted)):
            button.on_click(self._guard(work))
        self._delete.on_click(lambda _event: setattr(self._sure, "visible", not self._sure.visible))
        self._title = markup("<h2>New account</h2>")
        self._balance = markup("")
        self.table = LiveRows(look, columns=COLUMNS, caption="Accounts", page=50, most=20_000, sortable=True,
                              picks=True, searchable="Search accounts", asked=self._asked,
                              placeholder="No accounts yet. The stream is open to administrators without one.")
        self.ledger = LiveRows(look, columns=LEDGER, caption="Ledger", page=50, most=5000,
                               placeholder="Nothing is booked yet.", asked=self._asked_ledger, asks=True)
        self._books = box(self._balance, grid(self.amount, self.note, self._grant, least=180), self.ledger)
        self._books.visible = False
        self._form = box(self._title, grid(self.email, self.password, self.access, self.renews, self.renewal,
                                           self.credits, least=200),
                         grid(self.instruments, self.durations, least=280),
                         pn.FlexBox(self._save, self._new, self._delete, self._sure, gap="8px", margin=0))
        self._accounts_box = box(markup("<h2>Accounts</h2>"), self.table)
        self._refused = markup('<section class="card empty">Only an administrator may see and make accounts.'
                               "</section>", visible=False)
        self.view = pn.Column(self._refused, self._accounts_box, self._form, self._books,
                              sizing_mode="stretch_width", margin=0, styles={"gap": "12px"})

    async def load(self) -> None:
        """The accounts."""
        try:
            await self.read()
        except Forbidden:
            self._accounts_box.visible = self._form.visible = False
            self._refused.visible = True

    async def read(self) -> None:
        found: list[dict[str, Any]] = []
        while True:
            part = await self._client.subscribers(after=found[-1]["id"] if found else 0)
            found += part
            if len(part) < 1000:
                break
        self._accounts = {str(one["id"]): one for one in found}
        self.table.reset(self._row(one) for one in found)
        if self._picked is not None:
            self.table.pick(str(self._picked))

    def _row(self, one: Mapping[str, Any]) -> Row:
        wants = ", ".join(name.lower() for name in one["instruments"]) or "nothing"
        if len(one["instruments"]) == len(INSTRUMENTS):
            wants = "all instruments"
        return {"id": str(one["id"]), "email": one["email"], "access": [one["access"].lower(),
                                                                       "good" if one["access"] == "FULL" else "idle"],
                "access_by": one["access"], "balance": one["balance"], "find": one["email"],
                "renewal": str(one["renewal"]) if one["automatic_renewal"] else "–",
                "wants": f"{wants}; {', '.join(one['durations']) or 'no duration'}",
                "login": _millis(one["last_login_at"])}

    def _guard(self, work: Any) -> Any:
        async def clicked(_event: Any) -> None:
            self._page.quiet()
            await self._page.guarded(work())

        return clicked

    async def _asked(self, name: str, data: dict[str, Any]) -> None:
        if name == "pick" and str(data.get("id")) in self._accounts:
            await self._page.guarded(self._show(int(data["id"])))

    async def _show(self, id: int) -> None:
        one = self._accounts[str(id)]
        self._picked = id
        self._title.object = f"<h2>{escape(one['email'])}</h2>"
        self.email.param.update(value=one["email"], disabled=True)
        self.password.param.update(value="", placeholder="empty: stays as it is")
        self.access.value, self.renews.value, self.renewal.value = (one["access"], one["automatic_renewal"],
                                                                    one["renewal"])
        self.instruments.value, self.durations.value = list(one["instruments"]), list(one["durations"])
        self._save.label = "Save changes"
        self._new.visible = self._delete.visible = self._books.visible = True
        self._sure.visible = self.credits.visible = False
        await self._show_ledger()

    async def _show_ledger(self) -> None:
        assert self._picked is not None
        told = await self._client.credits(self._picked, limit=50)
        self._balance.object = f"<h2>Credits: <b>{told['balance']:,}</b></h2>"
        self.ledger.reset(map(_entry, told["items"]), more=len(told["items"]) == 50)

    async def _asked_ledger(self, name: str, data: dict[str, Any]) -> None:
        if name == "more" and self._picked is not None and self.ledger.rows:
            told = await self._client.credits(self._picked, before=int(self.ledger.rows[-1]["id"]), limit=50)
            self.ledger.older(list(map(_entry, told["items"])), more=len(told["items"]) == 50)

    async def _cleared(self) -> None:
        self._picked = None
        self._title.object = "<h2>New account</h2>"
        self.email.param.update(value="", disabled=False)
        self.password.param.update(value="", placeholder="empty: nobody can log in")
        self.instruments.value, self.durations.value = list(INSTRUMENTS), list(DURATIONS)
        self._save.label = "Create account"
        self._new.visible = self._delete.visible = self._sure.visible = self._books.visible = False
        self.credits.visible = True

    async def _saved(self) -> None:
        words: dict[str, Any] = {
            "access": self.access.value, "automatic_renewal": self.renews.value, "renewal": self.renewal.value,
            "instruments": list(self.instruments.value), "durations": list(self.durations.value)}
        if self.password.value:
            words["password"] = self.password.value
        if self._picked is not None:
            await self._client.change_subscriber(self._picked, **words)
            self._page.say("The account is changed.")
            await self.read()
            return
        email = (self.email.value or "").strip()
        if not email:
            raise Invalid("an account needs an e-mail address", field="email")
        made = await self._client.create_subscriber(email, credits=self.credits.value, **words)
        await self.read()
        await self._show(made["id"])
        self._page.say(f"{made['email']} has an account.")

    async def _granted(self) -> None:
        assert self._picked is not None
        await self._client.grant_credits(self._picked, int(self.amount.value or 0), str(self.note.value or ""))
        self.note.value = ""
        await self._show_ledger()
        await self.read()

    async def _deleted(self) -> None:
        assert self._picked is not None
        await self._client.delete_subscriber(self._picked)
        await self._cleared()
        await self.read()
        self._page.say("The account is deleted.")


def _entry(entry: Mapping[str, Any]) -> Row:
    return {"id": str(entry["id"]), "at": _millis(entry["at"]), "kind": KINDS.get(entry["kind"], entry["kind"]),
            "amount": entry["amount"], "alert": "" if entry["alert"] is None else f"#{entry['alert']}",
            "href": f"/alerts?id={entry['alert']}", "note": entry["note"]}
