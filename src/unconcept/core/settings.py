"""Frozen dataclasses from recipes and flags, checked. The only configuration code in the library."""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import ConfigDict, TypeAdapter, ValidationError

from .errors import RecipeError, SettingsError, require

T = TypeVar("T")
STRICT = ConfigDict(strict=True, allow_inf_nan=False)


def build(kind: type[T], values: Mapping[str, Any], noun: str = "setting") -> T:
    """`kind(**values)` with every name and type checked; an unknown name says which was probably meant."""
    assert is_dataclass(kind)
    known = [field.name for field in fields(kind)]
    for name in values:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        require(name in known, f"unknown {noun} {name!r}; {hint}Known: {', '.join(known) or 'none'}")
    try:
        checked = {f.name: _checked(f.type, values[f.name]) for f in fields(kind) if f.name in values}
    except ValidationError as error:
        first = error.errors()[0]
        name = next(n for n, v in values.items() if v is first["input"] or v == first["input"] or _holds(v, first["input"]))
        raise SettingsError(f"{noun} {name} = {values[name]!r}: {first['msg'].lower()}") from None
    return kind(**checked)


def _checked(annotation: Any, value: Any) -> Any:
    """`value` as the annotation wants it; whole numbers pass as floats, lists as tuples, nothing else is converted."""
    return TypeAdapter(annotation, config=STRICT).validate_python(tuple(value) if isinstance(value, list) else value)


def _holds(value: Any, part: Any) -> bool:
    return isinstance(value, (list, tuple)) and part in value


def parse_assignment(text: str) -> tuple[str, Any]:
    """`NAME=VALUE` from a flag; VALUE is TOML where it can be, a bare word is a string."""
    name, equals, value = text.partition("=")
    require(bool(equals and name), f"--set {text!r}: write NAME=VALUE")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file, or `RecipeError` with the place of the mistake."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"recipe {path}: {error.strerror or error}; give a TOML file that can be read") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecipeError(f"recipe {path}: {error or 'nested too deeply'}; a recipe is a TOML file in UTF-8") from None


def dump(settings: Any) -> dict[str, Any]:
    """A settings dataclass as plain data: strings, numbers, lists. None is left out, as TOML has none."""
    return {n: list(v) if isinstance(v, tuple) else v for n, v in asdict(settings).items() if v is not None}


def to_toml(data: Mapping[str, Any]) -> str:
    """Plain data as TOML text."""
    return tomli_w.dumps(data)
