"""The native API's account side: who am I, what is this server, tokens. Runs and markets have modules of their own."""

import os
import platform
from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from engine import times
from server.dialects.base import BaseHandler
from server.dialects.routes import Answer, Path, Route
from server.services import Services
from server.services.users import SCOPES, Token
from server.version import VERSION

__all__ = ["routes"]

BASE: Final = "/workbench/api"


class Me(BaseModel):
    name: str
    scopes: list[str]


class Info(BaseModel):
    """`workers` are the pool's processes now; `limits` in bytes, seconds and requests a minute, 0 meaning none;
    `live_trading`: whether trade bots may place real orders."""

    version: str
    python: str
    database: str
    scheduler: str
    cores: int
    workers: dict[str, Any]
    limits: dict[str, float]
    demo: bool
    live_trading: bool


class TokenAnswer(BaseModel):
    id: str
    name: str
    prefix: str
    scopes: list[str]
    owner: str
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    last_used_at: str | None


class NewToken(TokenAnswer):
    """`token` is the text to send; it is shown this once."""

    token: str


class TokenList(BaseModel):
    items: list[TokenAnswer]


class TokenRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=200)]
    scopes: Annotated[list[str], Field(min_length=1, max_length=20, description="any of " + ", ".join(SCOPES))]
    expires_at: Annotated[str | None, Field(description="ISO 8601; null: never")] = None


def token_json(token: Token) -> dict[str, Any]:
    def at(value: datetime | None) -> str | None:
        return None if value is None else times.iso(value)

    return {"id": token.id, "name": token.name, "prefix": token.prefix, "scopes": list(token.scopes),
            "owner": token.owner, "created_at": at(token.created_at), "expires_at": at(token.expires_at),
            "revoked_at": at(token.revoked_at), "last_used_at": at(token.last_used_at)}


class MeHandler(BaseHandler):
    async def get(self) -> None:
        self.write_json({"name": self.principal.name, "scopes": sorted(self.principal.scopes)})


class InfoHandler(BaseHandler):
    async def get(self) -> None:
        config, pool = self.services.config, self.services.pool
        self.write_json({
            "version": VERSION, "python": platform.python_version(),
            "database": "postgresql" if self.services.db.is_postgresql else "sqlite",
            "scheduler": "external" if config.scheduler else "embedded", "cores": os.cpu_count() or 1,
            "workers": {"ready": pool.ready, "count": pool.count},
            "limits": {"rate_limit": config.rate_limit, "max_body": config.max_body, "max_upload": config.max_upload,
                       "run_timeout": config.run_timeout, "run_memory": config.run_memory},
            "demo": config.demo, "live_trading": config.allow_live_trading})


class TokensHandler(BaseHandler):
    async def get(self) -> None:
        self.write_json({"items": [token_json(token) for token in await self.services.users.list()]})

    async def post(self) -> None:
        wanted = await self.read_model(TokenRequest)
        expires = times.parse(wanted.expires_at, field="expires_at") if wanted.expires_at else None
        token, text = await self.services.users.create(wanted.name, wanted.scopes, expires_at=expires,
                                                       owner=self.principal.name)
        self.write_json(token_json(token) | {"token": text}, status=201)


class TokenHandler(BaseHandler):
    async def delete(self, id: str) -> None:
        self.write_json(token_json(await self.services.users.revoke(id)))


def routes(services: Services) -> list[Route]:
    return [
        Route(methods="GET", path=f"{BASE}/me", handler=MeHandler, auth="", name="me", summary="Who am I",
              answers={200: Answer(doc="the token's name and scopes", model=Me)}),
        Route(methods="GET", path=f"{BASE}/info", handler=InfoHandler, auth="", name="info",
              summary="What this server is", answers={200: Answer(doc="version, workers, limits", model=Info)}),
        Route(methods="GET", path=f"{BASE}/tokens", handler=TokensHandler, auth="admin", name="list_tokens",
              summary="All tokens, newest first", answers={200: Answer(doc="tokens without secrets", model=TokenList)}),
        Route(methods="POST", path=f"{BASE}/tokens", handler=TokensHandler, auth="admin", name="create_token",
              summary="Make a token", request=TokenRequest, errors=(400, 413, 422),
              answers={201: Answer(doc="the token, with its text shown this once", model=NewToken)}),
        Route(methods="DELETE", path=f"{BASE}/tokens/{{id}}", handler=TokenHandler, auth="admin", name="revoke_token",
              summary="Revoke a token", parameters=(Path(name="id", doc="the token's id"),), errors=(404, 409),
              answers={200: Answer(doc="the revoked token", model=TokenAnswer)}),
    ]
