"""Redaction: what a feature was does not leave the process.

The other way round than usual: what is not understood is not passed on. A body that cannot be read as V1 or V2 could hold
the value anywhere, so such an event is withheld. What is passed on is built anew from the members that
were read, so that nothing hides in a second key of the same name; values that are not named keep their bytes.
"""

import hashlib
import json
import math
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import msgspec

from reference.category import category
from reference.schema import Model, Schema
from reference.secret import MissingSecret, Secret
from streaming import tensors
from streaming.cloudevents import Event
from streaming.errors import StreamingError
from streaming.logger.settings_events import Redaction
from streaming.protocol import Refused, parse_json

_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_list = msgspec.json.Decoder(list[msgspec.Raw])
_V1 = ("instances", "predictions")
_V2 = ("inputs", "outputs")
_MEMBERS = ("name", "shape", "datatype", "parameters", "data")
"""Of a tensor."""
_DEEPEST = 16
"""Levels in which a name is looked for; what is deeper is withheld, for every level is read again for the one above."""
_SHORTEST_KEY = 16
_OPEN = (0x5B, 0x7B)
"""The bytes that begin a list and an object."""
_STRING_OR_CONSTANT = re.compile(rb'"(?:[^"\\]|\\.)*+"?|-?Infinity|NaN', re.DOTALL)
# Python's clients write these, and JSON has no word for them: while a body is read, a text stands for each that nobody outside can guess.
_TOKEN = secrets.token_hex(16)
_STANDS_FOR = {f"{_TOKEN}{word}": float(word) for word in ("NaN", "Infinity", "-Infinity")}
_CONSTANTS = {f'"{_TOKEN}{word}"'.encode(): word.encode() for word in ("NaN", "Infinity", "-Infinity")}
_STAND_INS = {word: text for text, word in _CONSTANTS.items()}


class Withheld(StreamingError):
    """An event that cannot be redacted, and so does not leave; the text says why, and no value."""


class Drop:
    """The value is gone."""

    def __call__(self, _raw: msgspec.Raw) -> None:
        """Null, whatever it was."""


class Hash:
    """A keyed hash of the category.

    Parameters
    ----------
    feature
        Goes into the hash, so that equal values of two features cannot be told to be equal.
    """

    size: ClassVar[int] = 16
    """Bytes of the hash; it is written in hexadecimal digits."""

    def __init__(self, feature: str, key: bytes) -> None:
        self.feature = feature
        # BLAKE2b takes keys of up to 64 bytes: a longer one counts by its own hash.
        self.key = key if len(key) <= hashlib.blake2b.MAX_KEY_SIZE else hashlib.blake2b(key).digest()

    def of(self, value: Any) -> str | None:
        """The text that stands for a category, None for a missing one; for training tables, too.

        Raises
        ------
        TypeError
            It is no category.

        Examples
        --------
        >>> Hash("carrier", b"sixteen bytes ok").of("UA")
        '59999669f0bb895ed2fb4b137b2e3f1c'
        """
        text = category(value)
        if text is None:
            return None
        message = f"{self.feature}\0{text}".encode()
        return hashlib.blake2b(message, key=self.key, digest_size=self.size).hexdigest()

    def __call__(self, raw: msgspec.Raw) -> str | None:
        """The hash of a JSON value."""
        try:
            value = json.loads(bytes(raw))
            return self.of(_STANDS_FOR.get(value, value) if isinstance(value, str) else value)
        except (TypeError, ValueError, RecursionError):
            raise Withheld(f"{self.feature!r} is no category, so it has no hash") from None


Change = Drop | Hash


class Redactor:
    """Redacts the events of one model.

    Parameters
    ----------
    model
        Says where in a row a feature stands.

    Raises
    ------
    MissingSecret
        A key is not where the settings say, or is too short.
    """

    def __init__(self, model: Model, rules: Sequence[Redaction]) -> None:
        self.changes: dict[str, Change] = {rule.feature: _change(rule) for rule in rules}
        self._schemas: dict[str, Schema] = {
            "instances": model.request_schema,
            "inputs": model.request_schema,
            "predictions": model.response_schema,
            "outputs": model.response_schema,
        }
        self._places: dict[str, dict[int, Change]] = {
            key: {place: self.changes[name] for place, name in enumerate(schema.names) if name in self.changes}
            for key, schema in self._schemas.items()
        }
        self._quoted = [json.dumps(name, ensure_ascii=False).encode() for name in self.changes]

    def redacted(self, event: Event) -> Event:
        """The event as it may leave.

        Raises
        ------
        Withheld
            It may not.
        """
        if not event.data.strip():
            return event
        try:
            return replace(event, data=_Body(self, event.data).redacted())
        except Refused as refused:  # its text would show what was sent
            raise Withheld(
                f"the body cannot be read ({refused.reason}), so it may hold what is to be redacted"
            ) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Withheld("the body is no JSON as V1 or V2 have it, so it may hold what is to be redacted") from None


