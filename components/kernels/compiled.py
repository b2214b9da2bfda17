"""
How kernels are compiled: by numba, without Python's lock, once on a machine.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from numba import njit

from components.runtime.compilation_cache import cached


def kernel(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """
    Compile a function when it is called first; the machine code is kept for every process of this machine.

    `options` are njit's: inline="always", error_model="numpy". A change of anything that the function reaches, in
    whatever file, compiles it anew.
    """
    if function is None:
        return partial(kernel, **options)
    return cached(njit(nogil=True, **options)(function))
