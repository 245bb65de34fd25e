"""One step of a search for forget sets: erase all candidates under weights, and measure what is left of each."""

import json
import random
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ...core.hashing import hash_json
from ...core.output_folder import STORE_REMEDY, write_atomically
from ...core.progress import task_progress
from ...core.source import source_hash
from ...edits import Edit
from ...erasing.make_edit import make_edit, train_in_folder
from ...erasing.request_defaults import weights_of_targets
from ...methods import methods
from ...models.loading import LOADING
from ...prompts.checks import Check, Prompt
from ..attacks import denoising_errors as measuring
from ..attacks.denoising_errors import denoising_errors
from ..attacks.worst_case import drawn_members
from ..judging.judge import Judge
from ..judging.rates import judge_labels
from ..sampling import DrawSpec, draw_prompts
from .draw import load_pictures
from .edit_task import EditTask
from .picture_store import PictureStore

_DRAWS = 3  # sets that stand for the weights where a method takes none


@dataclass(frozen=True)
class WeighedErasure:
    """Erases all candidates under weights from the unedited model, and measures a loss for each of them.

    A loss is small where the erasure left its candidate. Of a method that takes no weights a few sets are erased, drawn
    by the weights. The result is a file in the store; the edit is not kept.
    """

    erasure: EditTask
    """The same erasure without weights; its concepts are the candidates."""
    weights: tuple[float, ...]
    """Of each candidate, in [0, 1]."""
    checks: tuple[tuple[Check, ...], ...]
    """Of each candidate, the same number for all: its pictures, which no report shows."""
    spec: DrawSpec
    judge: Judge | None
    """Judges pictures of the edited model; None: the loss is the error of denoising pictures of the unedited one."""
    kind: str = "weighed erasure"

    @cached_property
    def id(self) -> str:
        left = "denoising" if self.judge is None else self.judge.key
        drawn = [asdict(check) for checks in self.checks for check in checks]
        how = [self.spec.sampler, self.spec.steps, self.spec.guidance_scale]
        erased = self.erasure.stored_path(Path()).stem
        return hash_json([self.kind, source_hash(measuring.__name__, LOADING), erased, self.weights, drawn, how, left])[
            :40
        ]

    @property
    def size(self) -> int:
        return 1

    @property
    def prompts(self) -> list[Prompt]:
        """The prompts of all candidates, each as often as it is checked."""
        return [check.prompt for checks in self.checks for check in checks]

    def path(self, store: PictureStore) -> Path:
        return store.root / "weighed" / self.id[:2] / f"{self.id}.json"

    def is_done(self, store: PictureStore) -> bool:
        return self.path(store).exists()

    def losses(self, store: PictureStore) -> Tensor:
        """The loss of each candidate (N,), of a task that is done."""
        found = json.loads(self.path(store).read_text(encoding="utf-8"))["losses"]
        return torch.tensor(found, dtype=torch.float64)

    def run(self, store: PictureStore) -> None:
        """Erase and measure; the result file is written last, in one step."""
        names, sets = self.erasure.concepts, self._sets()
        rows = torch.stack([self._losses_of(members, store) for members in sets])
        # Only sets that hold a candidate tell how hard it is to erase; of one that none holds, all of them must do.
        held = torch.zeros_like(rows)
        for row, members in zip(held, sets, strict=True):
            row[[names.index(name) for name in members]] = 1.0
        held[:, held.sum(0) == 0] = 1.0
        losses = (rows * held).sum(0) / held.sum(0)
        write_atomically(self.path(store), json.dumps({"losses": losses.tolist()}).encode(), STORE_REMEDY)

    def _sets(self) -> list[tuple[str, ...]]:
        """What is erased together: all candidates under weights, or sets that are drawn by them."""
        names = self.erasure.concepts
        if methods[self.erasure.variant.method].weighs_targets:
            return [names]
        found: dict[tuple[str, ...], None] = {}
        for i in range(_DRAWS):
            members = drawn_members(self.weights, random.Random(f"weighed erasure {i}").random())
            found[tuple(names[k] for k in members)] = None
        return list(found)

    def _losses_of(self, names: tuple[str, ...], store: PictureStore) -> Tensor:
        edit = self._made(names, store)
        model = self.erasure.subject.base()
        if self.judge is None:
            pictures = load_pictures(self.erasure.subject, self.spec, self.prompts, store)
            clean = torch.stack([pictures[prompt] for prompt in self.prompts])
            with edit.applied(model):
                each = denoising_errors(model, [prompt.text for prompt in self.prompts], clean)
        else:
            with edit.applied(model):
                drawn = draw_prompts(model, self.prompts, self.spec)
            checks = [check for one in self.checks for check in one]
            words = judge_labels(self.judge, checks, dict(zip(self.prompts, drawn, strict=True)))
            shown = [word in check.labels for word, check in zip(words, checks, strict=True)]
            each = 1 - torch.tensor(shown, dtype=torch.float64)
        return each.view(len(self.checks), -1).mean(1)

    def _made(self, names: tuple[str, ...], store: PictureStore) -> Edit:
        """The edit of these candidates, under the weights if it is of all of them; a killed training goes on."""
        erasure, services = replace(self.erasure, concepts=names), self.erasure.services(store)
        if names == self.erasure.concepts:
            weights: Mapping[str, float] = dict(zip(names, self.weights, strict=True))
            services = replace(services, weights=weights_of_targets(erasure.chosen, weights))
        training = self.path(store).with_suffix(f".{hash_json(names)[:8]}.training")
        training.parent.mkdir(parents=True, exist_ok=True)
        with train_in_folder(training, task_progress().tell):
            edit = make_edit(erasure.subject.base(), erasure.chosen, erasure.variant.method, erasure.settings, services)
        shutil.rmtree(training, ignore_errors=True)
        return edit
