"""The version, from the installed package; "0" in a tree that is not installed."""

from importlib.metadata import PackageNotFoundError, version
from typing import Final

__all__ = ["VERSION"]


def _version() -> str:
    try:
        return version("workbench")
    except PackageNotFoundError:
        return "0"


VERSION: Final[str] = _version()
