"""Builds checked, frozen dataclasses from layers: default < recipe < --set < flag. The only configuration code."""

import inspect
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, asdict, dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import cache, wraps
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from .errors import RecipeError, SettingsError, require
from .registry import known_names
from .regular_files import require_regular_file

SettingLayer = Literal["default", "recipe", "--set", "flag"]
_T = TypeVar("_T")
_STRICT_CONFIG = ConfigDict(strict=True, allow_inf_nan=False)


def build_settings(kind: type[_T], values: Mapping[str, object], noun: str = "setting") -> _T:
    """Return `kind(**values)` after checking every name and type; the error for an unknown name suggests a near one."""
    require_known_names(kind, values, noun)
    return kind(**_checked_values(kind, values, noun))


def require_known_names(kind: type, names: Iterable[str], noun: str = "setting") -> None:
    """Raise `SettingsError` for a name that is no field of a dataclass, with a suggestion."""
    assert is_dataclass(kind)
    known = [field.name for field in fields(kind)]
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise SettingsError(f"unknown {noun} {name!r}; {known_names(near, known)}")


def refuse_wrong_types(kind: type, noun: str) -> None:
    """Make a dataclass check names and types wherever it is built, as `build_settings` does, before its own checks."""
    build: Callable[..., None] = vars(kind)["__init__"]
    signature = inspect.signature(build)

    @wraps(build)
    def checked_build(self: object, *args: object, **given: object) -> None:
        require_known_names(kind, given, noun)
        try:
            named = signature.bind(self, *args, **given).arguments
        except TypeError as error:
            raise SettingsError(f"{noun}: {error}") from None
        values = {name: value for name, value in named.items() if name != "self"}
        build(self, **_checked_values(kind, values, noun))

    type.__setattr__(kind, "__init__", checked_build)


def _checked_values(kind: type, values: Mapping[str, object], noun: str) -> dict[str, object]:
    return {field.name: _checked(noun, field, values[field.name]) for field in fields(kind) if field.name in values}


def accepts_value(kind: type, name: str, value: object) -> bool:
    """Whether the type of the setting `name` allows the value. Ranges and other settings are not checked."""
    field = next((field for field in fields(kind) if field.name == name), None)
    if field is None:
        return False
    try:
        _checked("setting", field, value)
    except SettingsError:
        return False
    return True


def _checked(noun: str, field: Field[Any], value: object) -> Any:
    """`value` in the annotated type. Only whole numbers become floats and lists become tuples."""
    try:
        annotation: Any = field.type
        return _validator(annotation).validate_python(tuple(value) if isinstance(value, list) else value)
    except ValidationError as error:
        raise SettingsError(f"{noun} {field.name} = {value!r}: {error.errors()[0]['msg'].lower()}") from None


@cache
def _validator(annotation: Any) -> TypeAdapter[Any]:
    """Return the validator of a type. It is kept: to build one takes far longer than to ask it."""
    return TypeAdapter(annotation, config=_STRICT_CONFIG)


def parse_assignment(text: str, flag: str = "--set") -> tuple[str, Any]:
    """Parse `NAME=VALUE` from a flag. VALUE is read as TOML if it is valid TOML, and as a string otherwise."""
    name, equals, value = text.partition("=")
    require(bool(equals and name), f"{flag} {text!r}: write NAME=VALUE")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; `RecipeError` gives the line of a mistake."""
    require_regular_file(path, RecipeError)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"recipe {path}: {error.strerror or error}; give a readable TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecipeError(f"recipe {path}: {error or 'nested too deeply'}; a recipe is a TOML file in UTF-8") from None


def settings_data(settings: Any) -> dict[str, Any]:
    """A settings dataclass as plain data: strings, numbers, lists. None is left out, because TOML has no null."""
    return {n: list(v) if isinstance(v, tuple) else v for n, v in asdict(settings).items() if v is not None}


def default_settings(kind: type) -> dict[str, Any]:
    """The default of each field of a dataclass, by name."""
    return {field.name: field.default for field in fields(kind)}


@dataclass(frozen=True)
class LayeredValue:
    """A value and the layer it comes from."""

    value: Any
    layer: SettingLayer


def merge_layers(*layers: tuple[SettingLayer, Mapping[str, object]]) -> dict[str, LayeredValue]:
    """For each name, the value of the last layer that sets it; None counts as not set."""
    return {
        name: LayeredValue(value, layer)
        for layer, values in layers
        for name, value in values.items()
        if value is not None
    }


def layered_values(given: Mapping[str, LayeredValue]) -> dict[str, Any]:
    """The values by name, without their layers."""
    return {name: one.value for name, one in given.items()}
