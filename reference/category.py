"""The text of a category: one and the same for a cell of a training table and for a value of a message."""

import hashlib
import math
from typing import Any

LONGEST = 200
"""Characters of a category that is kept as it is."""
_KEPT = 150
_DIGITS = 8


def category(value: Any) -> str | None:
    """The canonical text of a value of a categorical column; None for a missing one.

    Whole numbers are written without a fraction, so that 3 and 3.0 are one category. NaN is missing: it is what a data
    frame holds, and a Python client sends, where a text is missing.

    Raises
    ------
    TypeError
        For what is neither text, a number, a boolean nor None, and for text that is not Unicode.
    """
    if isinstance(value, str):
        if not is_unicode(value):
            raise TypeError
        return shortened(value)
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return shortened(int.__repr__(value))
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    raise TypeError


def shortened(text: str) -> str:
    """The text itself, or of one longer than 200 characters the first 150 and a hash of all, so that records stay small.

    >>> shortened("Oslo")
    'Oslo'
    >>> shortened("x" * 1000)[145:]
    'xxxxx…#bc9c81e1'
    """
    if len(text) <= LONGEST:
        return text
    return f"{text[:_KEPT]}…#{hashlib.blake2b(text.encode(), digest_size=_DIGITS // 2).hexdigest()}"


def is_unicode(text: str) -> bool:
    """Whether the text can be written as UTF-8: it has no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
