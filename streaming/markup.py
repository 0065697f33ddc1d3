"""HTML that is escaped by construction: text goes in as text and cannot come out as markup.

What is shown came over the wire, from whoever can send a request to the model. So there is no template to forget an
escape in: an element is made of elements and of strings, and a string is always text. The result is also well-formed
XML, which tests parse.
"""

import html
import re
from collections.abc import Iterable

_VOID = frozenset({"br", "link", "meta", "hr", "rect", "line", "path", "circle", "polyline", "polygon", "use", "stop"})
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Markup(str):
    """A string that is markup already."""

    __slots__ = ()


Child = str | int | Iterable["Child"] | None
"""What an element may hold: markup as it is, any other string as text, nothing, or several of these."""


def text(value: str) -> Markup:
    """A string as text; characters that no document may hold show as U+FFFD."""
    return Markup(html.escape(_UNPRINTABLE.sub("\ufffd", value)))


def el(tag: str, *children: Child, **attributes: str | float | None) -> Markup:
    """One element. An underscore in an attribute's name is a hyphen, one at its end nothing; None leaves it out.

    >>> print(el("p", "1 < 2", class_="note"))
    <p class="note">1 &lt; 2</p>
    >>> print(el("rect", width=2.50, aria_label='"'))
    <rect width="2.5" aria-label="&quot;"/>
    """
    parts = [f"<{tag}"]
    for name, value in attributes.items():
        if value is not None:
            shown = _number(value) if isinstance(value, int | float) else text(value)
            parts.append(f' {name.rstrip("_").replace("_", "-")}="{shown}"')
    if tag in _VOID and not children:
        parts.append("/>")
    else:
        parts.append(">")
        parts.extend(_flat(children))
        parts.append(f"</{tag}>")
    return Markup("".join(parts))


def wire(value: str, limit: int = 80) -> Markup:
    """A string from the wire: on its own line of reading direction, cut short, whole in its tooltip up to a point."""
    if len(value) <= limit:
        return el("bdi", value)
    return el("bdi", value[: limit - 1] + "…", title=value[:1000])


def _flat(children: Iterable[Child]) -> Iterable[str]:
    for child in children:
        if isinstance(child, Markup):
            yield child
        elif isinstance(child, str):
            yield text(child)
        elif isinstance(child, int):
            yield str(child)
        elif child is not None:
            yield from _flat(child)


def _number(value: float) -> str:
    """Coordinates to a hundredth."""
    return f"{float(value):.2f}".rstrip("0").rstrip(".")
