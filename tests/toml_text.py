"""Writes TOML, which the library reads only."""

import json
from collections.abc import Mapping


def toml_text(data: Mapping[str, object]) -> str:
    """A line a key; tables inside are written in braces. `TypeError` for None, which TOML has not."""
    return "".join(f"{json.dumps(name)} = {_value(value)}\n" for name, value in data.items())


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(name)} = {_value(below)}" for name, below in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    if value is None:
        raise TypeError("TOML has no null")
    return json.dumps(value, ensure_ascii=False)
