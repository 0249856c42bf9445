"""What the operator says about exchanges: a TOML or JSON file (setting `exchanges`), a section for each.

    [binance]                            # an id of ccxt, or a name of one's own with class = "…"
    base_url = "http://127.0.0.1:9000"   # replaces scheme and host of every address: a proxy, a simulator
    sandbox = true                       # the exchange's own test system
    candles = false                      # make minutes from trades even where candles are offered
    sockets = false                      # ask for live minutes instead of listening to the exchange's WebSocket
    retries = 6                          # how often a failed question is asked again
    backoff = 1.0                        # seconds before the first time, doubled each time
    patience = 300                       # seconds after which that ends
    timeout = 10000                      # all else goes to ccxt as it is: milliseconds here, proxies, options …
    httpsProxy = "http://proxy:3128"

Keys do not belong there: they are stored encrypted (`/api/addApiKey`).
"""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from engine.errors import Invalid

__all__ = ["ExchangeOptions", "read_options"]

NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
SECRETS: Final = frozenset({"apikey", "secret", "password", "uid", "login", "token", "twofa", "privatekey",
                            "walletaddress", "accountid"})


@dataclass(frozen=True, kw_only=True)
class ExchangeOptions:
    """One section. `kind` is ccxt's id; `rest` goes to ccxt."""

    kind: str
    base_url: str = ""
    sandbox: bool = False
    candles: bool = True
    sockets: bool = True
    retries: int = 6
    backoff: float = 1.0
    patience: float = 300.0
    rest: Mapping[str, Any] = field(default_factory=dict)


def read_options(path: Path | None) -> dict[str, ExchangeOptions]:
    """The sections of the file by name; none without a file. Raises `Invalid` naming what is wrong."""
    if path is None:
        return {}
    try:
        text = path.read_text()
        found = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}", field="exchanges") from None
    except ValueError as error:  # of both parsers, and of text that is none
        raise Invalid(f"{path} is neither TOML nor JSON: {error}", field="exchanges") from None
    if not isinstance(found, dict):
        raise Invalid(f"{path} holds no sections", field="exchanges", remedy="write [binance] and options below it")
    return {name: _section(name, section) for name, section in found.items()}


def _section(name: str, section: Any) -> ExchangeOptions:
    place = f"exchanges.{name}"
    if not NAME.fullmatch(name) or not isinstance(section, dict):
        raise Invalid(f"{name!r} is no section of an exchange", field="exchanges",
                      remedy="name it in lower case letters, digits, - and _, and put options below it")
    rest = dict(section)
    if found := sorted(key for key in rest if key.lower() in SECRETS):
        raise Invalid(f"{found[0]} does not belong into a file of options", field=f"{place}.{found[0]}",
                      remedy="store keys with POST /api/addApiKey")
    own: dict[str, Any] = {"kind": rest.pop("class", name)}
    for key, kinds in (("base_url", str), ("sandbox", bool), ("candles", bool), ("sockets", bool), ("retries", int),
                       ("backoff", int | float), ("patience", int | float)):
        if key in rest:
            value = rest.pop(key)
            if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool) or (
                    not isinstance(value, str) and value < 0):
                raise Invalid(f"{value!r} is no value for {key}", field=f"{place}.{key}")
            own[key] = value
    if own.get("base_url") and not re.fullmatch(r"https?://[^\s/]+", own["base_url"]):
        raise Invalid(f"{own['base_url']!r} is no address", field=f"{place}.base_url",
                      remedy="write http://host:port, without a path")
    return ExchangeOptions(**own, rest=rest)
