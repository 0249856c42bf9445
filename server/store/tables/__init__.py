"""The tables. Instants are integer microseconds since 1970 (columns ending in `_at`, and `at`); JSON columns hold
objects and lists (see `server.store.encoding`). Rows never leave the services: they return the nouns of `engine.model`.

Every change here goes with a new revision below `server/store/migrations/versions` (a test compares the two).
"""

from server.store.tables import activity, alerts, core, deployments, instances, leases
from server.store.tables.activity import models, orders, projects
from server.store.tables.base import metadata
from server.store.tables.core import events, run_figures, run_labels, runs, tokens, trials

__all__ = ["activity", "alerts", "core", "deployments", "events", "instances", "leases", "metadata", "models", "orders",
           "projects", "run_figures", "run_labels", "runs", "tokens", "trials"]
