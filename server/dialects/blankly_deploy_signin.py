"""Logging in from Blankly's programs: the page they open, and the exchange of what it gave them.

    GET  /auth/signin?redirectUrl=/deploy    a form for a token
    POST /auth/signin                        303 to http://localhost:9082/?token=..., where the program listens
    POST /auth/token                         refreshToken -> an idToken for an hour, which other calls carry

The program's address is fixed: a token is never sent anywhere else. A page of another site cannot send the form, or it
could have somebody's program work for its own account.
"""

import html
import secrets
from typing import Any, Final
from urllib.parse import parse_qs, urlencode

from engine.errors import Busy, Forbidden, Invalid, Unauthenticated
from server.dialects.blankly_deploy_base import FORMS, TAG, DeployHandler, user_id
from server.dialects.failures import Failure
from server.dialects.page_text import SIGNIN_PAGE
from server.dialects.routes import Answer, Query, Route

__all__ = ["routes"]

LISTENER: Final = "http://localhost:9082"
TARGET: Final = "/deploy"
LIFETIME: Final = 3600  # seconds of an idToken


class TokenExchange(DeployHandler):
    """`data` is what the clients read beside `idToken`."""

    async def post(self) -> None:
        given = (await self.fields()).needed_text("refreshToken").strip()
        authenticator = self.context.authenticator
        if authenticator.open_to_all:
            principal, issued = self.principal, "open"
        else:
            found = await authenticator.log_in(given)
            if found is None:
                raise Unauthenticated("Not Authenticated", field="refreshToken", remedy="log in again")
            if not found.may("deploy"):
                raise Forbidden("this token lacks the scope 'deploy'", field="refreshToken",
                                remedy="use a token with that scope")
            principal, issued = found, authenticator.sessions.pass_for(found.token_id, LIFETIME)
        user = user_id(principal)
        self.set_header("Cache-Control", "no-store")
        self.write_json({"idToken": issued, "status": "success", "data": {
            "user_id": user, "project_id": user, "id_token": issued, "access_token": issued, "refresh_token": given,
            "token_type": "Bearer", "expires_in": str(LIFETIME)}})


class SignIn(DeployHandler):
    """A form for a token; what was typed goes to the program that waits on this machine."""

    def get(self) -> None:
        if not self.query["redirectUrl"].startswith(TARGET):
            self._lead("/login")
            return
        self._form()

    async def post(self) -> None:
        origin = self.request.headers.get("Origin")
        if (origin is not None and not self.context.origins.allows(origin, self.request)) or (
                origin is None and self.request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none")):
            raise Forbidden("this form was sent by another site", field="Origin", remedy="open the page itself")
        allowance = self.context.logins.take(self.request.remote_ip or "")
        if allowance is not None and allowance.exceeded:
            self.lasting_header("Retry-After", str(allowance.retry_after))
            raise Busy("too many attempts to log in", remedy=f"wait {allowance.retry_after} s")
        fields = parse_qs(self.body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=20)
        token = fields.get("token", [""])[-1].strip()
        if self.context.authenticator.open_to_all:
            self._lead(f"{LISTENER}/?token=open")
            return
        principal = await self.context.authenticator.log_in(token)
        if principal is None:
            self._form("This token is not valid.", 401)
        elif not principal.may("deploy"):
            self._form("This token may not deploy models: it lacks the scope deploy.", 401)
        else:
            self._lead(f"{LISTENER}/?{urlencode({'token': token})}")

    def _lead(self, target: str) -> None:
        self.set_status(303)
        self.set_header("Cache-Control", "no-store")
        self.set_header("Location", target)
        self.finish()

    def _form(self, message: str = "", status: int = 200) -> None:
        nonce = secrets.token_urlsafe(16)
        # Browsers hold redirects after a form to form-action as well.
        self.set_header("Content-Security-Policy", f"default-src 'none'; style-src 'nonce-{nonce}'; base-uri 'none'; "
                        f"form-action 'self' {LISTENER}; frame-ancestors 'none'")
        self.set_header("Referrer-Policy", "same-origin")  # with no-referrer browsers hide the form's origin too
        self.set_header("Cache-Control", "no-store")
        page = SIGNIN_PAGE.replace("{{nonce}}", html.escape(nonce)).replace("{{message}}", html.escape(message))
        self.write_bytes(page, "text/html; charset=utf-8", status)

    def fail(self, failure: Failure) -> None:
        if isinstance(failure.error, Forbidden | Busy | Invalid) and "text/html" in self.request.headers.get(
                "Accept", ""):
            self.clear()
            self._form(failure.message + ".", failure.status)
        else:
            super().fail(failure)


def routes() -> list[Route]:
    page = {200: Answer(doc="the form", content=("text/html",)),
            303: Answer(doc="signed in", headers={"Location": "where the program listens"}),
            401: Answer(doc="the form again", content=("text/html",))}
    form: dict[str, Any] = {"type": "object", "properties": {"token": {"type": "string"}}}
    data = {"type": "object", "required": ["user_id"], "properties": {"user_id": {"type": "string"}}}
    return [
        Route(methods="GET", path="/auth/signin", handler=SignIn, auth=None, name="blankly_signin_page", tag=TAG,
              summary="The page that `blankly login` opens",
              query=(Query(name="redirectUrl", default=TARGET, high=2000, doc="/deploy for a program's login"),),
              answers=page, errors=(400,)),
        Route(methods="POST", path="/auth/signin", handler=SignIn, auth=None, name="blankly_signin", tag=TAG,
              summary="Give a token to the program that waits for it", request=form, max_body=2**16,
              request_content=("application/x-www-form-urlencoded",), answers=page, errors=(400, 403, 413)),
        Route(methods="POST", path="/auth/token", handler=TokenExchange, auth=None, name="blankly_token", tag=TAG,
              summary="Exchange a token for one that lasts an hour", request={
                  "type": "object", "required": ["refreshToken"], "properties": {"refreshToken": {"type": "string"}}},
              request_content=FORMS, max_body=2**16, answers={200: Answer(doc="the idToken", model={
                  "type": "object", "required": ["idToken", "data"],
                  "properties": {"idToken": {"type": "string"}, "data": data}})}, errors=(400, 401, 413)),
    ]
