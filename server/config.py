"""Every setting of the server, once: flags, environment twins, TOML file, `--help` and README's table come from here.

Precedence: explicit override, flag, environment, file, default. An empty environment variable counts as not set, except
`WORKBENCH_TOKEN`, whose empty value switches authentication off (on loopback only).
"""

import argparse
import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from engine.errors import Invalid, Problem, Unavailable

__all__ = ["SETTINGS", "Config", "Setting", "add_arguments", "table"]

Kind = Literal["text", "integer", "number", "size", "switch", "path", "list"]
UNITS: Final = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting. `low` and `high` are inclusive. `flag` False: environment and file only (secrets do not belong on a
    command line, where every user of the machine can read them)."""

    name: str
    kind: Kind
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    flag: bool = True

    @property
    def option(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return "WORKBENCH_" + self.name.upper()

    @property
    def shown(self) -> str:
        """The default as a person would write it; '' for none."""
        if self.default in (None, "", ()):
            return ""
        if self.kind == "switch":
            return "on" if self.default else "off"
        if self.kind == "size":
            return next((f"{self.default // unit}{letter.upper()}" for letter, unit in reversed(UNITS.items())
                         if self.default and self.default % unit == 0), str(self.default))
        return str(self.default)

    def read(self, value: object) -> Any:
        """The setting's value from text or from TOML; raises `Invalid` naming the setting."""
        try:
            found = self._convert(value)
        except (ValueError, TypeError, KeyError):
            raise Invalid(f"{value!r} is not {ARTICLES[self.kind]}", field=self.name, remedy=self._remedy()) from None
        if self.choices and found not in self.choices:
            raise Invalid(f"{value!r} is not a choice", field=self.name, remedy=self._remedy())
        out = (self.low is not None and found < self.low) or (self.high is not None and found > self.high)
        if out:
            raise Invalid(f"{value!r} is out of range", field=self.name, remedy=self._remedy())
        return found

    def _convert(self, value: object) -> Any:
        if self.kind == "switch":
            if isinstance(value, bool):
                return value
            return {"1": True, "true": True, "yes": True, "on": True,
                    "0": False, "false": False, "no": False, "off": False, "": False}[str(value).strip().lower()]
        if isinstance(value, bool):
            raise ValueError
        if self.kind == "integer":
            return int(value) if isinstance(value, int) else int(str(value), 10)
        if self.kind == "number":
            number = float(value)  # type: ignore[arg-type]
            if not abs(number) < 1e15:
                raise ValueError
            return number
        if self.kind == "size":
            match = re.fullmatch(r"(\d+)\s*([kmg]?)i?b?", str(value).strip().lower())
            if not match:
                raise ValueError
            return int(match[1]) * UNITS[match[2]]
        if self.kind == "path":
            return Path(str(value)).expanduser() if str(value) else None
        if self.kind == "list":
            parts = value if isinstance(value, list | tuple) else str(value).split(",")
            return tuple(str(part).strip() for part in parts if str(part).strip())
        if not isinstance(value, str):
            raise ValueError
        return value

    def _remedy(self) -> str:
        if self.choices:
            return "choose one of " + ", ".join(self.choices)
        if self.low is not None and self.high is not None:
            return f"give a number from {self.low:.15g} to {self.high:.15g}"
        if self.low is not None:
            return f"give a number of at least {self.low:.15g}"
        return {"size": "give bytes, or 64K, 8M, 2G", "switch": "give on or off"}.get(self.kind, "")


ARTICLES: Final = {"text": "text", "integer": "a whole number", "number": "a number", "size": "a size",
                   "switch": "a switch", "path": "a path", "list": "a list"}

