"""JSON whose values know where they stood: read once per skeleton, from a sample that is valid JSON already."""

import json
import re
from typing import Any, NoReturn

Span = tuple[int, int]
"""First byte, and the byte behind the last."""

_SPACE = re.compile(rb"[ \t\n\r]*")
_STRING = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_WORD = re.compile(rb"null|true|false|NaN|-?Infinity")


class PlacedText(str):  # noqa: SLOT000 - str has no room for slots
    """A text; `span` is its inside, or None when that is escaped; `token` has the quotes."""

    span: Span | None
    token: Span


class PlacedFloat(float):
    """A number; `span` and `token` are the same."""

    span: Span
    token: Span


class PlacedInt(int):
    """A whole number; `span` and `token` are the same."""

    span: Span
    token: Span


class Word:
    """null, true, false or a number that is not finite: a value of its own, because Python's cannot carry a place."""

    span = None
    """It stands for what is absent where anything but a value of a column is asked for, so it never makes a hole."""

    def __init__(self, token: Span) -> None:
        self.token = token


def positions(text: bytes) -> Any:
    """The value, its strings, numbers and words with their places.

    Raises
    ------
    ValueError, RecursionError
        For what is not JSON, or is too deep: then there is nothing to learn from.
    """
    value, end = _value(text, _skip(text, 0))
    if _skip(text, end) != len(text):
        _fail(end)
    return value


def _skip(text: bytes, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _fail(at: int) -> NoReturn:
    msg = f"not JSON at byte {at}"
    raise ValueError(msg)


def _value(text: bytes, at: int) -> tuple[Any, int]:
    mark = text[at : at + 1]
    if mark == b'"':
        return _text(text, at)
    if mark == b"[":
        return _list(text, at)
    if mark == b"{":
        return _object(text, at)
    if word := _WORD.match(text, at):
        return Word(word.span()), word.end()
    found = _NUMBER.match(text, at)
    if found is None:
        _fail(at)
    token = found[0].decode()
    number = PlacedInt(token) if token.lstrip("-").isdigit() else PlacedFloat(token)
    number.span = number.token = found.span()
    return number, found.end()


def _text(text: bytes, at: int) -> tuple[PlacedText, int]:
    found = _STRING.match(text, at)
    if found is None:
        _fail(at)
    placed = PlacedText(json.loads(found[0].decode()))
    placed.token = found.span()
    placed.span = None if b"\\" in found[1] else found.span(1)
    return placed, found.end()


def _list(text: bytes, at: int) -> tuple[list[Any], int]:
    values: list[Any] = []
    at = _skip(text, at + 1)
    if text[at : at + 1] == b"]":
        return values, at + 1
    while True:
        value, at = _value(text, at)
        values.append(value)
        at = _skip(text, at)
        mark = text[at : at + 1]
        if mark == b"]":
            return values, at + 1
        if mark != b",":
            _fail(at)
        at = _skip(text, at + 1)


def _object(text: bytes, at: int) -> tuple[dict[str, Any], int]:
    values: dict[str, Any] = {}
    at = _skip(text, at + 1)
    if text[at : at + 1] == b"}":
        return values, at + 1
    while True:
        key, at = _text(text, at)
        at = _skip(text, at)
        if text[at : at + 1] != b":":
            _fail(at)
        value, at = _value(text, _skip(text, at + 1))
        values[str(key)] = value
        at = _skip(text, at)
        mark = text[at : at + 1]
        if mark == b"}":
            return values, at + 1
        if mark != b",":
            _fail(at)
        at = _skip(text, at + 1)
