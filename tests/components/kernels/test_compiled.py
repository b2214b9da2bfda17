"""
How kernels are compiled.
"""

import numba
import pytest

from components.kernels.compiled import kernel


def test_a_kernel_holds_no_lock_and_is_kept_by_the_cache_of_this_project():
    @kernel
    def doubled(x):
        return 2 * x

    assert doubled(4) == 8
    assert doubled.targetoptions["nogil"] is True
    assert doubled.stats.cache_path.endswith("kernels")


def test_numbas_options_are_passed_on():
    @kernel(error_model="numpy")
    def inverse(x):
        return 1 / x

    assert inverse(0.0) == float("inf")


def test_where_numba_is_told_to_compile_nothing_a_kernel_is_a_plain_function(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)

    def doubled(x):
        return 2 * x

    assert kernel(doubled) is doubled
