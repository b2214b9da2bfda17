"""Runs and models as people see them."""
