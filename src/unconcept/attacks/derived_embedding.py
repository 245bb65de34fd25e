"""The derive step of RECE as an attack: Gong et al., ECCV 2024, arXiv:2407.12383.

Computes in closed form the text state that the edited keys and values map as the unedited ones map the concept's.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch

from ..core.errors import require
from ..core.text_identity import composed_text
from ..linalg.derive import derive_map
from ..prompts.text_matching import find_name
from .registry import AttackAttempt, AttackCase, AttackInput, LadderPlace, attack


@attack(
    "derived-embedding",
    paper="arXiv:2407.12383",
    rung="embedding",
    scope="concept",
    families=("sd1", "sd2", "sdxl"),
    lever="text weights",
    place=LadderPlace(teaches=False),
)
@dataclass(frozen=True)
class DerivedEmbedding:
    """Computes a text state that edited keys and values map as they did the concept's. Default of the authors' code."""

    undefined_elsewhere: ClassVar[str] = (
        "it inverts keys and values that read the encoder's own states; a transformer's read projected or mixed ones"
    )

    lamb: float = 0.1
    """Ridge on the derived embedding; 1e-3 for styles and hard objects."""
    tokens: Literal["last", "all"] = "last"
    """States to replace: the last subject token's, or all, as in RECE itself."""

    def __post_init__(self) -> None:
        require(
            self.lamb > 0,
            f"derived-embedding: lamb must be > 0, got {self.lamb}; without it the maps must span all dimensions",
        )

    @property
    def most_steps(self) -> int:
        """Steps of a search that finds nothing."""
        return 1

    @torch.no_grad()
    def search(self, case: AttackCase) -> Iterator[AttackAttempt]:
        """Make one attempt: states (1, l, d) of the edited model's encoder, c' = R c at the concept's last token."""
        yield AttackAttempt(0, {i: AttackInput(text) for i, text in enumerate(case.prompts)})
        model, left = case.model, case.unsolved
        own = {i: model.condition([case.prompts[i]]) for i in left}
        with case.edit_applied():
            maps = {name: w.detach().clone() for name, w in model.text_maps().items()}
            live = {i: model.condition([case.prompts[i]]) for i in left}
        derived = derive_map(maps, model.reference(maps), self.lamb)
        inputs = {}
        for i in left:
            states = live[i].states.clone()
            at = slice(None) if self.tokens == "all" else _last(case, case.prompts[i])
            states[:, at] = derived(own[i].states[:, at])
            inputs[i] = AttackInput(case.prompts[i], states=replace(live[i], states=states))
        yield AttackAttempt(1, inputs)


def _last(case: AttackCase, prompt: str) -> int:
    """Return the position of the last token of the concept's name, or of the prompt if it does not name it."""
    prompt = composed_text(prompt)
    place = find_name(prompt, (*case.concept.all_names, *case.wordings))
    return case.model.tokenizer([prompt if place is None else prompt[: place[1]]]).index("last_subject")[0]
