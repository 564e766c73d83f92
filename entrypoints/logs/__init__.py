"""Parsers of the tests' output."""
