"""Ratios to peers in one run, and growth curves: `python -m tests.benchmarks.NAME`. Nothing here is asserted."""
