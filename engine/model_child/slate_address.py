"""Sends what slate reports to the workbench that runs the model: slate has the address of a service that is gone in its
code, and no setting for it.

Runs inside a model's own environment, on any Python from 3.8 on. Nothing is imported before the model does: when it
imports `requests`, which slate sends by, addresses that begin with the old one are turned to `URL_MODEL_EVENTS_API`.
"""

import functools
import os
import sys
from importlib.machinery import PathFinder

GONE = ("https://events.blankly.finance/", "http://localhost/v1/", "http://localhost/log")  # slate 1.0 has the latter
SENDER = "requests.sessions"


def install():
    """Begin. Without an address in the environment nothing changes."""
    url = os.environ.get("URL_MODEL_EVENTS_API", "").rstrip("/")
    if not url:
        return
    if SENDER in sys.modules:
        turn(sys.modules[SENDER].Session, url)
    else:
        sys.meta_path.insert(0, _Finder(url))


def turn(session, here):
    """Have a class of sessions send here what was for the old address."""
    send = session.request

    @functools.wraps(send)
    def request(self, method, url, *args, **kwargs):
        if isinstance(url, str) and url.startswith(GONE):
            url = here + "/" + url.split("/", 3)[3]
        return send(self, method, url, *args, **kwargs)

    session.request = request


class _Finder:
    """Finds the sender once, as it would be found without us, and turns it when it is loaded."""

    def __init__(self, url):
        self.url = url

    def find_spec(self, name, path=None, target=None):
        if name != SENDER:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module):
                load(module)
                turn(module.Session, self.url)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
