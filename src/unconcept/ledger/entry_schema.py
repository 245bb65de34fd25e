"""What an entry of each kind holds: one that was written by hand, or by another library, is named before anything reads
it.
"""

from collections.abc import Callable, Mapping
from typing import Any

_EntrySchema = Mapping[str, Callable[[Any], bool]]


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _whole(value: Any) -> bool:
    return type(value) is int


def _table(value: Any) -> bool:
    return isinstance(value, dict)


def _of(form: _EntrySchema) -> Callable[[Any], bool]:
    """A table that holds at least this."""
    return lambda value: isinstance(value, dict) and not _lacking(value, form)


def _rows(form: _EntrySchema) -> Callable[[Any], bool]:
    """A list of such tables."""
    fits = _of(form)
    return lambda value: isinstance(value, list) and all(fits(one) for one in value)


def _named(form: _EntrySchema) -> Callable[[Any], bool]:
    """A table of such tables."""
    fits = _of(form)
    return lambda value: isinstance(value, dict) and all(fits(one) for one in value.values())


_COMMON_SCHEMA: _EntrySchema = {"op": _text, "at": _text, "by": _text, "because": _text, "seq": _whole, "parent": _text}
_BASE_SCHEMA: _EntrySchema = {"text_maps": _text, "encoders": _text, "networks": _text}
_CONTENT_SCHEMA: _EntrySchema = {
    **dict.fromkeys(("method", "kind", "tokens", "token_ids", "encoders"), _text),
    **dict.fromkeys(("concepts", "targets", "anchors", "retain"), _texts),
    "version": _whole,
    "settings": _table,
    "withheld": lambda value: value is None or _texts(value),
}
_ENTRY_SCHEMAS: Mapping[str, _EntrySchema] = {
    "init": {
        "model": _text,
        "family": _text,
        "base": _of(_BASE_SCHEMA),
        "method": _text,
        "settings": _table,
        "policy": _of({"rule": _text}),
    },
    "add": {
        **{
            "id": _text,
            "asked": _of(_CONTENT_SCHEMA),
            "base": _text,
            "artifacts": _texts,
            "edit": lambda value: value is None or _text(value),
        },
        "near": _rows({"id": _text, "target": _text, "to": _text, "cosine": _text}),
    },
    "revoke": {"id": _text},
    "materialize": {
        "requests": _text,
        "state": _text,
        "libraries": _table,
        "trained": _named({"requests": _text, "edit": _text}),
    },
    "audit": {"requests": _texts, "found": _of({"state": _text, "look": _table, "concepts": _named({})})},
}
_UPGRADE_HINT = "update unconcept if a newer one wrote it"


def schema_error(body: Any) -> str | None:
    """What is wrong with the form of an entry; None for one that can be read."""
    if not isinstance(body, dict) or _lacking(body, _COMMON_SCHEMA):
        return f"is no entry: {_UPGRADE_HINT}"
    if body["op"] not in _ENTRY_SCHEMAS:
        return f"({body['op']}) is of a kind that this library does not know: {_UPGRADE_HINT}"
    if (body["op"] == "init") != (body["seq"] == 0):
        return f"({body['op']}) stands in the wrong place: a ledger begins with init, and with that alone"
    lacking = _lacking(body, _ENTRY_SCHEMAS[body["op"]])
    return (
        f"({body['op']}) is of a form that this library does not know, see its {', '.join(lacking)}: {_UPGRADE_HINT}"
        if lacking
        else None
    )


def _lacking(body: Mapping[str, Any], form: _EntrySchema) -> list[str]:
    """Names that are missing or hold something else."""
    return [name for name, fits in form.items() if name not in body or not fits(body[name])]
