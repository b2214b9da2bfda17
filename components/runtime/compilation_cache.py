"""
A cache of compiled kernels on this machine, found by the digest of all that the compiler saw.

numba's own cache looks at the file in which a function stands: it misses a change in another file that the function
calls, and it compiles the same file again in another folder. Here a file's name is the digest of what
`kernel_text.text_of` writes, of the processor, and of the types of the arguments. A file holds one kernel for one
signature, so processes that compile at once write files that are equal or have different names; what is read is
compared with its own digest.
"""

import hashlib
import os
import pickle
import time
import uuid
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from numba.core import config
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.dispatcher import Dispatcher
from numba.core.serialize import dumps

from components.runtime.kernel_text import UnreadableError, text_of
from components.runtime.objects import scratch_root

SIZE = 16
"""bytes of a digest"""
KEPT = 90 * 86400
"""seconds after its last use for which a file is kept"""


def cached(function: Any) -> Any:
    """A function that numba compiles, with this cache; one that is not compiled (NUMBA_DISABLE_JIT) as it is."""
    if isinstance(function, Dispatcher):
        function._cache = CompilationCache(function)  # type: ignore[attr-defined]
    return function


def folder() -> Path:
    """Where the files lie: below NUMBA_CACHE_DIR, or in this machine's cache."""
    return Path(getattr(config, "CACHE_DIR", "") or scratch_root() / "numba") / "kernels"


class CompilationCache(_Cache):  # type: ignore[misc]
    """The cache that numba asks for one kernel."""

    def __init__(self, dispatcher: Any) -> None:
        self._dispatcher = dispatcher
        self._enabled = True

    @property
    def cache_path(self) -> str:
        return str(folder())

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def flush(self) -> None:
        """Does nothing: what is kept under a digest is right for it."""

    def load_overload(self, signature: Any, context: Any) -> Any:
        """The machine code for these types, or None."""
        context.refresh()
        path = self._path(signature, context.codegen())
        data = _read(path) if path else None
        if data is None:
            return None
        held, parts = pickle.loads(data)
        # two types may have one text: a function's has its address in it
        return CompileResult._rebuild(context, *parts) if held == signature else None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keeps machine code; where the folder cannot be written, the next process compiles again."""
        path = self._path(signature, result.codegen)
        if path is None:
            return
        if result.library.has_dynamic_globals or result.lifted:
            self._warn("it holds addresses of this process, or a large array")
            return
        with suppress(OSError):
            _write(path, dumps((signature, result._reduce())))

    def _path(self, signature: Any, codegen: Any) -> Path | None:
        """The file for a signature, or None; constants may have changed since another one was compiled."""
        if not self._enabled:
            return None
        try:
            text = "\n".join([text_of(self._dispatcher), repr(signature), repr(codegen.magic_tuple())])
        except UnreadableError as error:
            self._warn(str(error))
            return None
        return folder() / f"{self._dispatcher.py_func.__name__}-{_digest(text.encode()).hex()}"

    def _warn(self, why: str) -> None:
        function = self._dispatcher.py_func
        warnings.warn(
            f"A kernel is compiled once on a machine, but {function.__module__}.{function.__qualname__} is compiled in "
            f"every process, for {why}. Pass that as an argument.",
            stacklevel=2,
        )


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=SIZE).digest()


def _read(path: Path) -> bytes | None:
    """Contents of a cache file; None where there is none, or it was damaged."""
    with suppress(OSError):
        data = path.read_bytes()
        if _digest(data[SIZE:]) == data[:SIZE]:
            with suppress(OSError):  # a folder that may only be read
                os.utime(path)
            return data[SIZE:]
    return None


def _write(path: Path, data: bytes) -> None:
    """All of a file or nothing. Those that nobody has used for long go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        part.write_bytes(_digest(data) + data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    for other in path.parent.iterdir():
        with suppress(OSError):  # another process removes it too
            if time.time() - other.stat().st_mtime > KEPT:
                other.unlink()
