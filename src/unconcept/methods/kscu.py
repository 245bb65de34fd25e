"""Key Step Concept Unlearning (KSCU): Zhang et al., arXiv:2507.06526 (from the authors' quick release).

ESD's goal on the late steps of the edited model's own trajectories alone, under reworded prompts near the end, with a small
correction of what it predicts under the empty text.
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
from ..core.settings import check_seed, dump
from ..edits import DenseEdit
from ..models import Conditioning, ModelView
from ..models.hooks.modules import denoiser_parameters
from ..models.text.state_rows import fits
from ..prompts.templates import sentences
from ..training import Plan, Weights, figures, train
from ..training.goals import Texts, desired, negative
from ..training.parameter_groups import Selector, selected
from ..training.trajectories import Kept, Walk
from .registry import method

LATEST = 0.9  # of all steps: a window never begins later
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
SCOPES: dict[str, Selector] = {"noxattn": "maps-noxattn", "xattn": "xattn", "attn": "attn"}


@dataclass(frozen=True)
class Defaults:
    """What the authors' configs set for a kind of concept."""

    iterations: int
    start: float
    scope: str


PLACES = Defaults(750, 0.28, "noxattn")  # nudity and classes of objects
STYLES = Defaults(500, 0.48, "xattn")
INSTANCES = Defaults(200, 0.8, "xattn")
KINDS = {"style": STYLES, "person": INSTANCES, "character": INSTANCES}


@method("kscu", paper="arXiv:2507.06526", families=("sd1", "sd2", "sdxl", "sd3", "flux"))
@dataclass(frozen=True)
class KSCU:
    """Fine-tunes the denoiser on the late steps of its own trajectories. Defaults from the authors' config for SD 1.4 and the kind of concept."""

    iterations: int | None = None  # 750; one style 500, one person or character 200
    start: float | None = None  # share of the steps before the first window; 0.28, styles 0.48, persons and characters 0.8
    scope: Literal["noxattn", "xattn", "attn"] | None = None  # noxattn; styles, persons and characters xattn; SD3 and FLUX attn
    negative_guidance: float = 1.0  # g
    leak: float = 0.02  # lambda1 at the last step, from 0 at pure noise: guidance of the empty text's goal
    null_weight: float = 1e-4  # lambda2
    guidance_scale: float = 3.0  # of the trajectory
    steps: int = 50  # of the sampler
    loops: int = 8  # over a window before it begins a step later
    lr: float = 1e-5
    reworded_share: float = 0.05  # of all iterations, the last, under reworded prompts
    variants: int = 10  # reworded prompts of each target
    jitter: float = 1e-5  # noise on their encodings
    seed: int = 42

    def __post_init__(self) -> None:
        check_seed("kscu", self.seed)
        require(self.iterations is None or self.iterations >= 0, f"kscu: iterations must be >= 0, got {self.iterations}")
        require(self.start is None or 0 <= self.start < LATEST, f"kscu: start must be 0 to below {LATEST}, got {self.start}")
        require(self.negative_guidance >= -1, f"kscu: negative_guidance must be >= -1, where nothing changes, got {self.negative_guidance}")
        for name in ("leak", "null_weight", "guidance_scale", "lr", "jitter"):
            require(getattr(self, name) >= 0, f"kscu: {name} must be >= 0, got {getattr(self, name)}")
        for name in ("steps", "loops", "variants"):
            require(getattr(self, name) > 0, f"kscu: {name} must be > 0, got {getattr(self, name)}")
        require(0 <= self.reworded_share <= 1, f"kscu: reworded_share must be 0 to 1, got {self.reworded_share}")

    def erase(self, model: ModelView, request: Request) -> DenseEdit:
        """Minimise |eps(x_j, c~) - (n - g (p - n))|^2 + lambda2 |eps(x_j, "") - (n - lambda1(t) (p - n))|^2.

        p and n are what the unedited model predicts under the target and the empty text, x_j (1, c, h, w) the edited model's latents after
        j steps, c~ the target or a reworded prompt of it. Anchors and retained texts are not used.
        """
        own = KINDS.get(request.kind, PLACES)
        usual = own.iterations if len(request.targets) == 1 else PLACES.iterations
        iterations = usual if self.iterations is None else self.iterations
        scope = SCOPES[self.scope or own.scope]
        trained = Weights(model, selected(denoiser_parameters(model), scope, joint=None if self.scope else "attn"))
        texts = Texts.of(model)
        kept = Kept(Walk(model, texts, self.steps, self.guidance_scale), self.seed)
        plan = key_steps(len(request.targets), round((own.start if self.start is None else self.start) * self.steps), self.steps, iterations, self.loops)
        wordings = [reworded(target, sentences(request.kind), self.variants, self.seed) for target in request.targets]
        fitting = [[text for text in each if fits(model, text)] or [target] for each, target in zip(wordings, request.targets, strict=True)]

        def loss(step: int, rng: torch.Generator) -> dict[str, Tensor]:
            which, j = plan[step]
            target = request.targets[which]
            x, t = kept.reach(request.targets, which, j, step), kept.walk.timestep(j)
            leak = self.leak * (1 - float(t[0]) / 1000)
            with trained.off():
                wanted = desired(model, texts, x, t, [[negative(target, self.negative_guidance)], [negative(target, leak)]])
            late = step >= int((1 - self.reworded_share) * iterations)
            asked = self._jittered(texts(_one_of(fitting[which], rng)), rng) if late else texts([target])
            said, empty = model.denoise(x.repeat(2, 1, 1, 1), t.repeat(2), Conditioning.joined([asked, texts([""])])).chunk(2)
            return {
                "target": (said - wanted[0]).float().square().mean(),
                "null": self.null_weight * (empty - wanted[1]).float().square().mean(),
            }

        about = {"settings": dump(self), "request": vars(request)}
        losses = train(trained, loss, Plan(iterations, self.lr, seed=self.seed), about, [kept], "kscu")
        return trained.edit(figures(losses))

    def _jittered(self, given: Conditioning, rng: torch.Generator) -> Conditioning:
        """Noise on the states; a pooled text is left alone."""
        noise = self.jitter * torch.randn(given.states.shape, generator=rng)
        return Conditioning(given.states + noise.to(given.states), given.pooled, given.time_ids)


def _one_of(texts: Sequence[str], rng: torch.Generator) -> list[str]:
    return [texts[int(torch.randint(len(texts), (), generator=rng))]]


def key_steps(targets: int, start: int, stop: int, iterations: int, loops: int) -> list[tuple[int, int]]:
    """(target, steps done) of each iteration: windows `start`..`stop` - 1, target by target, `loops` times, then one step later."""
    found: list[tuple[int, int]] = []
    latest, done = ceil(LATEST * stop) - 1, 0
    start = min(start, latest)
    while len(found) < iterations:
        found += [(target, k) for target in range(targets) for k in range(start, stop)]
        done += 1
        if done == loops:
            start, done = min(start + 1, latest), 0
    return found[:iterations]


def reworded(target: str, forms: Sequence[str], count: int, seed: int) -> list[str]:
    """Sentences with the target in turns shuffled, short of a word, and with a few random characters before or after.

    Differs: the sentences are ours; the paper's prompts are a language model's, its quick release's are templates of its own.
    """
    rng, found = random.Random(seed), []
    for i in range(count):
        words = forms[i % len(forms)].replace("{}", target).split()
        noise = "".join(rng.choices(LETTERS, k=rng.randint(1, 3)))
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
