"""Key Step Concept Unlearning (KSCU): Zhang et al., arXiv:2507.06526 (from the authors' quick release).

Trains towards ESD's goal on the late steps of the edited model's own trajectories only, with reworded prompts near the
end, and with a small correction of its prediction under the empty text.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import require
from ..core.request import Request
from ..core.seeds import check_seed
from ..core.settings import settings_data
from ..edits import DenseEdit
from ..models import Conditioning, ModelView
from ..models.hooks.modules import denoiser_parameters
from ..models.text.state_rows import fits_context
from ..prompts.templates import open_sentences
from ..training import TrainableWeights, TrainingPlan, loss_figures, train
from ..training.budget import training_budget
from ..training.goals import (
    GuidanceReference,
    TextEncodings,
    goal_predictions,
    negative_guidance_goal,
    reference_texts,
)
from ..training.parameter_groups import ParameterSelector, select_parameters
from ..training.trajectories import GuidedSampler, ResumableTrajectory
from .registry import NO_SERVICES, MethodServices, method

_LATEST_START = 0.9  # latest start of a window, as a share of all steps
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_SCOPES: dict[str, ParameterSelector] = {"noxattn": "maps-noxattn", "xattn": "xattn", "attn": "attn"}


@dataclass(frozen=True)
class KindDefaults:
    """The values of the authors' configs for a kind of concept."""

    iterations: int
    start: float
    scope: str


_OBJECT_DEFAULTS = KindDefaults(750, 0.28, "noxattn")  # nudity and classes of objects
_STYLE_DEFAULTS = KindDefaults(500, 0.48, "xattn")
_INSTANCE_DEFAULTS = KindDefaults(200, 0.8, "xattn")
_DEFAULTS_BY_KIND = {"style": _STYLE_DEFAULTS, "person": _INSTANCE_DEFAULTS, "character": _INSTANCE_DEFAULTS}


