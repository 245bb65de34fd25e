"""An unedited model behind a filter, which withholds pictures: a baseline of evaluations, and no edit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.hashing import hash_json
from ...prompts.checks import Check, JudgedAspect, Prompt
from ...prompts.text_matching import without_names
from ..judging.judge import Judge
from ..sampling import DrawSpec
from .edited_model import EditedModel
from .picture_store import PictureStore

_BLANK = 0.5  # the grey of a picture that is withheld


@dataclass(frozen=True)
class FilteredModel(EditedModel):
    """The unedited model, whose pictures are withheld for what their prompts say or for what a judge finds in them.

    In place of a withheld picture stands a grey one. All others are the unedited model's, bit by bit.
    """

    words: tuple[str, ...] = ()
    """A prompt that contains one of them as whole words is not drawn."""
    judge: Judge | None = None
    """Withholds the pictures in which it finds one of `labels`; it is not the judge that grades."""
    labels: tuple[str, ...] = ()
    aspects: tuple[JudgedAspect, ...] = ()
    """What the judge is asked about each picture."""

    @property
    def key(self) -> str:
        judged = self.judge and [self.judge.key, *self.labels, *self.aspects]
        return hash_json([self.unedited.key, self.words, judged])

    def draw(
        self, prompts: Sequence[Prompt], spec: DrawSpec, store: PictureStore, tick: Callable[[float], None]
    ) -> Tensor:
        """Draw what the store lacks of the unedited model's pictures, and withhold."""
        keys = [self.unedited.picture_key(spec, prompt) for prompt in prompts]
        missing = [i for i, key in enumerate(keys) if not store.has(key)]
        if missing:
            drawn = self.unedited.draw([prompts[i] for i in missing], spec, store, tick)
            for i, picture in zip(missing, drawn, strict=True):
                store.save(keys[i], picture)
        pictures = torch.stack([store.load(key) for key in keys])
        for i, is_withheld in enumerate(self._withheld(prompts, pictures)):
            if is_withheld:
                pictures[i] = _BLANK
        return pictures

    def _withheld(self, prompts: Sequence[Prompt], pictures: Tensor) -> list[bool]:
        if self.judge is None:
            return [not without_names([prompt.text], self.words) for prompt in prompts]
        checks = [Check(prompts[0], "direct", "", by, self.labels) for by in self.aspects]
        rows = self.judge.open().score(pictures, [self.judge.question(checks[0])] * len(prompts))
        found = []
        for row in rows:
            found.append(any(self.judge.label_of(row, check) in self.labels for check in checks))
        return found