class _Body:
    """One body."""

    def __init__(self, redactor: Redactor, data: bytes) -> None:
        self.changes = redactor.changes
        self.schemas = redactor._schemas  # noqa: SLF001 - one class in two parts
        self.places = redactor._places  # noqa: SLF001
        head, rest = data, b""
        self.binary: dict[tuple[str, int], memoryview] = {}
        """(list, index) -> the bytes of a binary tensor."""
        self.parsed: Any = None
        if tensors.SIZE.encode() in data:
            head, rest = tensors.split(data)
            self.parsed = parse_json(head)
            pieces = {id(tensor): piece for tensor, piece in tensors.pieces(self.parsed, rest)}
            for key in _V2:
                listed = self.parsed.get(key) if isinstance(self.parsed, dict) else None
                for index, tensor in enumerate(listed if isinstance(listed, list) else ()):
                    if id(tensor) in pieces:
                        self.binary[key, index] = pieces[id(tensor)]
            if rest.strip() and not self.binary:
                raise Withheld("something follows the JSON of the body, and no tensor says that it is its own")
        head.decode()  # msgspec does not ask whether text that it passes is UTF-8
        self.named = b"\\" in head or any(quoted in head for quoted in redactor._quoted)  # noqa: SLF001
        """Whether one of the names can be in the body at all."""
        try:
            self.members = _object.decode(head)
        except msgspec.DecodeError:
            if b"NaN" not in head and b"Infinity" not in head:
                raise
            self.members = _object.decode(
                _STRING_OR_CONSTANT.sub(lambda found: _STAND_INS.get(found[0], found[0]), head)
            )

    def redacted(self) -> bytes:
        if not any(key in self.members for key in (*_V1, *_V2)):
            raise Withheld(f"the body has none of {', '.join((*_V1, *_V2))}, so it may hold anything")
        members: dict[str, Any] = {}
        for key, raw in self.members.items():
            if key in _V1:
                members[key] = self._rows(key, raw)
            elif key in _V2:
                members[key] = self._tensors(key, raw)
            else:
                members[key] = self._member(key, raw)
        head = msgspec.json.encode(members)
        if _TOKEN.encode() in head:
            for stand_in, word in _CONSTANTS.items():
                head = head.replace(stand_in, word)
        return b"".join([head, *self.binary.values()])

    def _member(self, key: str, raw: msgspec.Raw, depth: int = 0) -> Any:
        """The value of a member: changed when it has one of the names, else whatever in it has."""
        change = self.changes.get(key)
        return change(raw) if change is not None else self._deep(raw, depth + 1)

    def _deep(self, raw: msgspec.Raw, depth: int = 0) -> Any:
        first = memoryview(raw)[0]
        if not self.named or first not in _OPEN:
            return raw
        if depth > _DEEPEST:
            raise Withheld(f"the body has more than {_DEEPEST} levels, so a name may hide in it")
        if first == _OPEN[0]:
            return [self._deep(item, depth + 1) for item in _list.decode(raw)]
        return {key: self._member(key, item, depth) for key, item in _object.decode(raw).items()}

    # V1 ---------------------------------------------------------------------------------------------------------------

    def _rows(self, key: str, raw: msgspec.Raw) -> Any:
        places, width = self.places[key], len(self.schemas[key])
        if not places:
            return self._deep(raw)
        rows: list[Any] = []
        for index, row in enumerate(_list.decode(raw)):
            first = memoryview(row)[0]
            if first == _OPEN[1]:
                rows.append(self._deep(row))
            elif first == _OPEN[0]:
                cells = _list.decode(row)
                if len(cells) != width:
                    raise Withheld(
                        f"{key}[{index}] has {len(cells)} values and the model {width} columns: which is which?"
                    )
                rows.append(_changed(cells, places, f"{key}[{index}]"))
            elif width == 1:
                rows.append(places[0](row))
            else:
                raise Withheld(f"{key}[{index}] is one value, and the model has {width} columns")
        return rows

    # V2 ---------------------------------------------------------------------------------------------------------------

    def _tensors(self, key: str, raw: msgspec.Raw) -> list[Any]:
        listed = [_object.decode(tensor) for tensor in _list.decode(raw)]
        names = [_text(tensor.get("name")) for tensor in listed]
        schema, places = self.schemas[key], self.places[key]
        found: list[Any] = []
        for index, (tensor, name) in enumerate(zip(listed, names, strict=True)):
            where = f"{key}[{index}]"
            shape = _shape(tensor)
            width = len(schema)
            if name in self.changes:
                change = self.changes[name]
                cells = [change(cell) for cell in self._flat(key, index, tensor, shape, where)]
                if isinstance(change, Hash):
                    tensor["datatype"] = msgspec.Raw(b'"BYTES"')
                found.append(self._with_data(key, index, tensor, cells))
            elif places and width > 1 and shape is not None and len(shape) == 2 and shape[1] == width:
                flat = self._flat(key, index, tensor, shape, where)
                rows = [_changed(flat[at : at + width], places, where) for at in range(0, len(flat), width)]
                found.append(self._with_data(key, index, tensor, [cell for row in rows for cell in row]))
            elif places and width == 1 and len(listed) == 1:
                cells = [places[0](cell) for cell in self._flat(key, index, tensor, shape, where)]
                found.append(self._with_data(key, index, tensor, cells))
            elif not places or any(name in schema.names for name in names):
                found.append({member: self._of_tensor(member, item) for member, item in tensor.items()})
            else:
                raise Withheld(f"{where} is neither named like a column of the model nor of shape [n, {width}]")
        return found

    def _of_tensor(self, member: str, raw: msgspec.Raw) -> Any:
        """A member of a tensor: that a feature is called `name` or `data` says nothing about those that make a tensor."""
        return self._deep(raw) if member in _MEMBERS else self._member(member, raw)

    def _flat(
        self, key: str, index: int, tensor: Mapping[str, msgspec.Raw], shape: list[int] | None, where: str
    ) -> list[msgspec.Raw]:
        """The elements of a tensor, row-major."""
        if shape is None or len(shape) not in (1, 2):
            raise Withheld(f"{where} has no shape of one or two sizes")
        piece = self.binary.get((key, index))
        if piece is not None:
            return [_raw(value) for value in tensors.decoded(self.parsed[key][index], piece)]
        if "data" not in tensor:
            raise Withheld(f"{where} has no data")
        cells = _list.decode(tensor["data"])
        if len(shape) == 2 and len(cells) == shape[0] and all(memoryview(cell)[0] == _OPEN[0] for cell in cells):
            cells = [cell for row in cells for cell in _list.decode(row)]
        if len(cells) != math.prod(shape) or any(memoryview(cell)[0] in _OPEN for cell in cells):
            raise Withheld(f"{where} has other data than its shape says")
        return cells

    def _with_data(self, key: str, index: int, tensor: Mapping[str, msgspec.Raw], cells: list[Any]) -> dict[str, Any]:
        """The tensor with other elements, in JSON also where they were bytes: bytes know no null."""
        written: dict[str, Any] = {
            member: self._of_tensor(member, item)
            for member, item in tensor.items()
            if member not in ("data", "parameters")
        }
        if "parameters" in tensor:
            parameters = tensor["parameters"]
            if self.binary.pop((key, index), None) is not None:
                left = {name: item for name, item in _object.decode(parameters).items() if name != tensors.SIZE}
                written["parameters"] = {name: self._member(name, item) for name, item in left.items()}
            else:
                written["parameters"] = self._deep(parameters)
        written["data"] = cells
        return written


