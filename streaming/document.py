"""A YAML document that knows its lines, and what is wrong with it in words: line, path, value and what would do.

Pydantic finds the problems; here they become sentences that a person can act on, one line each. Branches of a union that
were merely tried, and consequences of a problem that is reported already, are left out.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic_core import ErrorDetails, PydanticCustomError

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a document."""

    origin: str
    """The file's name."""
    line: int | None
    """Where it is, or where the mapping is that lacks it; counted from 1."""
    path: str
    """For example ``spec.model.features[2].type``; empty for the document itself."""
    text: str
    """The value and what would do."""

    def __str__(self) -> str:
        where = self.origin if self.line is None else f"{self.origin}:{self.line}"
        return f"{where}: {self.path}: {self.text}" if self.path else f"{where}: {self.text}"


class NotADocument(Exception):
    """A text that is no single YAML document with unique keys."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class Document:
    """One YAML document, with the place of everything in it.

    Raises
    ------
    NotADocument
        When the text is not YAML, holds several documents, or the same key twice in one mapping, of which YAML's readers
        would silently take the last.
    """

    def __init__(self, text: str, origin: str) -> None:
        self.origin = origin
        loader = None
        try:
            loader = yaml.SafeLoader(text)
            self._root: yaml.Node | None = loader.get_single_node()
            self._refuse_twins(self._root, set())
            self.value: Any = None if self._root is None else loader.construct_document(self._root)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            said = ", ".join(part for part in (error.context, error.problem) if part)
            if "expected a single document" in said:
                said = "there are several documents: put each ModelMonitor into a file of its own"
            raise NotADocument(self._problem(mark.line + 1 if mark else None, (), f"is not YAML: {said}")) from None
        except (yaml.YAMLError, RecursionError, ValueError) as error:  # a date such as 2024-13-45 is a ValueError
            raise NotADocument(self._problem(None, (), f"is not YAML: {' '.join(str(error).split())}")) from None
        finally:
            if loader is not None:
                loader.dispose()

    def line(self, path: Path) -> int | None:
        """The line of the key at this path, or of the nearest thing around it."""
        at = None if self._root is None else self._root.start_mark.line + 1
        for _, mark in self._walk(path):
            at = mark.line + 1
        return at

    def raw(self, path: Path) -> str | None:
        """What stands at this path, as it was written; None unless it is a plain or quoted scalar."""
        node = self._root
        steps = 0
        for node, _ in self._walk(path):  # noqa: B007 - the last one counts
            steps += 1
        return node.value if steps == len(path) and isinstance(node, yaml.ScalarNode) else None

    def _walk(self, path: Path) -> Iterator[tuple[yaml.Node, Any]]:
        """Value and place of each step of a path, as far as the document goes."""
        node = self._root
        for step in path:
            if isinstance(node, yaml.MappingNode):
                found = next(((k, v) for k, v in node.value if getattr(k, "value", None) == str(step)), None)
                if found is None:
                    return
                place, node = found[0].start_mark, found[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
                node = node.value[step]
                place = node.start_mark
            else:
                return
            yield node, place

    def _refuse_twins(self, node: yaml.Node | None, seen: set[int]) -> None:
        if node is None or id(node) in seen:  # an alias is the same node again, and may stand in itself
            return
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self._refuse_twins(item, seen)
        elif isinstance(node, yaml.MappingNode):
            lines: dict[Any, int] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                    if key.value in lines:
                        text = f"the key {key.value!r} is there twice, first in line {lines[key.value]}: remove one of them"
                        raise NotADocument(self._problem(line, (), text))
                    lines[key.value] = line
                self._refuse_twins(value, seen)

    def _problem(self, line: int | None, path: Path, text: str) -> Problem:
        return Problem(self.origin, line, path_text(path), text)


def misplaced(path: Sequence[str | int], text: str) -> PydanticCustomError:
    """An error to raise in a validator: what is wrong is at `path`, seen from the section that the validator is of."""
    # The text goes by the context, where braces are only braces.
    return PydanticCustomError("misplaced", "{text}", {"path": list(path), "text": text})


def path_text(path: Path) -> str:
    """``("features", 2, "type")`` is ``features[2].type``."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


def in_words(errors: Sequence[ErrorDetails], document: Document, schema: Mapping[str, Any]) -> list[Problem]:
    """What pydantic found, in words, in the order of the document's lines.

    Parameters
    ----------
    schema
        JSON Schema of the document, which knows what would do.
    """
    found = [_Found(error, document, schema) for error in errors]
    said: dict[str, Problem] = {}
    for one in found:
        if any(one.follows_from(other) for other in found if other is not one):
            continue
        problem = Problem(document.origin, document.line(one.path), path_text(one.path), one.text(found))
        # The model's name is filled in from the metadata, so what is wrong with one is wrong with both.
        said.setdefault(problem.text if not one.whole else str(problem), problem)
    texts = {problem.text for key, problem in said.items() if key == str(problem)}
    kept = [problem for key, problem in said.items() if key == str(problem) or problem.text not in texts]
    return sorted(kept, key=lambda problem: problem.line or 0)


