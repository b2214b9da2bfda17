"""Registered models: versions, gates, packaging, serving."""