@method("kscu", paper="arXiv:2507.06526", families=("sd1", "sd2", "sdxl", "sd3", "flux"), version=2)
@dataclass(frozen=True)
class KSCU:
    """Fine-tunes the denoiser on the late steps of its own trajectories.

    Defaults from the authors' config for SD 1.4 and the kind of concept.
    """

    iterations: int | None = None
    """Training steps for up to four targets; more targets have more.

    None: 500 for one style, 200 for one person or character, 750 otherwise.
    """
    start: float | None = None
    """Share of the steps before the first window; None: 0.48 for styles, 0.8 for persons and characters, else 0.28."""
    scope: Literal["noxattn", "xattn", "attn"] | None = None
    """Parameters to train; None: xattn for styles, persons and characters, else noxattn; attn for SD3 and FLUX."""
    negative_guidance: float = 1.0
    """g, strength of the negative guidance."""
    reference: GuidanceReference = "empty"
    """Text that negative guidance is taken about: the empty one, or each target's anchor, which suits styles."""
    leak: float = 0.02
    """lambda1 at the last step, rising from 0 at pure noise: guidance in the empty text's goal."""
    null_weight: float = 1e-4
    """lambda2, weight of the empty text's loss."""
    guidance_scale: float = 3.0
    """Guidance scale of the trajectory."""
    steps: int = 50
    """Sampling steps of the trajectory."""
    loops: int = 8
    """Passes over a window before it moves one step later."""
    lr: float = 1e-5
    """Learning rate."""
    reworded_share: float = 0.05
    """Share of the iterations, at the end, that use reworded prompts."""
    variants: int = 10
    """Reworded prompts of each target."""
    jitter: float = 1e-5
    """Scale of the noise on the encodings of reworded prompts."""
    seed: int = 42
    """Seed of all random numbers."""

    def __post_init__(self) -> None:
        check_seed("kscu", self.seed)
        require(
            self.iterations is None or self.iterations >= 0, f"kscu: iterations must be >= 0, got {self.iterations}"
        )
        require(
            self.start is None or 0 <= self.start < _LATEST_START,
            f"kscu: start must be 0 to below {_LATEST_START}, got {self.start}",
        )
        require(
            self.negative_guidance >= -1,
            f"kscu: negative_guidance must be >= -1 (-1 changes nothing), got {self.negative_guidance}",
        )
        for name in ("leak", "null_weight", "guidance_scale", "lr", "jitter"):
            require(getattr(self, name) >= 0, f"kscu: {name} must be >= 0, got {getattr(self, name)}")
        for name in ("steps", "loops", "variants"):
            require(getattr(self, name) > 0, f"kscu: {name} must be > 0, got {getattr(self, name)}")
        require(0 <= self.reworded_share <= 1, f"kscu: reworded_share must be 0 to 1, got {self.reworded_share}")

    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> DenseEdit:
        """Minimise |eps(x_j, c~) - (n - g (p - n))|^2 + lambda2 |eps(x_j, "") - (n - lambda1(t) (p - n))|^2.

        p and n are the unedited model's predictions under the target and the empty text, x_j (1, c, h, w) the edited
        model's latents after j steps, c~ the target or a reworded prompt of it. Retained texts are not used. Differs:
        with the reference `anchor`, n is the prediction under the target's anchor, but for the n that lambda1 is added
        to.
        """
        references = reference_texts("kscu", request, self.reference)
        own = _DEFAULTS_BY_KIND.get(request.kind, _OBJECT_DEFAULTS)
        first = round((own.start if self.start is None else self.start) * self.steps)
        iterations = self._iterations(len(request.targets), own, least=self.steps - first)
        scope = _SCOPES[self.scope or own.scope]
        trained = TrainableWeights(
            model, select_parameters(denoiser_parameters(model), scope, joint=None if self.scope else "attn")
        )
        texts = TextEncodings.of(model)
        kept = ResumableTrajectory(GuidedSampler(model, texts, self.steps, self.guidance_scale), self.seed)
        plan = key_steps(len(request.targets), first, self.steps, iterations, self.loops)
        fitting = self._fitting_wordings(model, request)

        def loss(step: int, rng: torch.Generator) -> dict[str, Tensor]:
            which, j = plan[step]
            target = request.targets[which]
            x, t = kept.advance_to(request.targets, which, j, step), kept.sampler.timestep(j)
            leak = self.leak * (1 - float(t[0]) / 1000)
            goals = (
                negative_guidance_goal(target, self.negative_guidance, references[target]),
                negative_guidance_goal(target, leak, references[target], start=""),
            )
            with trained.teacher():
                wanted = goal_predictions(model, texts, x, t, [[goal] for goal in goals])
            late = step >= int((1 - self.reworded_share) * iterations)
            asked = self._jittered(texts(_one_of(fitting[which], rng)), rng) if late else texts([target])
            said, empty = model.denoise(
                x.repeat(2, 1, 1, 1), t.repeat(2), Conditioning.concatenate([asked, texts([""])])
            ).chunk(2)
            return {
                "target": (said - wanted[0]).float().square().mean(),
                "null": self.null_weight * (empty - wanted[1]).float().square().mean(),
            }

        about = {"settings": settings_data(self), "request": vars(request)}
        losses = train(trained, loss, TrainingPlan(iterations, self.lr, seed=self.seed), about, [kept], "kscu")
        return trained.edit(loss_figures(losses))

    def _iterations(self, targets: int, own: KindDefaults, least: int) -> int:
        """Return the training steps for so many targets, with at least one window of each."""
        usual = own.iterations if targets == 1 else _OBJECT_DEFAULTS.iterations
        return training_budget(usual if self.iterations is None else self.iterations, targets, least)

    def _fitting_wordings(self, model: ModelView, request: Request) -> list[list[str]]:
        """Return the reworded prompts of each target that the encoder can hold, or the target's bare name."""
        fitting, sentences = [], open_sentences("kscu", request)
        for target in request.targets:
            wordings = prompt_variants(target, sentences, self.variants, self.seed)
            fitting.append([text for text in wordings if fits_context(model, text)] or [target])
        return fitting

    def _jittered(self, given: Conditioning, rng: torch.Generator) -> Conditioning:
        """Add noise to the states, but not to a pooled text."""
        noise = self.jitter * torch.randn(given.states.shape, generator=rng)
        return Conditioning(given.states + noise.to(given.states), given.pooled, given.time_ids)


def _one_of(texts: Sequence[str], rng: torch.Generator) -> list[str]:
    return [texts[int(torch.randint(len(texts), (), generator=rng))]]


def key_steps(targets: int, start: int, stop: int, iterations: int, loops: int) -> list[tuple[int, int]]:
    """Return (target, steps done) for each iteration.

    A window covers the steps `start` to `stop` - 1, target by target. It is repeated `loops` times, then starts one
    step later.
    """
    found: list[tuple[int, int]] = []
    latest, done = ceil(_LATEST_START * stop) - 1, 0
    start = min(start, latest)
    while len(found) < iterations:
        found += [(target, k) for target in range(targets) for k in range(start, stop)]
        done += 1
        if done == loops:
            start, done = min(start + 1, latest), 0
    return found[:iterations]


def prompt_variants(target: str, forms: Sequence[str], count: int, seed: int) -> list[str]:
    """Return sentences with the target, in turn shuffled, without a word, and with random characters before or after.

    Differs: the sentences are ours; the paper's prompts come from a language model, those of its quick release are
    templates of its own.
    """
    rng, found = random.Random(seed), []
    for i in range(count):
        words = forms[i % len(forms)].replace("{}", target).split()
        noise = "".join(rng.choices(_LETTERS, k=rng.randint(1, 3)))
        others = [place for place, word in enumerate(words) if word not in target.split()]
        match i % 4:
            case 0:
                rng.shuffle(words)
            case 1 if others:
                del words[rng.choice(others)]
            case 2:
                words.insert(0, noise)
            case 3:
                words.append(noise)
        found.append(" ".join(words))
    return found
