"""The program inside an EPBox image; from a checkout it needs the standard library and psutil alone."""

from pathlib import Path

__version__ = "0.2.0"
ROOT = Path(__file__).resolve().parent.parent  # of the checkout, or /opt/epbox in an image
