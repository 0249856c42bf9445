"""What the tests need besides Python packages: a Chromium, bubblewrap, and the programs whose wire formats are spoken
here, each in an environment of its own. Installed when that is possible, else named in one line.

Run as `python -m tests.requirements` by `make test`; `find_chromium()` serves the browser tests. Without the foreign
programs the tests that drive them are skipped; where CI is set they must be there, unless no package can be had at all.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_chromium() -> str | None:
    """Path of the Chromium to test with: $CHROMIUM, else the first known name on PATH."""
    named = os.environ.get("CHROMIUM")
    if named:
        return named if Path(named).is_file() else None
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def install_clients() -> bool:
    """Blankly's own packages, which `tests/dialects/test_blankly_clients.py` drives; whether the tests can begin."""
    from tests.blankly_clients import MissingClientError, install

    try:
        install()
    except MissingClientError as error:
        needed = bool(os.environ.get("CI")) and not error.away
        reason = "the package index does not answer" if error.away else " ".join(str(error).split()).rstrip(".")
        print(f"{reason}; {'the tests need it' if needed else 'tests that drive it are skipped'}", file=sys.stderr)
        return not needed
    return True


def missing() -> dict[str, str]:
    """Debian's packages that are not here, and what needs them."""
    wanted = {"chromium": ("the browser tests", find_chromium()), "bubblewrap": ("the boxes of uploaded models",
                                                                                 shutil.which("bwrap"))}
    return {package: what for package, (what, found) in wanted.items() if not found}


def main() -> int:
    ready = install_clients()
    if (packages := missing()) and os.geteuid() == 0 and shutil.which("apt-get"):
        print("installing Debian's " + " and ".join(packages), flush=True)
        quiet = {"env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, "stdout": subprocess.DEVNULL}
        subprocess.run(["apt-get", "update", "-qq"], check=False, **quiet)
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages], check=False, **quiet)
    for package, what in missing().items():
        print(f"{what} need {package}: sudo apt-get install {package}"
              + (" (or set CHROMIUM=/path/to/it)" if package == "chromium" else ""), file=sys.stderr)
    return 0 if ready and not missing() else 1


if __name__ == "__main__":
    sys.exit(main())
