"""Jinja as every template of templates/ expects it."""

import jinja2

from entrypoints import ROOT

TEMPLATES = ROOT / "templates"


def environment(folder: str) -> jinja2.Environment:
    """Templates of one folder: an unknown name is an error, lines of statements leave none behind, the last line end stays."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES / folder),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
