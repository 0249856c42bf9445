"""The box that an uploaded model runs in: what it sees, how much it may use, and the command that puts it there.

With bubblewrap (Debian's `bubblewrap`) the model sees the system's programs, its interpreter, its own files read-only
and two empty folders of limited size in memory, `/home/model` and `/tmp`: not the server's data, not other processes,
and without `network` no network, not even loopback. As root it runs under a user id of its own, else in a user
namespace; either way without capabilities and with limits on processes, address space and open files that it cannot
raise.

Without bubblewrap the limits alone hold: the model runs as the server's user and can read what the server can. That
protects against accidents, not against malice; `isolation()` says which of the two a machine offers, and why.
"""

import functools
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from engine.errors import Invalid

__all__ = [
    "BACKTEST_PLANS", "HOME", "LIVE_PLANS", "MODEL", "Box", "Isolation", "Plan", "interpreter_folders", "isolation",
    "plan_of",
]

NICENESS: Final = "10"
FIRST_UID: Final = 210_000
"""User ids above this belong to models while the server runs as root; none is in /etc/passwd."""

UIDS: Final = 10_000
HOME: Final = "/home/model"
MODEL: Final = "/model"
_SYSTEM: Final = ("/lib", "/lib64", "/bin", "/sbin", "/lib32", "/libx32")
_ETC: Final = ("/etc/ssl", "/etc/ca-certificates", "/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types")
_ETC_NETWORK: Final = ("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/services", "/etc/gai.conf")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a model may use. `cpu` is in thousandths of a core, `memory` and `disk` in MiB, `output` the MiB of text it
    may print, `seconds` the time it may take (None: no limit)."""

    name: str
    cpu: int
    memory: int
    disk: int = 256
    processes: int = 64
    output: int = 64
    seconds: float | None = None


def _plans(*plans: Plan) -> dict[str, Plan]:
    return {plan.name: plan for plan in plans}


LIVE_PLANS: Final[Mapping[str, Plan]] = _plans(
    Plan(name="nano", cpu=250, memory=512), Plan(name="micro", cpu=500, memory=1024),
    Plan(name="small", cpu=1000, memory=2048, disk=512), Plan(name="medium", cpu=2000, memory=4096, disk=1024),
    Plan(name="large", cpu=4000, memory=8192, disk=2048, processes=256))

BACKTEST_PLANS: Final[Mapping[str, Plan]] = _plans(
    Plan(name="slow", cpu=1000, memory=2048, disk=512, seconds=3600.0),
    Plan(name="fast", cpu=2000, memory=4096, disk=1024, processes=128, seconds=7200.0))


def plan_of(name: str, *, live: bool) -> Plan:
    """A plan by its name, the smallest for "". Raises `Invalid` naming those there are."""
    plans = LIVE_PLANS if live else BACKTEST_PLANS
    if not name:
        return next(iter(plans.values()))
    if name not in plans:
        raise Invalid(f"there is no plan {name[:40]!r}", field="plan", remedy="plans are " + ", ".join(plans))
    return plans[name]


@dataclass(frozen=True, kw_only=True, slots=True)
class Isolation:
    """How models are kept apart on this machine: "bubblewrap" or "limits", and in a sentence what that means."""

    kind: str
    reason: str


@functools.cache
def isolation() -> Isolation:
    """What this machine offers; tried once, which takes some 20 ms."""
    program = shutil.which("bwrap")
    if program is None:
        return Isolation(kind="limits", reason="bubblewrap is not installed (Debian: apt-get install bubblewrap): "
                         "models run under limits, but can read what the server can")
    box = Box(plan=Plan(name="probe", cpu=1000, memory=256), network=False)
    try:
        tried = subprocess.run(_bubblewrap(box, ["/bin/sh", "-c", "exit 7"], 0), capture_output=True, timeout=20,
                               check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Isolation(kind="limits", reason=f"bubblewrap does not start ({error}): models run under limits only")
    if tried.returncode != 7:
        words = tried.stderr.decode(errors="replace").strip()[:200]
        return Isolation(kind="limits", reason=f"bubblewrap does not work here ({words}): models run under limits only")
    return Isolation(kind="bubblewrap", reason="models see their own files only, and no network in backtests")


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """One model's box. `model` is the folder of its files, seen read-only as `/model`; `readable` are further folders
    that it sees under their own paths (its interpreter, its packages, our wrapper); `environment` is all it gets."""

    plan: Plan
    network: bool
    model: Path | None = None
    readable: Sequence[Path] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def command(self, inner: Sequence[str], *, slot: int = 0) -> list[str]:
        """The command line that runs `inner` in the box. `slot` (0 to 9,999) tells models apart that run at once.

        Bubblewrap's options stand before the first "--", the environment among them: on its command line others would
        read the keys in it, so the caller hands them over through a pipe (`--args`). Without bubblewrap the caller
        gives the environment itself, `/home/model` and `/model` do not exist, and `inner` has real paths.
        """
        if isolation().kind == "bubblewrap":
            return _bubblewrap(self, inner, slot)
        # Processes are counted by user: the limit would count the server's own.
        return [*(part for part in _limits(self.plan) if not part.startswith("--nproc")),
                "setpriv", "--pdeathsig", "KILL", "--", *inner]  # it ends with its server, as a box does


def _limits(plan: Plan) -> list[str]:
    """prlimit with the plan's hard limits. Address space is not memory: libraries reserve more than they use, so this
    bounds what a model can grab before the watch on its real memory sees it. And nice: where processors are short, the
    server's answers come first."""
    space = (2 * plan.memory + 1024) * 2**20
    return ["nice", "-n", NICENESS, "prlimit", f"--nproc={plan.processes}", f"--as={space}",
            f"--fsize={plan.disk * 2**20}", "--nofile=1024", "--core=0", "--memlock=65536", "--msgqueue=0", "--"]


