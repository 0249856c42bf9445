"""What all handlers of the alert service share: who asks, and how errors look."""

from typing import Any, ClassVar

from engine.errors import Unauthenticated
from server.auth import bearer
from server.dialects.base import BaseHandler
from server.dialects.failures import Failure, Malformed
from server.dialects.tradingpartners_errors import BodyProblem, error_json
from server.services.subscribers import Subscriber

__all__ = ["Partner"]


class Partner(BaseHandler):
    """A handler whose errors are numbered."""

    dialect: ClassVar[str] = "tradingpartners"

    def _answer_origin(self) -> None:
        super()._answer_origin()
        if self.request.method == "OPTIONS" and self.context.origins.knows(self.request.headers.get("Origin", "")):
            self.lasting_header("Access-Control-Allow-Headers", "Authorization, Content-Type, Last-Event-ID")

    async def read_account(self) -> Subscriber:
        """The asker's account. On a server that asks nobody for tokens, one that is sent still says whose it is."""
        text = bearer(self.request)
        if self.admission is not None and self.admission.via == "open" and text:
            principal = await self.services.users.principal(text)
            if principal is None:
                raise Unauthenticated("this token is not valid", remedy="log in again")
            return await self.services.subscribers.of(principal)
        return await self.services.subscribers.of(self.principal)

    async def read_object(self) -> dict[str, Any]:
        """The body, which must be a JSON object."""
        data = await self.read_json()
        if not isinstance(data, dict):
            raise Malformed("the body is no object", remedy="send a JSON object")
        return data

    def render_failure(self, failure: Failure) -> Any:
        return error_json(failure, self.request.headers.get("Authorization"), self.request_id)

    def fail(self, failure: Failure) -> None:
        if failure.status == 422:  # the service's clients know 400
            failure = Failure(status=400, code=failure.code, message=failure.message, problems=failure.problems,
                              headers=failure.headers, error=failure.error)
        super().fail(failure)


def text_field(data: dict[str, Any], name: str, most: int) -> str:
    """A body field of 1 to `most` characters; raises `BodyProblem`."""
    if data.get(name) is None:
        raise BodyProblem(21, name, "this field is needed", f"send text of 1 to {most} characters")
    value = data[name]
    if not isinstance(value, str) or not 1 <= len(value) <= most or "\0" in value:
        raise BodyProblem(22, name, "this is not right", f"send text of 1 to {most} characters")
    return value