def _changed(cells: list[msgspec.Raw], places: Mapping[int, Change], where: str) -> list[Any]:
    if any(memoryview(cell)[0] in _OPEN for cell in cells):
        raise Withheld(f"{where} has lists or objects where a row has values")
    return [places[place](cell) if place in places else cell for place, cell in enumerate(cells)]


def _raw(value: Any) -> msgspec.Raw:
    """An element of a binary tensor as JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        word = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        return msgspec.Raw(_STAND_INS[word.encode()])
    return msgspec.Raw(json.dumps(value).encode())


def _text(raw: msgspec.Raw | None) -> str | None:
    value = None if raw is None else msgspec.json.decode(raw)
    return value if isinstance(value, str) else None


def _shape(tensor: Mapping[str, msgspec.Raw]) -> list[int] | None:
    value = msgspec.json.decode(tensor["shape"]) if "shape" in tensor else None
    if isinstance(value, list) and all(type(size) is int and size >= 0 for size in value):
        return value
    return None


def _change(rule: Redaction) -> Change:
    if rule.key is None:
        return Drop()
    return Hash(rule.feature, key_of(rule.key, rule.feature))


def key_of(secret: Secret, feature: str) -> bytes:
    """The key of a hash; raises MissingSecret when it is not there, or short enough to be guessed."""
    what = f"the key of the hash of {feature!r} (spec.logger.redact)"
    key = secret.read(what).encode()
    if len(key) < _SHORTEST_KEY:
        raise MissingSecret(
            f"{what} has {len(key)} bytes: give at least {_SHORTEST_KEY}, for instance 32 random hexadecimal digits"
        )
    return key
