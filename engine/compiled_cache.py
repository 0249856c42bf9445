"""When machine code on disk is still good: a stamp of everything that goes into it. Imports numba.

numba's own stamp is the file that holds the function. That is too much, because an edit of one function in it has all
the others compiled again, and too little, because functions of other files that this one calls are compiled into it.
"""

import hashlib
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

import numpy as np
from numba.core.caching import UserProvidedCacheLocator

__all__ = ["Locator", "stamp"]

_PLAIN: Final = (bool, int, float, str, bytes, tuple, np.generic, type(None))


class Locator(UserProvidedCacheLocator):
    """Below numba's `CACHE_DIR`, good as long as `stamp` says the same."""

    def __init__(self, py_func: FunctionType, py_file: str) -> None:
        super().__init__(py_func, py_file)
        self._stamp = stamp(py_func)

    def get_source_stamp(self) -> str:
        return self._stamp

    def get_disambiguator(self) -> str:
        return ""  # numba's is the line, which moves when something above is edited


def stamp(function: FunctionType) -> str:
    """A hash of the function's code, of the constants it names and, likewise, of every function that it may call."""
    digest = hashlib.sha256()
    seen: set[FunctionType] = set()

    def add(name: str, value: Any, names: set[str]) -> None:
        value = getattr(value, "py_func", value)  # what a decorator of ours or of numba's made of it
        if isinstance(value, FunctionType):
            visit(value)
        elif isinstance(value, np.ndarray):
            digest.update(f"{name}={value.dtype}{value.shape};".encode() + value.tobytes())
        elif isinstance(value, _PLAIN):
            digest.update(f"{name}={value!r};".encode())
        elif isinstance(value, ModuleType) and value.__name__.partition(".")[0] == __name__.partition(".")[0]:
            for each in sorted(names & vars(value).keys()):
                add(each, vars(value)[each], names)

    def visit(function: FunctionType) -> None:
        if function in seen:
            return
        seen.add(function)
        names: set[str] = set()
        _note(function.__code__, digest, names)
        for name in sorted(names & function.__globals__.keys()):
            add(name, function.__globals__[name], names)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            add(name, cell.cell_contents, names)
        digest.update(repr(function.__defaults__).encode())

    visit(function)
    return digest.hexdigest()


def _note(code: CodeType, digest: Any, names: set[str]) -> None:
    """What a piece of code does, and the names it uses; where it stands does not matter."""
    names.update(code.co_names)
    digest.update(code.co_code)
    digest.update(repr((code.co_names, code.co_varnames, code.co_freevars)).encode())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _note(constant, digest, names)
        else:
            digest.update(repr(constant).encode())
