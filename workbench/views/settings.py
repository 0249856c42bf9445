"""Tokens, and how to connect from elsewhere."""

import html
from typing import Any, Final

import panel as pn

from engine import times
from engine.errors import Forbidden, Invalid
from workbench.views.base import PageView, markup, on_page
from workbench.views.markets import day
from workbench.views.new_backtest import _CARD

SCOPES: Final = {"read": "see runs, results, candles and streams", "backtest": "start, cancel and delete runs",
                 "ingest": "push what a bot does", "deploy": "create projects and upload models",
                 "alerts": "follow and manage alerts", "admin": "everything, tokens included"}


class Settings(PageView):
    """`/settings`: make and revoke tokens; a new token is shown once."""

    def build(self) -> Any:
        self._name = pn.widgets.TextInput(name="Name", placeholder="what it is for: laptop, bot 1 …", width=260,
                                          margin=0)
        scopes = {f"{name}: {doc}": name for name, doc in SCOPES.items()}
        self._scopes = pn.widgets.CheckBoxGroup(name="Scopes", options=scopes, value=["read", "backtest"], margin=0)
        self._days = pn.widgets.IntInput(name="Expires after days (0: never)", value=0, start=0, end=3650, width=200,
                                         margin=0)
        self._make = pn.widgets.Button(name="Create token", button_type="primary", width=140, margin=0)
        self._make.on_click(self._made)
        self._fresh = markup("", visible=False)
        self._tokens = pn.Column(sizing_mode="stretch_width", margin=0)
        self._me = markup('<p class="muted">Loading …</p>')
        self._form = pn.Column(markup("<h2>New token</h2>"), self._name, markup("<b>It may</b>"), self._scopes,
                               self._days, self._make, self._fresh, sizing_mode="stretch_width", margin=0,
                               styles={**_CARD, "gap": "8px"})
        return pn.Column(markup("<h1>Settings</h1>"), self._me, self._tokens, self._form,
                         markup(_snippet(self.client.url)), sizing_mode="stretch_width", margin=0,
                         styles={"gap": "12px"})

    async def load(self) -> None:
        me, info = await self.client.me(), await self.client.info()
        scopes = " ".join(f'<span class="tag">{html.escape(scope)}</span>' for scope in sorted(me["scopes"]))
        self._me.object = (f'<section class="card"><h2>You</h2><dl class="facts"><dt>Logged in as</dt><dd>'
                           f'{html.escape(me["name"])}</dd><dt>You may</dt><dd>{scopes}</dd><dt>Version</dt>'
                           f'<dd>{html.escape(str(info.get("version", "")))}</dd></dl></section>')
        await self._show()

    async def _show(self) -> None:
        try:
            tokens = await self.client.tokens()
        except Forbidden:
            self._tokens[:] = [markup('<section class="card"><h2>Tokens</h2><p class="muted">Only an administrator '
                                      'may see and make tokens.</p></section>')]
            self._form.visible = False
            return
        rows: list[Any] = []
        for token in tokens:
            if token.get("revoked_at"):
                continue
            rows.append(self._row(token))
        rows = rows or [markup('<p class="muted">No tokens.</p>')]
        self._tokens[:] = [pn.Column(markup("<h2>Tokens</h2>"), *rows, sizing_mode="stretch_width", margin=0,
                                     styles={**_CARD, "gap": "4px"})]

    def _row(self, token: dict[str, Any]) -> Any:
        scopes = " ".join(f'<span class="tag">{html.escape(scope)}</span>' for scope in token.get("scopes") or ())
        used = f"last used {day(token['last_used_at'])}" if token.get("last_used_at") else "never used"
        ends = f", expires {day(token['expires_at'])}" if token.get("expires_at") else ""
        label = html.escape(str(token.get("name") or "unnamed"))
        told = markup(f'<div><b>{label}</b> <code>{html.escape(str(token.get("prefix", "")))}…</code> {scopes}'
                      f'<div class="muted">{used}{ends}</div></div>')
        revoke = pn.widgets.Button(name=f"Revoke {token.get('name') or ''}".strip()[:40], button_type="danger",
                                   margin=0, align="center")
        sure = pn.widgets.Button(name="Really revoke", button_type="danger", width=130, margin=0, visible=False)

        def ask(_event: Any) -> None:
            sure.visible = not sure.visible

        revoke.on_click(ask)

        async def gone(_event: Any) -> None:
            self.quiet()
            if await self.guarded(self.client.revoke_token(str(token["id"]))):
                self.say(f"{token.get('name') or 'The token'} is revoked.")
                await self.guarded(self._show())

        sure.on_click(gone)
        return pn.FlexBox(pn.Column(told, styles={"flex": "1 1 300px", "min-width": "0"}, margin=0), sure, revoke,
                          gap="8px", align_items="center", margin=0, sizing_mode="stretch_width",
                          styles={"border-bottom": "1px solid var(--wb-grid)", "padding": "6px 0"})

    @on_page
    async def _made(self, _event: Any) -> None:
        name = (self._name.value or "").strip()
        if not name:
            raise Invalid("a token needs a name", field="name", remedy="say what it is for")
        if not self._scopes.value:
            raise Invalid("a token needs at least one scope", field="scopes")
        expires = None
        if self._days.value:
            from datetime import timedelta

            expires = times.now() + timedelta(days=self._days.value)
        made = await self.client.create_token(name, self._scopes.value, expires_at=expires)
        secret = str(made.get("token") or made.get("secret") or made.get("text") or "")
        self._fresh.object = ('<div class="good" role="status"><b>Copy it now; it is not shown again.</b>'
                              '<pre aria-label="the new token" style="user-select:all">'
                              f"{html.escape(secret)}</pre></div>")
        self._fresh.visible = True
        self._name.value = ""
        await self._show()


def _snippet(url: str) -> str:
    return ('<section class="card"><h2>Connect</h2><p>Notebook or script:</p><pre>import workbench as wb\n\n'
            f'client = wb.connect("{html.escape(url)}", token="…")\n'
            'run = client.backtest("sma_cross", market="demo:AAPL/USD", fast=10, slow=50)\nrun.report()</pre>'
            '<p>Any language:</p><pre>curl -H "Authorization: Bearer TOKEN" '
            f'{html.escape(url)}/workbench/api/runs</pre><p>Everything is described at <a href="/docs">/docs</a>.</p>'
            '</section>')
