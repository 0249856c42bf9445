"""The usual handler, for comparison: FastAPI + uvicorn + SQLAlchemy, a commit for each request. Runs in the peers'
environment, not in the project's.

    python ingest_peer.py PORT_FILE DATABASE_URL TOKEN

It does what the workbench does for the same request, as such services do it: checks the token's hash in the database,
validates the order with pydantic, writes the order (or updates it), an event, and the model's heartbeat and counter.
"""

import hashlib
import sys
import time
from pathlib import Path

import sqlalchemy as sa
import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

port_file, url, token = sys.argv[1:]
sqlite = url.startswith("sqlite")
engine = sa.create_engine(url, pool_size=20, max_overflow=20, **(
    {"connect_args": {"check_same_thread": False, "timeout": 30}} if sqlite else {}))
if sqlite:
    @sa.event.listens_for(engine, "connect")
    def set_up(connection, _):
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")


class Base(DeclarativeBase):
    pass


class Token(Base):
    __tablename__ = "tokens"
    hash: Mapped[str] = mapped_column(primary_key=True)


class Model(Base):
    __tablename__ = "models"
    id: Mapped[str] = mapped_column(primary_key=True)
    heard_at: Mapped[float | None]
    orders: Mapped[int] = mapped_column(default=0)


class Order(Base):
    __tablename__ = "orders"
    model_id: Mapped[str] = mapped_column(sa.ForeignKey("models.id"), primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    symbol: Mapped[str]
    side: Mapped[str]
    type: Mapped[str]
    size: Mapped[float | None]
    price: Mapped[float | None]
    at: Mapped[float]


class Event(Base):
    __tablename__ = "events"
    id: Mapped[int] = mapped_column(sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True)
    stream: Mapped[str] = mapped_column(index=True)
    type: Mapped[str]
    at: Mapped[float]
    data: Mapped[dict] = mapped_column(sa.JSON)


class Entry(BaseModel):
    kind: str
    id: str
    symbol: str
    side: str
    type: str = "market"
    size: float | None = None
    price: float | None = None


Base.metadata.drop_all(engine)
Base.metadata.create_all(engine)
sessions = sessionmaker(engine)
with sessions.begin() as session:
    session.add(Token(hash=hashlib.sha256(token.encode()).hexdigest()))
app = FastAPI()


def database():
    with sessions() as session:
        yield session


@app.post("/events")
def report(entry: Entry, model: str, authorization: str = Header(), session: Session = Depends(database)):  # noqa: B008  the usual way
    digest = hashlib.sha256(authorization.removeprefix("Bearer ").encode()).hexdigest()
    if session.get(Token, digest) is None:
        raise HTTPException(401)
    now = time.time()
    known = session.get(Model, model)
    if known is None:
        session.add(Model(id=model, heard_at=now, orders=1))
        session.flush()
    else:
        known.heard_at = now
        known.orders = Model.orders + 1
    session.merge(Order(model_id=model, at=now, **entry.model_dump(exclude={"kind"})))
    event = Event(stream=f"model/{model}", type="order", at=now, data=entry.model_dump())
    session.add(event)
    session.commit()
    return {"accepted": 1, "seq": event.id}


server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", access_log=False))
started = server.startup


async def startup(sockets=None):
    await started(sockets)
    Path(port_file).write_text(str(server.servers[0].sockets[0].getsockname()[1]))


server.startup = startup
server.run()
