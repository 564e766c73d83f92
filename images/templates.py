"""Jinja as every template of templates/ expects it."""

import json
import shlex
from functools import cache
from typing import TYPE_CHECKING

from entrypoints import ROOT
from entrypoints.errors import ExitCode
from entrypoints.facts.container import need

if TYPE_CHECKING:
    import jinja2

TEMPLATES = ROOT / "templates"


@cache
def environment(folder: str) -> "jinja2.Environment":
    """Templates of one folder: an unknown name is an error, lines of statements leave none behind, the last line end stays.

    `sh` quotes a word for a shell, `words` each of a sequence; `q` writes any value as JSON, which is YAML.
    `exit_code.engine` and so on are the exit codes by name, `results` is the folder that containers leave results in.
    """
    import jinja2  # the menu lists tasks without it

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES / folder),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    made.filters["sh"] = lambda value: shlex.quote(str(value))
    made.filters["words"] = lambda values: shlex.join(map(str, values))
    made.filters["q"] = json.dumps
    made.globals |= {"exit_code": {code.name.lower(): code.value for code in ExitCode}, "results": need("results").value}
    return made


def render(path: str, /, **values: object) -> str:
    """The text of a template, FOLDER/NAME, with these variables."""
    folder, name = path.split("/")
    return environment(folder).get_template(name).render(values)
