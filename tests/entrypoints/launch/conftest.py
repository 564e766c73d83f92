"""The fixture that starts supervisors and ends what they leave."""

from tests.helpers.supervised import supervised as supervised