class _Found:
    """One error of pydantic, looked up in the document and in its schema."""

    def __init__(self, error: ErrorDetails, document: Document, schema: Mapping[str, Any]) -> None:
        self.error = error
        self.type = error["type"]
        self.context: dict[str, Any] = error.get("ctx", {})
        self.schema = schema
        self.loc: Path = tuple(error["loc"])
        self.path = self._in_document(document.value)
        self.raw = document.raw(self.path)

    @property
    def whole(self) -> bool:
        """Whether pydantic's location is a path in the document."""
        return self.path == self.loc

    def _in_document(self, here: Any) -> Path:
        """The location without the steps that only pydantic knows: branches of unions, names of validators."""
        steps: list[str | int] = []
        for step in self.loc:
            inside = isinstance(here, dict) and step in here
            if inside or (isinstance(here, list) and isinstance(step, int) and step < len(here)):
                here = here[step]
                steps.append(step)
            elif self.type in {"missing", "extra_forbidden"} and step == self.loc[-1]:
                steps.append(step)
        if "path" in self.context:  # a validator that knows better
            steps.extend(self.context["path"])
        return tuple(steps)

    def follows_from(self, other: "_Found") -> bool:
        """Whether this would not be there without the other one."""
        beneath = other.path[: len(self.path)] == self.path
        if self.type == "literal_error" and not self.whole:  # the other branch of `one of these objects, or 'auto'`
            deeper = len(other.path) > len(self.path)
            return beneath and (deeper or not (other.type == "literal_error" and not other.whole))
        # Pydantic counts only the members that are right.
        return self.type == "too_short" and beneath and len(other.path) > len(self.path)

    def text(self, all_found: Sequence["_Found"]) -> str:
        """Value and what would do."""
        limit = next((text for key, text in _LIMITS.items() if key in self.context), None)
        if self.type == "extra_forbidden":
            return f"is an unknown key{self._what_is_known()}"
        if self.type == "missing":
            return f"is missing: add it{self._what_it_is()}"
        if self.type in {"value_error", "assertion_error"} or "path" in self.context:
            return self._of_a_validator(all_found)
        if self.type in {"literal_error", "enum"}:
            return self._one_of([str(name).strip("'") for name in self._expected()])
        if self.type in _PLACES:
            return self._wrong_shape()
        if self.type in {"too_short", "string_too_short"}:
            return f"is empty: it needs at least {self.context['min_length']}{self._what_it_is()}"
        if self.type == "string_pattern_mismatch":
            return f"{self._shown()} is not of the form {self.context['pattern']}{self._what_it_is()}"
        if self.type == "finite_number":
            return f"{self._shown()} is not a finite number: leave it out where there is no bound"
        if limit is not None and self.type in _COMPARISONS:
            bound = next(self.context[key] for key in _LIMITS if key in self.context)
            return f"{self._shown()} is out of range: it must be {limit} {bound:g}{self._what_it_is()}"
        said = self.error["msg"]
        return f"{self._shown()}: {said[0].lower()}{said[1:]}"

    def _of_a_validator(self, all_found: Sequence["_Found"]) -> str:
        text = (
            str(self.context.get("text", self.error["msg"]))
            .removeprefix("Value error, ")
            .removeprefix("Assertion failed, ")
        )
        if "known are: " in text:  # by a catalogue, which does not know what else the place takes
            more = [
                other.context["expected"]
                for other in all_found
                if other.type == "literal_error" and not other.whole and other.path == self.path
            ]
            text = ", ".join([text, *(str(name).strip("'") for name in more)])
        return text

    def _expected(self) -> list[str]:
        """The members of a Literal, as pydantic lists them in prose: ``'a', 'b' or 'c'``."""
        return str(self.context["expected"]).replace(" or ", ", ").split(", ")

    def _one_of(self, known: list[str]) -> str:
        value = str(self.error["input"])
        if len(known) == 1:
            return f"{self._shown()} is not what belongs here: write {known[0]}"
        near = difflib.get_close_matches(value, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"{self._shown()} is not known here: {hint}known are: {', '.join(known)}"

    def _wrong_shape(self) -> str:
        wanted = _PLACES[self.type]
        value = self.error["input"]
        here = self._schema_here()
        names = [
            name for option in here.get("anyOf", ()) for name in [*option.get("enum", ()), option.get("const")] if name
        ]
        if names:
            return f"{_kind(value)} is no name: known are: {', '.join(names)}"
        if value is None:
            needed = self.path[-1:] and self.path[-1] in self._schema_here(self.path[:-1]).get("required", ())
            return (
                f"is empty: it takes {wanted}{self._what_it_is()}{'' if needed else ', or remove it for the default'}"
            )
        if wanted == _TEXT and self.raw is not None:
            return f"{self.raw} is read as {_kind(value)}, and belongs in quotes: '{self.raw}'"
        if wanted == _LIST and not isinstance(value, list | dict):
            return f"{self._shown()} is {_kind(value)}, and a list belongs here: write [{self.raw or value}]"
        if wanted == _MAPPING:
            keys = ", ".join(here.get("properties", ()))
            # Not the value: it may be a password that was written where the place of one belongs.
            return f"is {_kind(value)}, and a mapping belongs here{f' with the keys {keys}' if keys else ''}"
        if isinstance(value, list | dict):
            return f"is {_kind(value)}, and {wanted} belongs here{self._what_it_is()}"
        return f"{self._shown()} is not {wanted}{self._what_it_is()}"

    def _shown(self) -> str:
        value = self.error["input"]
        return repr(value) if isinstance(value, str | int | float | bool) else _kind(value)

    def _what_it_is(self) -> str:
        """The first sentence of the field's own description."""
        description = " ".join(str(self._field().get("description", "")).split())
        choice = self._field().get("enum")
        if choice and self.type == "missing":
            return f", one of {', '.join(map(str, choice))}"
        sentence = description.partition(". ")[0].rstrip(".")
        return f" ({sentence[0].lower() if sentence[1:2].islower() else sentence[0]}{sentence[1:]})" if sentence else ""

    def _what_is_known(self) -> str:
        """The nearest key that exists here, else where the key belongs, else all keys of this place."""
        key, here = str(self.loc[-1]), self._schema_here(self.path[:-1])
        known = list(here.get("properties", ()))
        folded = {name.casefold(): name for name in known}
        near = folded.get(key.replace("_", "").casefold()) or next(
            iter(difflib.get_close_matches(key, known, n=1)), None
        )
        if near is not None:
            return f": did you mean {near!r}?"
        elsewhere = [path for path in _paths(self.schema, self.schema) if path[-1] == key]
        if len(elsewhere) == 1:
            return f" here: it belongs to {path_text(elsewhere[0][:-1]) or 'the top'}"
        return f": this place takes {', '.join(known)}" if known else ": remove it"

    def _field(self) -> Mapping[str, Any]:
        """The schema of the field itself, with its own description rather than that of its type."""
        if not self.path or isinstance(self.path[-1], int):
            return {}
        here = self._schema_here(self.path[:-1])
        field: Mapping[str, Any] = here.get("properties", {}).get(self.path[-1], {})
        return field

    def _schema_here(self, path: Path | None = None) -> Mapping[str, Any]:
        """The schema of what belongs at a path; of a detector, that of the one which is named there."""
        here: Mapping[str, Any] = self.schema
        tags = [step for step in self.loc if isinstance(step, str)]
        for step in self.path if path is None else path:
            here = _resolved(here, self.schema, tags)
            if isinstance(step, int):
                here = here.get("items", {})
            else:
                here = here.get("properties", {}).get(step) or here.get("additionalProperties") or {}
            if not isinstance(here, Mapping):
                return {}
        return _resolved(here, self.schema, tags)


def _resolved(here: Mapping[str, Any], schema: Mapping[str, Any], tags: Sequence[str] = ()) -> Mapping[str, Any]:
    """Behind references, `or null`, and the branch of a union that the tags choose."""
    while True:
        if "$ref" in here:
            here = schema["$defs"][here["$ref"].rpartition("/")[2]]
            continue
        mapping = here.get("discriminator", {}).get("mapping", {})
        tag = next((tag for tag in tags if tag in mapping), None)
        if tag is not None:
            here = {"$ref": mapping[tag]}
            continue
        options = here.get("anyOf", ())
        inner = next((option for option in options if tags and _leads_to(option, tags)), None)
        if inner is None and not any("enum" in option for option in options):
            inner = next(
                (option for option in options if "$ref" in option or option.get("type") in {"array", "object"}), None
            )
        if inner is None:
            return here
        here = inner


def _leads_to(option: Mapping[str, Any], tags: Sequence[str]) -> bool:
    """Whether a branch holds, at some depth, the union that one of the tags chooses from."""
    if any(tag in option.get("discriminator", {}).get("mapping", {}) for tag in tags):
        return True
    return any(_leads_to(deeper, tags) for deeper in option.get("anyOf", ()))


def _paths(
    here: Mapping[str, Any], schema: Mapping[str, Any], around: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    """Every path of keys that a document may have, without what is in lists."""
    here = _resolved(here, schema)
    for name, inner in here.get("properties", {}).items():
        yield (*around, name)
        yield from _paths(inner, schema, (*around, name))


_TEXT, _LIST, _MAPPING = "a text", "a list", "a mapping"
_PLACES = {
    "string_type": _TEXT,
    "tuple_type": _LIST,
    "list_type": _LIST,
    "dict_type": _MAPPING,
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "float_type": "a number",
    "float_parsing": "a number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "path_type": "a path",
}
"""Pydantic's type of error -> what belongs in such a place."""

_LIMITS = {"le": "at most", "lt": "less than", "ge": "at least", "gt": "more than"}
_COMPARISONS = {"less_than_equal", "less_than", "greater_than_equal", "greater_than"}


def _kind(value: Any) -> str:
    """What YAML took it for."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case int():
            return "a whole number"
        case float():
            return "a number"
        case str():
            return "a text"
        case list() | tuple():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return f"a {type(value).__name__}"  # a date, a set
