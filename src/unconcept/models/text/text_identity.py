"""Decides which texts are one text to a model: those that every one of its tokenizers maps to the same ids."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ...core.errors import RequestError, require
from ...core.request import Request, require_distinct_texts
from ...core.text_identity import distinct_texts, normalised_text
from ..model_view import ModelView
from .tokenizer import TextTokenizer

_TokenKey = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class TokenTextKey:
    """Maps a text to its ids in each tokenizer, in Unicode's composed form with single spaces; no length is too long.

    Capitals count only if a tokenizer tells them apart.
    """

    tokenizers: tuple[TextTokenizer, ...]
    _known: dict[str, _TokenKey] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, model: ModelView) -> "TokenTextKey":
        """The key of a model's texts."""
        return cls(model.tokenizers)

    def __call__(self, text: str) -> _TokenKey:
        if text not in self._known:
            plain = normalised_text(text)
            self._known[text] = tuple(each.encode([plain])[0] for each in self.tokenizers)
        return self._known[text]

    @property
    def folds_case(self) -> bool:
        """Whether no tokenizer tells capitals apart."""
        return self("A") == self("a")


def require_each_named_once(who: str, what: str, texts: Sequence[str], model: ModelView) -> None:
    """Raise `RequestError` if two texts of a setting are one text to the model."""
    message = f"{who}: two of the {what} {list(texts)} are one text to the model: name each thing once"
    require(len(distinct_texts(texts, TokenTextKey.of(model))) == len(texts), message, RequestError)


def request_as_read(model: ModelView, request: Request) -> Request:
    """The request with each retained text once, and "" for every spelling of the empty text.

    `RequestError` if a target is named twice, or is also retained, in two spellings that are one text to the model.
    """
    key = TokenTextKey.of(model)
    require_distinct_texts(request.targets, request.retain, key)
    empty = key("")

    def as_read(texts: Sequence[str]) -> tuple[str, ...]:
        return tuple("" if key(text) == empty else text for text in texts)

    retain = distinct_texts(as_read(request.retain), key)
    return replace(request, anchors=as_read(request.anchors), retain=retain, folds_case=False)
