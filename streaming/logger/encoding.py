"""Compressed bodies: gzip, undone piece by piece, never beyond the limit."""

import zlib

from streaming.cloudevents import InvalidEvent, UnsupportedEvent

_READ = "gzip or identity"


class TooLong(InvalidEvent):
    """There is more in the body than a body may have."""


def content_encoding(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether a body is compressed by gzip, by its headers (names in lower case).

    Raises
    ------
    UnsupportedEvent
        It is in another encoding, or in several.
    """
    named = [
        coding
        for name, value in headers
        if name == b"content-encoding"
        for part in value.split(b",")
        if (coding := part.strip().lower()) not in {b"", b"identity"}
    ]
    if not named:
        return False
    if len(named) == 1 and named[0] in {b"gzip", b"x-gzip"}:
        return True
    shown = b", ".join(named)[:80].decode("latin-1")
    raise UnsupportedEvent(f"content-encoding {shown!r} is not read here: send {_READ}")


def gunzipped(body: bytes, max_bytes: int) -> bytes:
    """The body behind gzip; never more than one byte beyond the limit is made of it, whatever it claims to hold.

    Raises
    ------
    TooLong
        It holds more than `max_bytes`.
    InvalidEvent
        It is no gzip, is cut off, or something follows it: a second member, too, for thousands of empty ones cost much and say nothing.
    """
    stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        unpacked = stream.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise InvalidEvent(f"the body is no gzip, though content-encoding says so: {error}") from None
    if len(unpacked) > max_bytes:
        raise TooLong(f"the body is larger than {max_bytes} bytes when it is unpacked")
    if not stream.eof:
        raise InvalidEvent("the body is gzip that was cut off")
    if stream.unused_data:
        raise InvalidEvent(f"{len(stream.unused_data)} bytes follow the end of the body's gzip: send one member")
    return unpacked
