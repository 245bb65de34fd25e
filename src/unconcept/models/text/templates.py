"""Templates that stock pipelines write around a prompt for a language model, and a prompt's own tokens in them.

A prompt's tokens are found by the tokenizer's offsets, because a byte-pair tokenizer may merge what touches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Encoding, Tokenizer

from ...core.errors import ModelError, RequestError, require
from ..family import TextTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARK = " the-prompt-stands-here "  # with spaces, which a template might strip


@dataclass(frozen=True)
class PromptFrame:
    """The text around each prompt, and its tokens."""

    before: str
    after: str
    cut: tuple[int, ...]
    """Tokens at the beginning whose states the denoiser never reads."""
    front: tuple[int, ...]
    """Other tokens before the prompt."""
    back: tuple[int, ...]
    """Tokens after the prompt."""
    pads_left: bool = False
    """Whether the tokenizer puts padding before a row."""
    removed: str = ""
    """What is removed from prompts first."""
    adds_special: bool = True
    """Whether the tokenizer adds its special tokens, as it does unless the template begins with one."""

    @classmethod
    def of(cls, loaded: "PreTrainedTokenizerBase", tokenizer: Tokenizer, template: TextTemplate) -> "PromptFrame":
        """Fill in a template; `ModelError` if the prompt, or the beginning of it, is not in what comes out."""
        message = "its vocabulary is missing: give a complete diffusers folder"
        require(tokenizer.get_vocab_size(with_added_tokens=False) > 1, message, ModelError)
        plain: PreTrainedTokenizerBase = getattr(loaded, "tokenizer", loaded)  # of a processor
        before, after = template.text.split("{}") if template.text else _chat_text(loaded, plain, template)
        adds_special = not plain.bos_token or not before.startswith(str(plain.bos_token))
        coded = tokenizer.encode(before + after, add_special_tokens=adds_special)
        front, back = _split(coded, len(before), len(before))
        message = (
            f"the template puts {len(front)} tokens before a prompt, and the pipeline drops the first {template.cut}:"
            " that would cut the subject away; give the model's own tokenizer"
        )
        require(len(front) >= template.cut, message, ModelError)
        cut, pads_left = template.cut, plain.padding_side == "left"
        require(not (cut and pads_left), "the tokenizer pads on the left: give the model's own tokenizer", ModelError)
        return cls(before, after, front[:cut], front[cut:], back, pads_left, template.removed, adds_special)

    def encode(self, tokenizer: Tokenizer, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """The ids of each text in the template, without the tokens that are cut.

        `RequestError` for a text whose own tokens are not found there.
        """
        texts = [self._cleaned(text) for text in texts]
        filled = [f"{self.before}{text}{self.after}" for text in texts]
        coded = tokenizer.encode_batch(filled, add_special_tokens=self.adds_special)
        return [self._read(text, each) for text, each in zip(texts, coded, strict=True)]

    def span(self, tokenizer: Tokenizer, before: str, word: str, after: str) -> range:
        """The positions, among the ids that `encode` gives, of the tokens that hold a character of a word."""
        before, word, after = (self._cleaned(text) for text in (before, word, after))
        self.encode(tokenizer, [before + word + after])
        filled = f"{self.before}{before}{word}{after}{self.after}"
        coded = tokenizer.encode(filled, add_special_tokens=self.adds_special)
        first = len(self.before) + len(before)
        front, back = _split(coded, first, first + len(word))
        return range(len(front) - len(self.cut), len(coded) - len(back) - len(self.cut))

    def _cleaned(self, text: str) -> str:
        return text.replace(self.removed, "") if self.removed else text

    def _read(self, text: str, coded: Encoding) -> tuple[int, ...]:
        front, back = _split(coded, len(self.before), len(self.before) + len(text))
        own = len(coded) - len(front) - len(back)
        is_found = ((*self.cut, *self.front), self.back) == (front, back) and (own > 0 or not text)
        message = (
            f"the tokens of {text!r} are not found in the model's template, because it joins the text around it or has"
            " no token at all: write it without line breaks at its ends"
        )
        require(is_found, message, RequestError)
        return tuple(coded.ids[len(self.cut) :])


def _split(coded: Encoding, first: int, last: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens that end before character `first`, and those that begin at character `last` or after it."""
    front = [i for i, (_, end) in zip(coded.ids, coded.offsets, strict=True) if end <= first]
    rest = zip(coded.ids[len(front) :], coded.offsets[len(front) :], strict=True)
    return tuple(front), tuple(i for i, (begin, _) in rest if begin >= last)


def _chat_text(loaded: Any, plain: "PreTrainedTokenizerBase", template: TextTemplate) -> tuple[str, str]:
    """The text before and after a prompt by the chat template of a tokenizer, or of the processor that holds it."""
    messages = [{"role": "system", "content": template.system}] if template.system else []
    messages.append({"role": "user", "content": _MARK})
    chat = loaded.chat_template or plain.chat_template
    require(bool(chat), "the tokenizer has no chat template: give the model's own one", ModelError)
    options: Any = dict(template.options)  # transformers passes names that it does not know on to the template
    text = str(plain.apply_chat_template(messages, chat_template=chat, tokenize=False, **options))
    message = "the tokenizer's chat template leaves out or changes the prompt: give the model's own one"
    require(text.count(_MARK) == 1, message, ModelError)
    before, _, after = text.partition(_MARK)
    return before, after


def load_chat_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a language model; `ModelError` for a broken or incomplete folder."""
    from transformers import AutoTokenizer  # A second to import, which other families do not need.

    try:
        loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # Broken files raise anything, bare Exceptions of `tokenizers` too.
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(f"{reason}; give a complete diffusers folder") from None
    return loaded
