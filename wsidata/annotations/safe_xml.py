"""XML as a tree with line numbers, without document types, entities or references to other files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from wsidata.annotations.outline import AnnotationError

_DEEPEST = 50


@dataclass
class Element:
    """An element of XML: its tag, attributes, children, and the line (from 1) where it starts."""

    tag: str
    attributes: dict[str, str]
    line: int
    children: list[Element] = field(default_factory=list)

    def all(self, tag: str) -> Iterator[Element]:
        """The children with a tag."""
        return (child for child in self.children if child.tag == tag)

    def below(self, *tags: str) -> Iterator[Element]:
        """The elements on the path of these tags."""
        if not tags:
            yield self
            return
        for child in self.all(tags[0]):
            yield from child.below(*tags[1:])

    def number(self, name: str) -> float:
        """The number in an attribute.

        Raises:
            AnnotationError: naming the line, if there is none.
        """
        text = self.attributes.get(name)
        try:
            return float("" if text is None or "_" in text else text)
        except ValueError:
            found = "is missing" if text is None else f"is '{text}', which is no number (with a decimal point)"
            raise AnnotationError(f"line {self.line}: {name} of <{self.tag}> {found}") from None


def parse(content: bytes) -> Element:
    """The root element.

    Raises:
        AnnotationError: naming the line, if this is no XML, or declares a document type (which may hold entities that
            grow without bound, or name other files).
    """
    parser, open_elements, roots = expat.ParserCreate(), list[Element](), list[Element]()

    def start(tag: str, attributes: dict[str, str]) -> None:
        element = Element(tag, attributes, parser.CurrentLineNumber)
        (open_elements[-1].children if open_elements else roots).append(element)
        open_elements.append(element)
        if len(open_elements) > _DEEPEST:
            raise AnnotationError(f"line {element.line}: elements are nested more than {_DEEPEST} deep")

    def refuse(*_: object) -> None:
        raise AnnotationError(f"line {parser.CurrentLineNumber}: a document type is declared, which is not read")

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: open_elements.pop()
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise AnnotationError(f"line {error.lineno}: {expat.ErrorString(error.code)}") from None
    except (LookupError, ValueError) as error:  # encodings that are unknown
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(f"line 1: {error}") from None
    return roots[0]
