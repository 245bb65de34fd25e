"""Sentences around a concept, for edits of the words beside it.

MACE uses all thirty sentences of a kind, TRCE the first fifteen.

Differs: these are not the papers' lists. From them come `a photo of`, `an oil portrait of`, `captured in an image`,
`in a photo`, `a snapshot of` and `an artwork by`; the other sentences are ours, of the same sort.
"""

from collections.abc import Sequence

from ..core.errors import RequestError, SettingsError, require
from ..core.request import Request
from .text_matching import find_name, without_names

OBJECT_SENTENCES = (
    "a photo of {}",
    "{} in a photo",
    "a snapshot of {}",
    "an oil portrait of {}",
    "{} captured in an image",
    "a picture of {}",
    "an image of {}",
    "a drawing of {}",
    "a sketch of {}",
    "{} on a poster",
    "a painting of {}",
    "a close view of {}",
    "{} seen from afar",
    "a video still of {}",
    "{} on a postcard",
    "a print of {}",
    "{} in black and white",
    "a watercolour of {}",
    "{} in bright colours",
    "a study of {} in pencil",
    "a poster that shows {}",
    "{} in the morning light",
    "an old photograph of {}",
    "{} on the cover of a magazine",
    "a digital illustration of {}",
    "a postage stamp with {} on it",
    "{} as the subject of a mural",
    "a blurred photo of {} at night",
    "a wide shot with {} in the middle",
    "a carefully lit studio shot of {}",
)
STYLE_SENTENCES = (
    "an artwork by {}",
    "a picture by {}",
    "a work by {}",
    "art by {}",
    "a painting by {}",
    "a piece by {}",
    "a sketch by {}",
    "a print by {}",
    "a drawing by {}",
    "in the manner of {}",
    "a canvas by {}",
    "a poster by {}",
    "a mural by {}",
    "a portrait by {}",
    "a study by {}",
    "a landscape by {}",
    "a still life by {}",
    "an illustration by {}",
    "a large painting by {}",
    "an image that looks like {}",
    "a scene painted by {}",
    "a picture in the style of {}",
    "a photo in the style of {}",
    "a village in the style of {}",
    "a self-portrait in the style of {}",
    "flowers in a vase, as done by {}",
    "a street at night, painted by {}",
    "an early work, signed by {}",
    "an exhibition of works by {}",
    "a page from a sketchbook by {}",
)


def open_sentences(method: str, request: Request, own: Sequence[str] = ()) -> tuple[str, ...]:
    """The user's own sentences if there are any, else the thirty of the request's kind that name no target.

    `RequestError` for an own sentence that names a target.
    """
    refuse_named_targets(method, own, request.targets)
    usual = STYLE_SENTENCES if request.kind == "style" else OBJECT_SENTENCES
    found = tuple(own) or tuple(without_names(usual, request.targets))
    message = (
        f"{method}: each of the usual sentences names one of the targets {list(request.targets)}: give own ones,"
        " --set templates=..."
    )
    require(bool(found), message, RequestError)
    return found


def refuse_named_targets(method: str, own: Sequence[str], targets: Sequence[str]) -> None:
    """Raise `RequestError` for a sentence that names a target.

    It stands around each target and around what replaces it, or around retained texts, so it would keep that target.
    """
    for text in own:
        place = find_name(text, targets)
        if place is not None:
            named = text[place[0] : place[1]]
            raise RequestError(
                f"{method}: sentence {text!r} names the target {named!r}, which would be kept: write {{}} in its place,"
                " or leave the sentence out"
            )


def check_sentences(name: str, own: Sequence[str]) -> None:
    """Raise `SettingsError` unless each sentence has exactly one {} for the concept."""
    for text in own:
        require(
            text.count("{}") == 1,
            f"{name}: template {text!r}: write {{}} exactly once, in place of the concept",
            SettingsError,
        )
