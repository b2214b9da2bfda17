"""Tests of the kernels, each against a slow and obvious twin or an analytic shape."""
