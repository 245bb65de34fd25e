"""Builds the content of ledger entries: a request's texts, method and settings in canonical form.

The id of a request is the hash of this content. Time, author and reason stand beside it and are not hashed.
"""

from collections.abc import Hashable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, get_type_hints

from ..core.errors import SettingsError, require
from ..core.hashing import hash_json
from ..core.request import Request
from ..core.settings import accepts_value, build_settings, settings_data
from ..core.text_identity import TextKey
from ..edits import Edit
from ..methods import MethodInfo, methods
from ..models import ModelView
from ..models.families import undefined_for
from .storage.entry_schema import RequestContent

FoldRule = Literal["recompute", "merge", "sequential"]


def request_content(
    model: ModelView, concepts: Sequence[str], request: Request, method: str, settings: Mapping[str, Any], encoders: str
) -> RequestContent:
    """Put a request in canonical form: texts sorted, so that the order of typing does not change its id."""
    pairs = sorted(zip(request.targets, request.anchors, strict=True))
    retain = tuple(sorted(request.retain))
    texts = [text for pair in pairs for text in pair] + list(retain)
    ids = [tokenizer(texts).ids for tokenizer in model.tokenizers]
    return RequestContent(
        method=method,
        version=methods[method].version,
        settings=settings,
        concepts=tuple(sorted(concepts)),
        targets=tuple(target for target, _ in pairs),
        anchors=tuple(anchor for _, anchor in pairs),
        retain=retain,
        withheld=None if request.withheld is None else tuple(sorted(request.withheld)),
        kind=request.kind,
        tokens=str(settings.get("tokens", "the method's own")),
        token_ids=hash_json(ids),
        encoders=encoders,
    )


def reading_key(content: RequestContent, key: TextKey) -> Hashable:
    """Maps a request to its key of comparison: requests that differ in nothing but in spellings of the same texts have
    the same key.
    """
    pairs = frozenset(
        (key(target), key(anchor)) for target, anchor in zip(content.targets, content.anchors, strict=True)
    )
    withheld = None if content.withheld is None else frozenset(map(key, content.withheld))
    others = content.model_dump(exclude={"concepts", "targets", "anchors", "retain", "withheld", "token_ids"})
    return (hash_json(others), pairs, frozenset(map(key, content.retain)), withheld)


def changes_no_weight(name: str) -> bool:
    """Whether a method's edits change no weight."""
    kind: Any = get_type_hints(vars(methods[name].settings)["erase"])["return"]
    return isinstance(kind, type) and kind is not Edit and not _can_bake(kind)


def _can_bake(kind: Any) -> bool:
    found: bool = kind.can_bake()
    return found


def ledger_method(name: str, family: str, rule: FoldRule) -> MethodInfo:
    """Look up a method by name; `SettingsError` unless it fits the ledger's model family and rule."""
    info = methods[name]
    require(
        info.does == "erase",
        f"{name} does not erase, and a ledger takes only requests to erase: choose a method that does",
        SettingsError,
    )
    require(
        "attribute_counter" not in info.uses,
        f"{name} counts pictures of the edit of all requests, so what one gets would hang on the others, and a"
        " revocation would not undo it: erase and moderate with uce, and debias in an edit of its own",
        SettingsError,
    )
    require(
        not info.uses,
        f"{name} needs a CLIP vision tower or a judge, and a ledger takes only methods that need texts: choose another"
        " method",
        SettingsError,
    )
    require(family in info.families, undefined_for(name, family, info.families), SettingsError)
    beside = rule == "sequential" and changes_no_weight(name)
    message = (
        f"{name} changes no weight, it runs beside the model, and a sequential ledger takes only edits of weights:"
        " begin one of rule recompute or merge"
    )
    require(not beside, message, SettingsError)
    return info


def canonical_settings(info: MethodInfo, settings: Mapping[str, Any]) -> dict[str, Any]:
    """All settings, defaults included; floats become decimal texts, so that the hash is the same everywhere.

    Raises `SettingsError` for a closed form with a trained stage, which is no function of the requests' sums.
    """
    built: Any = build_settings(info.settings, settings, f"{info.name} setting")
    message = (
        f"{info.name}: these settings train a second stage, and a ledger folds {info.name} as a {info.mechanism}"
        " method: leave that stage out, or choose a trained method"
    )
    require(info.mechanism_of(built) == info.mechanism, message, SettingsError)
    return {name: _decimal(value) for name, value in settings_data(built).items()}


def _decimal(value: Any) -> Any:
    return (
        [_decimal(one) for one in value]
        if isinstance(value, list)
        else repr(value)
        if isinstance(value, float)
        else value
    )


def method_from_settings(info: MethodInfo, stored: Mapping[str, Any]) -> Any:
    """Build a method from stored settings: the inverse of `canonical_settings`.

    A text where the setting is not a text is read as the number that it spells.
    """
    return build_settings(
        info.settings,
        {
            name: value if accepts_value(info.settings, name, value) else parse_decimal(value)
            for name, value in stored.items()
        },
    )


def parse_decimal(value: Any) -> Any:
    """Parse a decimal text or a list of them; anything else stays as it is, and validation then refuses it by name."""
    try:
        return [float(one) for one in value] if isinstance(value, list) else float(value)
    except (TypeError, ValueError):
        return value


def utc_timestamp() -> str:
    """The present time in UTC, to the microsecond, as entries store it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
