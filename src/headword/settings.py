"""Typed settings from files, `key=value` words and flags; a mistake is one line: what, where, the mend."""

from __future__ import annotations

import json
import math
import os
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, create_model, field_validator
from typing_extensions import Self

from headword.errors import HeadwordError, near
from headword.files import expand, parse_json, read_text

LARGEST_FILE = 1 << 18  # bytes of a file of settings

_KINDS = {
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "string": "a text",
    "array": "a list",
}
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


class Settings(BaseModel):
    """Settings with types, ranges and choices, which never change; strings are read as their types.

    Raises:
        HeadwordError: for a setting that does not exist, is missing, or has a value that cannot be meant.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True, allow_inf_nan=False)

    supersedes: ClassVar[Mapping[str, str]] = {}
    """Setting → another that it takes the place of: given later, it drops the other of an earlier source."""

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise HeadwordError(_mistake(type(self), error)) from error

    @classmethod
    def from_sources(
        cls, file: str | os.PathLike[str] | None = None, sets: Iterable[str] = (), **flags: Any
    ) -> Self:
        """From a file, then `key=value` words, then flags, where None means not given; later ones win."""
        values: dict[str, Any] = {}
        where: dict[str, str] = {}
        for source, name in (
            (read_settings(file) if file is not None else {}, f"{file}: "),
            (words(sets), "--set: "),
            ({name: value for name, value in flags.items() if value is not None}, ""),
        ):
            for setting in cls.supersedes.keys() & source.keys():
                values.pop(cls.supersedes[setting], None)
            values |= source
            where |= dict.fromkeys(source, name)
        try:
            return cls(**values)
        except HeadwordError as error:
            cause = error.__cause__
            at = str(cause.errors()[0]["loc"][0]) if isinstance(cause, ValidationError) else ""
            raise HeadwordError(f"{where.get(at, '')}{error}") from error

    def replace(self, **changes: Any) -> Self:
        """The same settings but for these."""
        return type(self)(**{**dict(self), **changes})

    def as_dict(self) -> dict[str, Any]:
        """All settings by name, as JSON can hold them."""
        return self.model_dump(mode="json")

    def as_yaml(self) -> str:
        """All settings, as `from_sources` reads them."""
        text: str = yaml.safe_dump(self.as_dict(), sort_keys=False)
        return text

    @field_validator("*", mode="before")
    @classmethod
    def _read(cls, value: Any, info: ValidationInfo) -> Any:
        """A value as YAML, JSON or a command line have it, as pydantic takes it."""
        rule, optional = _rule(cls, str(info.field_name))
        kind, text = rule.get("type"), isinstance(value, str)
        if text and optional and value.lower() in ("none", "null"):
            return None
        if text and kind == "array":
            return json.loads(value)
        if value is None or kind not in ("integer", "number"):
            return value
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, OverflowError):
            number = math.nan
        if math.isnan(number):
            raise ValueError("not a number")
        # YAML has 1e-3 as a string; a long whole number is not a float's.
        exact = not text or value.strip().lstrip("+-").isdecimal()
        return value if exact else int(number) if kind == "integer" and number.is_integer() else number


@cache
def settings_of(kind: type) -> type[Settings]:
    """The settings that the arguments of a dataclass are, by their annotations and defaults."""
    types = typing.get_type_hints(kind, include_extras=True)
    arguments: dict[str, Any] = {
        one.name: (types[one.name], ... if one.default is MISSING else one.default)
        for one in fields(kind)
        if one.init
    }
    return create_model(kind.__name__, __base__=Settings, **arguments)


def words(sets: Iterable[str]) -> dict[str, str]:
    """Words "key=value" → values by name."""
    values = {}
    for word in sets:
        name, equals, value = (part.strip() for part in word.partition("="))
        if not equals or not name:
            raise HeadwordError(f"--set takes key=value, not {word!r}; write NAME=VALUE")
        values[name] = value
    return values


def read_settings(file: str | os.PathLike[str]) -> dict[str, Any]:
    """What a file of settings holds: JSON or, of plain values and lists alone, YAML."""
    path = expand(Path(file))
    text = read_text(path, limit=LARGEST_FILE)
    try:
        if path.suffix.lower() == ".json":
            values = parse_json(text, str(path))
        else:
            _check_plain(text, path)
            values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # dates, long numbers are no YAMLError
        reason = " ".join(str(error).split())
        raise HeadwordError(f"{path} is not valid YAML: {reason[:300]}") from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise HeadwordError(f"{path} must hold options and values: lines of key: value")
    return values


def _check_plain(text: str, path: Path) -> None:
    """Refuse YAML that has a name twice, or holds more than names, plain values and lists of these."""
    lines: dict[str, int] = {}
    depth, name = 0, None
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if (
            (isinstance(event, yaml.MappingStartEvent) and (depth != 1 or lines))
            or (isinstance(event, yaml.SequenceStartEvent) and (depth != 2 or name is None))
            or (getattr(event, "anchor", None) and not isinstance(event, yaml.ScalarEvent))
            or getattr(event, "tag", None) is not None
        ):
            raise HeadwordError(
                f"{path}:{line} must hold options and values: lines of key: value; no lists, mappings, "
                "references or tags within a value"
            )
        if depth == 1 and isinstance(event, yaml.ScalarEvent | yaml.SequenceEndEvent):
            if name is not None:  # this is its value
                name = None
                continue
            name = event.value
            if name in lines:
                raise HeadwordError(
                    f"{path}:{line} gives {_shown(name)} again, which line {lines[name]} has; keep one"
                )
            lines[name] = line


@cache
def _schema(settings: type[Settings]) -> dict[str, Any]:
    properties: dict[str, Any] = settings.model_json_schema()["properties"]
    return properties


def _rule(settings: type[Settings], name: str) -> tuple[dict[str, Any], bool]:
    """A setting's type and bounds in the words of JSON Schema, and whether it may be none."""
    rules = _schema(settings)[name]
    rules = rules.get("anyOf", [rules])
    return next(rule for rule in rules if rule.get("type") != "null"), len(rules) > 1


def _mistake(settings: type[Settings], errors: ValidationError) -> str:
    """The first of pydantic's errors in one line."""
    error = errors.errors(include_url=False)[0]
    name, kind, value, bounds = str(error["loc"][0]), error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return f"there is no option {_shown(name)}{near(name[:80], settings.model_fields, n=1)}"
    if kind == "missing":
        return f"{name} is missing"
    rule, optional = _rule(settings, name)
    bound = next((word for word in _BOUNDS if word in bounds), None)
    what, hint = _KINDS.get(str(rule.get("type")), "something else"), ""
    if choices := rule.get("enum"):
        what, hint = f"one of {', '.join(choices)}", near(str(value)[:80], choices, n=1)
    elif bound and rule.get("maximum", math.inf) <= 1 and "minimum" in rule:
        what = f"between {rule['minimum']:g} and {rule['maximum']:g}"
    elif bound:
        what = f"{_BOUNDS[bound]} {bounds[bound]:,.15g}"
    elif "multiple_of" in bounds:
        what = f"a multiple of {bounds['multiple_of']}"
    elif kind == "finite_number" and rule["type"] == "number":
        what = "finite"
    elif optional:
        what += " or none"
    return f"{name} must be {what}, not {_shown(value)}{hint}"


def _shown(value: object) -> str:
    """A value in a message, however long it is."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return f"a {type(value).__name__} too long to show"
    return text if len(text) <= 80 else f"{text[:77]}…"
