"""The bench verb's parts: setup, preflight, arms, launching, record."""
