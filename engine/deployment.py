"""The nouns of uploaded models: a version, and the deployment that says which version should run."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

__all__ = ["Deployment", "DeploymentState", "Version"]

DeploymentState = Literal["starting", "running", "waiting", "stopping", "stopped", "completed", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """One upload of a model. `number` counts 1, 2, 3 … within the model; `size` is in bytes of the archive, `unpacked`
    of what is in it; `script` is the main script; `sha256` the archive's own."""

    id: str
    model: str
    number: int
    description: str
    python: str
    sha256: str
    file: str
    size: int
    unpacked: int
    files: int
    script: str
    by: str
    created_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployment:
    """Which version of a model should run, and how that stands.

    `schedule` is five fields of cron ("" runs all the time). States: starting; running; waiting (until `next_at`, for
    the schedule or for another try); stopping; stopped (on request); completed (it ended by itself); failed (it cannot
    be started). `run` is the present life or the last one, `restarts` counts tries since it last ran for long.
    """

    model: str
    version: str
    plan: str
    schedule: str
    wanted: Literal["running", "stopped"]
    state: DeploymentState
    restarts: int
    next_at: datetime | None
    run: str | None
    error: str | None
    by: str
    changed_at: datetime
