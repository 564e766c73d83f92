"""The program inside an EPBox image; from a checkout it needs the standard library and psutil alone."""

__version__ = "0.1.0"
