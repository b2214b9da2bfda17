"""Runs a plan, and each of its steps."""
