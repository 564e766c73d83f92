"""Nodes of a run: they meet, agree and exchange records."""
