"""What a live model finds in its environment: who it is, where to report, and a key of its own while it lives."""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from engine.deployment import Version
from engine.errors import WorkbenchError
from server.services.activity import Activity
from server.services.users import Users

__all__ = ["ModelEnvironment"]

OWNER: Final = "deployed model"
"""Owns the keys that processes hold; they are discarded when the process has gone."""

log = logging.getLogger("workbench.models")


class ModelEnvironment:
    """Makes environments; `url` is where the server is found from the machine that runs models."""

    def __init__(self, *, users: Users, activity: Activity, url: str) -> None:
        self._users = users
        self._activity = activity
        self._url = url

    async def start(self) -> None:
        """Discard the keys of processes that a former life of the server left."""
        for token in await self._users.list():
            if token.owner == OWNER:
                await self._users.discard(token.id)

    @asynccontextmanager
    async def given(self, version: Version) -> AsyncIterator[Mapping[str, str]]:
        """The environment of one life of a model. Its key reports for this model alone and ends with the block."""
        model = await self._activity.model(version.model)
        token, text = await self._users.create(f"process of {model.name}"[:200], ["ingest"], owner=OWNER,
                                               project=model.project, model=model.id)
        key = {"API_KEY": model.project, "API_PASS": text}
        try:
            yield {
                "PROJECT_ID": model.project, "MODEL_ID": model.id, "UID": model.project, "VERSION_ID": version.id,
                "TYPE": model.kind.upper(), "URL_MODEL_EVENTS_API": self._url, **key, "SLATE_MODEL_ID": model.id,
                "SLATE_PROJECT_ID": model.project, "SLATE_TOKEN": text,
                **{f"SLATE_{name}": value for name, value in key.items()}}
        finally:
            try:
                await self._users.discard(token.id)
            except WorkbenchError as error:
                log.warning("the key of a model's process was not discarded: %s", error)
