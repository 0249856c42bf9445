"""What all routes of Blankly's Deployment API share: who asks, of which project and model, and how errors are told.

A user id is a project id: that of the project a token is bound to, else one of the token's own, made at first use.
Errors are 400 with a text in `error` (401 for who may not), since clients look at nothing else.
"""

import hashlib
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from engine import times
from engine.activity import Model
from engine.errors import Conflict, Forbidden, Invalid, NotFound
from engine.model import Principal
from server.dialects.blankly_events import BlanklyHandler
from server.dialects.failures import Failure

__all__ = ["FORMS", "TAG", "TYPES", "DeployHandler", "user_id"]

TAG: Final = "blankly deployment"
TYPES: Final = ("strategy", "screener", "service")
FORMS: Final = ("application/x-www-form-urlencoded", "multipart/form-data", "application/json")


def user_id(principal: Principal) -> str:
    """The user, and project, that a principal is to these clients."""
    return principal.project or hashlib.sha256(f"user {principal.name}".encode()).hexdigest()[:20]


class DeployHandler(BlanklyHandler):
    """Routes of the Deployment API."""

    @property
    def user(self) -> str:
        return user_id(self.principal)

    async def own_project(self) -> str:
        """The user's own project, made when it is not there."""
        activity, own = self.services.activity, self.user
        try:
            await activity.project(own)
        except NotFound:
            with suppress(Conflict):  # another request made it just now
                await activity.create_project(self.principal.name, owner=self.principal.name, id=own)
        return own

    async def project_of(self, given: str | None) -> str:
        """The project that a request names, the user's own when it names none. Raises `NotFound`."""
        if not given or given == self.user:
            return await self.own_project()
        known = {project.id for project in await self.services.activity.projects()}
        if self.principal.project or given not in known:
            raise NotFound("This projectId was not found.", field="projectId",
                           remedy="GET /project/list tells which there are")
        return given

    async def model_of(self, model: str, project: str | None) -> Model:
        """A model that the asker may see, in the project it names. The user's own project is what clients name when
        they know no better: then any of its projects will do. Raises `NotFound`."""
        try:
            found = await self.services.activity.model(model)
        except NotFound:
            found = None
        principal = self.principal
        if (found is None or principal.project not in ("", found.project) or principal.model not in ("", found.id)
                or project not in (None, "", self.user, found.project)):
            raise NotFound("This modelId was not found under this project.", field="modelId",
                           remedy="see POST /model/list; without model_id in blankly.json a new one is made")
        return found

    def succeed(self, **words: Any) -> None:
        """The answer to what was done."""
        now = times.now()
        self.write_json({"status": "success", "timestamp": now.timestamp(), **words})

    def unbound(self) -> None:
        """Raise unless the asker may have several projects."""
        if self.principal.project:
            raise Forbidden("this token is bound to a project", remedy="use a token that is not")

    def _failure_body(self, failure: Failure) -> bytes:
        if isinstance(failure.error, NotFound | Conflict | Invalid) and failure.status != 413:
            failure = replace(failure, status=400)
        return super()._failure_body(failure)

    def render_failure(self, failure: Failure) -> Any:
        problem = failure.problems[0] if failure.problems else None
        message = problem.message if problem else failure.message
        if failure.status == 401 and self.admission is None:
            message = "Not Authenticated"
        elif problem and problem.remedy:
            message = f"{message} ({problem.remedy})"
        return {"error": message, "field": problem.field if problem else "", "code": failure.code,
                "request_id": self.request_id}