def _bubblewrap(box: Box, inner: Sequence[str], slot: int) -> list[str]:
    plan = box.plan
    disk = str(plan.disk * 2**20)
    found = ["bwrap", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--die-with-parent",
             "--new-session", "--hostname", "model", "--clearenv"]
    root = os.geteuid() == 0
    if root:
        found += ["--cap-drop", "ALL"]
        for name in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_SYS_RESOURCE"):  # for setpriv, which drops them
            found += ["--cap-add", name]
    else:
        found += ["--unshare-user"]
    if not box.network:
        found += ["--unshare-net"]
    found += ["--ro-bind", "/usr", "/usr"]
    for path in _SYSTEM:
        if os.path.islink(path):
            found += ["--symlink", os.readlink(path).lstrip("/"), path]
        else:
            found += ["--ro-bind-try", path, path]
    found += _parents(["/etc/ssl", HOME])
    for path in (*_ETC, *(_ETC_NETWORK if box.network else ())):
        found += ["--ro-bind-try", os.path.realpath(path), path]
    found += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--size", str(64 * 2**20), "--tmpfs", "/dev/shm"]
    for folder in ("/tmp", HOME):
        found += ["--perms", "1777", "--size", disk, "--tmpfs", folder]
    readable = [str(path) for path in box.readable]
    found += _parents(readable)
    for folder in readable:
        found += ["--ro-bind", folder, folder]
    if box.model is not None:
        found += ["--ro-bind", str(box.model), MODEL]
    found += ["--chdir", HOME]
    for name, value in box.environment.items():
        found += ["--setenv", name, value]
    found += ["--", *_limits(plan)]
    if root:
        uid = FIRST_UID + slot % UIDS
        found += ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--inh-caps=-all",
                  "--bounding-set=-all", "--no-new-privs", "--"]
    return [*found, *inner]


def _parents(paths: Sequence[str]) -> list[str]:
    """What makes the folders above these paths: those that bubblewrap makes by itself are closed to the model."""
    above = {str(parent) for path in paths for parent in Path(path).parents} - {"/", HOME, "/tmp", "/usr"}
    return [part for folder in sorted(above) for part in ("--perms", "0755", "--dir", folder)]


def interpreter_folders(python: Path) -> tuple[Path, ...]:
    """The folders that an interpreter (of a virtual environment, say) needs to be seen: its own, and its base's."""
    said = subprocess.run([str(python), "-I", "-c", "import sys; print(sys.prefix); print(sys.base_prefix)"],
                          capture_output=True, text=True, timeout=60, check=True).stdout.split("\n")
    real = Path(os.path.realpath(python)).parent.parent
    found = [Path(line) for line in said if line.strip()]
    return tuple(dict.fromkeys(path for path in (*found, real) if not path.is_relative_to("/usr") and path != Path("/")
                               and path.is_dir()))

