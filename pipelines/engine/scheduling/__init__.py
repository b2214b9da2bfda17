"""Schedules, and the daemon that keeps them."""
