"""Moves bytes whose digest the reader checks: in no key."""
