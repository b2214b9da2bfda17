"""Asking registered models."""
