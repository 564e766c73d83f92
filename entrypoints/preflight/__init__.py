"""Checks of a host and container before a run: one check a function, grouped by file."""
