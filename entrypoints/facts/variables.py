"""Every EPBOX_* variable, as data (variables.toml): docs/variables.md lists the public ones, and no other name is used anywhere."""

from dataclasses import dataclass
from pathlib import Path

from entrypoints.toml import load_toml

TABLE = Path(__file__).with_name("variables.toml")


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One row of variables.toml. `public`: people set or read it; the others are between EPBox's own programs."""

    name: str
    meaning: str
    set_by: str
    read_by: str
    public: bool = False


def table() -> tuple[Variable, ...]:
    """All rows, in the table's order."""
    return tuple(Variable(name=name, **row) for name, row in load_toml(TABLE).items())


def to_markdown() -> str:
    """The public variables as the table of docs/variables.md."""
    rows = [f"| `{row.name}` | {row.meaning} | {row.set_by} | {row.read_by} |" for row in table() if row.public]
    return "\n".join(["| variable | meaning | set by | read by |", "| --- | --- | --- | --- |", *rows]) + "\n"
