"""Calls of the native library that keep the interpreter's lock.

cffi lets go of it around each call. That is right for what may block, and wrong for a look into C's table: it
takes less than a microsecond, and while another thread runs Python the lock is gone for up to the
interpreter's switch interval, at the price of two wake-ups. A function called so must not block: it does a
few loads and stores under the session's lock, which no thread of C holds across a call that waits.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from swmld._native import ffi, lib

_SIGNED = {4: ctypes.c_int32, 8: ctypes.c_int64}
_UNSIGNED = {2: ctypes.c_uint16, 4: ctypes.c_uint32, 8: ctypes.c_uint64}


def _ctype(kind: Any) -> Any:
    if kind.kind == "void":
        return None
    if kind.kind == "pointer":
        return ctypes.c_void_p
    unsigned = kind.cname.startswith(("u", "size_t"))
    return (_UNSIGNED if unsigned else _SIGNED)[ffi.sizeof(kind)]


def held(name: str) -> Callable[..., int]:
    """The library's function ``name``, called with the interpreter's lock held. Pointers are given as
    ``address``."""
    kind = ffi.typeof(getattr(lib, name))
    prototype = ctypes.PYFUNCTYPE(_ctype(kind.result), *map(_ctype, kind.args))
    function: Callable[..., int] = prototype(address(ffi.addressof(lib, name)))
    return function


def address(pointer: Any) -> int:
    """Of cffi's memory, which the caller keeps, or of a session."""
    return int(ffi.cast("uintptr_t", pointer))
