"""A small element tree with line numbers, from expat; entity tricks and absurd depth are refused."""

from dataclasses import dataclass, field
from xml.parsers import expat

from entrypoints.errors import UsageError

#: The deepest topology known has 12 levels.
MAX_DEPTH = 100
#: hwloc writes the CPU mask of the largest host in less; no name or number comes near it.
MAX_VALUE = 4096


@dataclass
class Element:
    """One XML element: tag, attributes, children, and the line it begins on."""

    tag: str
    attributes: dict[str, str]
    line: int
    children: list["Element"] = field(default_factory=list)
    text: str = ""

    def get(self, name: str) -> str | None:
        """An attribute, or None when it is missing, blank, or longer than any that a topology has."""
        value = self.attributes.get(name, "").strip()
        return value if 0 < len(value) <= MAX_VALUE else None

    def all(self, tag: str) -> list["Element"]:
        """The children of one tag."""
        return [child for child in self.children if child.tag == tag]


def parse_xml(text: str, root: str, source: str) -> Element:
    """The first element named `root` and what it holds. Raises UsageError with the line of the damage."""
    first = text.find(f"<{root}")
    shift = text.count("\n", 0, first)
    end = text.find(f"</{root}>", first)
    body = text[first:] if end < 0 else text[first : end + len(root) + 3]
    parser = expat.ParserCreate()
    top: list[Element] = []
    stack: list[Element] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        element = Element(tag, attributes, parser.CurrentLineNumber + shift)
        if len(stack) >= MAX_DEPTH:
            raise UsageError(f"is nested deeper than {MAX_DEPTH} elements", where=f"{source}:{element.line}")
        (stack[-1].children if stack else top).append(element)
        stack.append(element)

    def characters(data: str) -> None:
        if stack and not data.isspace():
            stack[-1].text += data

    parser.buffer_text = True
    parser.CharacterDataHandler = characters
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _tag: stack.pop()
    try:
        parser.Parse(body.encode("utf-8", "replace"), True)
    except expat.ExpatError as error:
        problem = f"is not well-formed XML ({expat.ErrorString(error.code)})"
        raise UsageError(problem, where=f"{source}:{error.lineno + shift}", hint="give the whole file") from None
    except ValueError as error:
        raise UsageError(f"is not XML ({error})", where=source) from None
    if not top:
        raise UsageError(f"has no <{root}> element", where=f"{source}:{shift + 1}")
    return top[0]
