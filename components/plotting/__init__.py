"""Figures: in no key but of a step that returns one."""