SETTINGS: Final[tuple[Setting, ...]] = (
    Setting(name="host", kind="text", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all"),
    Setting(name="port", kind="integer", default=8888, low=0, high=65535, help="port; 0 picks a free one"),
    Setting(name="data_dir", kind="path", default=Path(".workbench"),
            help="folder of everything that is kept: database, candles, results, secrets"),
    Setting(name="database_url", kind="text", default="",
            help="SQLAlchemy URL, for example postgresql://user@host/name; empty: SQLite in the data directory"),
    Setting(name="token", kind="text", default=None, flag=False,
            help="the admin token; not set: one is made and kept in DATA_DIR/token; empty: no authentication, "
                 "loopback only"),
    Setting(name="scheduler", kind="text", default="",
            help="address of a Dask scheduler, for example tcp://host:8786; empty: processes of its own"),
    Setting(name="workers", kind="integer", default=0, low=0, high=1024,
            help="pool processes of the embedded scheduler; 0: one for each core"),
    Setting(name="run_timeout", kind="number", default=3600.0, low=0, high=1e9,
            help="seconds that one run may take; 0: no limit"),
    Setting(name="run_memory", kind="size", default=0, help="memory that one run may use; 0: no limit"),
    Setting(name="model_hosts", kind="text", default="",
            help="address of a Dask scheduler whose workers run uploaded models; empty: they run on this machine"),
    Setting(name="csv_root", kind="path", default=None,
            help="folder below which requests may name CSV files; not set: none may"),
    Setting(name="exchanges", kind="path", default=None,
            help="TOML or JSON file with a section of options for each exchange: addresses, proxies, limits"),
    Setting(name="rate_limit", kind="integer", default=6000, low=0, high=10**9,
            help="requests a minute for each client; 0: no limit"),
    Setting(name="max_body", kind="size", default=8 * 2**20, low=1024, help="largest ordinary request body"),
    Setting(name="max_upload", kind="size", default=2**30, low=1024, help="largest upload of candles or files"),
    Setting(name="origins", kind="list", default=(),
            help="further origins whose pages may use the API, separated by commas: https://desk.example"),
    Setting(name="public_url", kind="text", default="",
            help="address under which models on other machines find the server: https://desk.example; empty: where it "
                 "listens"),
    Setting(name="notice_networks", kind="list", default=(),
            help="link-local or metadata networks that notices may go to all the same: 169.254.10.0/24"),
    Setting(name="credit_threshold", kind="number", default=0.0, low=0, high=1000,
            help="percent of its start price that an alert must gain for its credit to be consumed, not reimbursed"),
    Setting(name="trust_proxy", kind="switch", default=False,
            help="believe X-Forwarded-For and -Proto (only behind a reverse proxy that sets them)"),
    Setting(name="chatter_days", kind="number", default=30.0, low=0, high=36_500,
            help="days that events of progress and new candles are kept; 0: for ever"),
    Setting(name="session_days", kind="number", default=14.0, low=0.001, high=3650,
            help="days until a browser must log in again"),
    Setting(name="idle_timeout", kind="number", default=75.0, low=1, high=86400,
            help="seconds that a connection may stay silent between requests or within a request's head"),
    Setting(name="shutdown_timeout", kind="number", default=10.0, low=0, high=3600,
            help="seconds given to answers in flight when the server stops"),
    Setting(name="log_level", kind="text", default="info", choices=("debug", "info", "warning", "error"),
            help="least serious log lines to write"),
    Setting(name="log_format", kind="text", default="auto", choices=("auto", "console", "json"),
            help="form of the log on stderr; auto: console on a terminal, else json"),
    Setting(name="uvloop", kind="switch", default=True, help="use uvloop when it is installed"),
    Setting(name="demo", kind="switch", default=False, help="load demo market data and run a first backtest"),
    Setting(name="api_only", kind="switch", default=False, help="serve the API and the streams, but no pages"),
    Setting(name="no_browser", kind="switch", default=False, help="do not open a browser"),
    Setting(name="gekko_ui", kind="path", default=None,
            help="folder of Gekko's own web application (web/vue/dist), served at /gekko/; not set: none is"),
    Setting(name="allow_live_trading", kind="switch", default=False,
            help="let trade bots place real orders with stored exchange keys"),
)
BY_NAME: Final = {setting.name: setting for setting in SETTINGS}


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings, read and checked. Field for field the table `SETTINGS` (a test holds it)."""

    host: str = "127.0.0.1"
    port: int = 8888
    data_dir: Path = Path(".workbench")
    database_url: str = ""
    token: str | None = None
    scheduler: str = ""
    workers: int = 0
    run_timeout: float = 3600.0
    run_memory: int = 0
    model_hosts: str = ""
    csv_root: Path | None = None
    exchanges: Path | None = None
    rate_limit: int = 6000
    max_body: int = 8 * 2**20
    max_upload: int = 2**30
    origins: tuple[str, ...] = ()
    public_url: str = ""
    notice_networks: tuple[str, ...] = ()
    credit_threshold: float = 0.0
    trust_proxy: bool = False
    chatter_days: float = 30.0
    session_days: float = 14.0
    idle_timeout: float = 75.0
    shutdown_timeout: float = 10.0
    log_level: str = "info"
    log_format: str = "auto"
    uvloop: bool = True
    demo: bool = False
    api_only: bool = False
    no_browser: bool = False
    gekko_ui: Path | None = None
    allow_live_trading: bool = False

    def __post_init__(self) -> None:
        problems = []
        if self.open and not self.loopback:
            problems.append(Problem("token", f"an empty token switches authentication off, and {self.host} can be "
                                    "reached from other machines", "listen on 127.0.0.1 or set WORKBENCH_TOKEN"))
        if self.token and not re.fullmatch(r"[\x21-\x7e]{8,512}", self.token):
            problems.append(Problem("token", "this token cannot travel in a header or is too short",
                                    "use 8 to 512 visible ASCII characters"))
        for origin in self.origins:
            if not re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+", origin):
                problems.append(Problem("origins", f"{origin!r} is not an origin", "write https://host or "
                                        "http://host:port, without a path"))
        if self.public_url and not re.fullmatch(r"https?://[^/\s?#]+(/[^\s?#]*[^/\s?#])?", self.public_url):
            problems.append(Problem("public_url", f"{self.public_url!r} is not an address", "write https://host or "
                                    "http://host:port/path, without a slash at its end"))
        if problems:
            raise Invalid("the settings are not valid", problems=problems)

    @property
    def open(self) -> bool:
        """Whether everybody is the administrator: the token was set to nothing."""
        return self.token == ""

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def database(self) -> str:
        """The database's URL, the default filled in."""
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'workbench.sqlite'}"

    def make_data_dir(self) -> None:
        """Make the data directory, for its owner alone, unless it is there. Raises `Unavailable`."""
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise Unavailable(f"the data directory {self.data_dir} cannot be made: {error.strerror}", field="data_dir",
                              remedy="name another with --data-dir") from None

    @classmethod
    def load(cls, argv: Sequence[str] | None = None, env: Mapping[str, str] | None = None,
             **overrides: Any) -> "Config":
        """Settings from flags (`argv`, without the program's name; None: no flags), environment and file.

        Raises `Invalid` with one problem for every wrong setting; `SystemExit` for `--help` and unknown flags.
        """
        parser = argparse.ArgumentParser(prog="python -m server", description="The workbench's API and streams.")
        add_arguments(parser)
        return cls.from_arguments(parser.parse_args(list(argv or ())), env, **overrides)

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace, env: Mapping[str, str] | None = None,
                       **overrides: Any) -> "Config":
        """Settings from flags that `add_arguments` put on some parser, environment and file. Raises `Invalid`."""
        env = os.environ if env is None else env
        flags = {name: value for name, value in vars(arguments).items() if name in BY_NAME}
        path = getattr(arguments, "config", None) or env.get("WORKBENCH_CONFIG")
        given: dict[str, Any] = _file(Path(path)) if path else {}
        for setting in SETTINGS:
            if (value := env.get(setting.variable)) or (value is not None and setting.name == "token"):
                given[setting.name] = value
        given |= flags | overrides
        problems: list[Problem] = []
        values = {}
        for name, value in given.items():
            if name not in BY_NAME:
                problems.append(Problem(name, "there is no such setting", "settings are " + ", ".join(BY_NAME)))
                continue
            try:
                values[name] = BY_NAME[name].read(value) if value is not None else BY_NAME[name].default
            except Invalid as error:
                problems.extend(error.problems)
        if problems:
            raise Invalid("the settings are not valid", problems=problems)
        return cls(**values)


