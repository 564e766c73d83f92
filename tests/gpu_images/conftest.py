"""The engine that holds the images."""

from tests.container.conftest import engine

__all__ = ["engine"]