def _file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}", field="config") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{path} is not TOML: {error}", field="config",
                      remedy='write lines such as port = 8888 or host = "127.0.0.1"') from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Put a flag for every setting (and `--config`) on a parser. Flags that are not given leave no attribute."""
    parser.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS, help="TOML file with settings")
    for setting in SETTINGS:
        if not setting.flag:
            continue
        text = setting.help + (f" (default {setting.shown})" if setting.shown else "")
        text = text.replace("%", "%%")
        if setting.kind == "switch":
            action = "store_true" if setting.name.startswith("no_") else argparse.BooleanOptionalAction
            parser.add_argument(setting.option, action=action, default=argparse.SUPPRESS, help=text)
        else:
            parser.add_argument(setting.option, metavar=setting.kind.upper(), default=argparse.SUPPRESS, help=text)


def table() -> str:
    """README's table of settings, as Markdown."""
    rows = ["| flag | environment | default | what |", "|---|---|---|---|"]
    for setting in SETTINGS:
        flag = f"`{setting.option}`" if setting.flag else ""
        default = f"`{setting.shown}`" if setting.shown else ""
        what = setting.help + (" (" + ", ".join(setting.choices) + ")" if setting.choices else "")
        rows.append(f"| {flag} | `{setting.variable}` | {default} | {what} |")
    rows.append("| `--config` | `WORKBENCH_CONFIG` |  | TOML file with settings: `port = 8888` |")
    return "\n".join(rows)


