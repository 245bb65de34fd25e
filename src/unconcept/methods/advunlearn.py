"""AdvUnlearn: Zhang et al., NeurIPS 2024, arXiv:2405.15234 (from the authors' code).

Trains the text encoder towards ESD's goal, under prompts with a word embedding that a search has just found to bring
the target back. A second loss preserves retained texts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import RequestError, require
from ..core.request import Request
from ..core.seeds import check_seed
from ..core.settings import settings_data
from ..edits import DenseEdit
from ..models import Conditioning, ModelView
from ..models.hooks.parameters import freeze_parameters
from ..models.text.parameters import encoder_parameters
from ..models.text.state_rows import fits_context
from ..models.text.vocabulary import word_ids
from ..prompts.captions import load_captions
from ..prompts.templates import check_sentences, refuse_named_targets
from ..prompts.text_matching import without_names
from ..training import Descent, TrainableWeights, TrainingPlan, loss_figures, train
from ..training.budget import training_budget
from ..training.goals import (
    GuidanceReference,
    PredictionGoal,
    TextEncodings,
    goal_predictions,
    keep_goal,
    negative_guidance_goal,
    reference_texts,
)
from ..training.parameter_groups import select_encoder_layers
from ..training.token_search import (
    FreeTokenSlots,
    SearchGradient,
    TokenPlacement,
    TokenVocabulary,
    insert_free_tokens,
    spread_free_tokens,
)
from ..training.trajectories import GuidedSampler, NoisyLatents, TrajectoryPool
from .registry import NO_SERVICES, MethodServices, method

_TOKEN_PLACEMENTS: dict[str, TokenPlacement] = {
    "prefix_k": "prefix",
    "suffix_k": "suffix",
    "mid_k": "mid",
    "insert_k": "insert",
}
_COMPONENT_PATTERNS = {"all": "", "ffn": ".mlp.", "attn": ".self_attn."}
# Latents, the student's conditioning, and the goal of each row's prediction.
_LossPart = tuple[NoisyLatents, Conditioning, list[PredictionGoal]]
_AttackType = Literal["prefix_k", "suffix_k", "mid_k", "insert_k", "per_k_words", "replace_k", "add"]


@method("advunlearn", paper="arXiv:2405.15234", families=("sd1", "sd2", "sdxl"), version=2)
@dataclass(frozen=True)
class AdvUnlearn:
    """Trains the text encoder against word embeddings that bring the target back.

    Defaults from the command of the authors' README.
    """

    iterations: int = 1000
    """Training steps on up to four targets; more targets have more."""
    lr: float = 1e-5
    """Learning rate of the text encoder."""
    warmup_iter: int = 200
    """First iterations, which have no attack; more for more targets, as `iterations`."""
    attack_step: int = 30
    """Search steps of the attack in each further iteration."""
    attack_lr: float = 1e-3
    """Step size of the attack's search."""
    adv_prompt_num: int = 1
    """k, number of adversarial word embeddings; 0 means no attack."""
    attack_type: _AttackType = "prefix_k"
    """Position of the adversarial embeddings; "add" moves the target's own words instead."""
    attack_init: Literal["random", "latest"] = "random"
    """Start of the search: random tokens, or the last attack on this target."""
    attack_method: Literal["pgd", "fast_at"] = "pgd"
    """Adam on the gradient, or on its sign."""
    retain_train: Literal["reg", "iter"] = "reg"
    """Add the retain loss to each step, or take separate steps on it."""
    retain_batch: int = 5
    """Retained texts in a step."""
    retain_loss_w: float = 0.3
    """Weight of the retain loss with "reg"."""
    retain_step: int = 1
    """Steps on the retain loss after each step on the target, with "iter"."""
    dataset_retain: str = "everyday"
    """Captions beside the request's retained texts: a packaged set or a file; "" is none."""
    templates: tuple[str, ...] = ("a photo of {}",)
    """Sentences for the retained texts, with {} in the text's place."""
    layers: int | None = None
    """Train this many first layers of each encoder; None: all and the final norm (their text_encoder_full)."""
    component: Literal["all", "ffn", "attn"] = "all"
    """Part of those layers to train."""
    start_guidance: float = 3.0
    """Guidance scale for sampling x_t."""
    negative_guidance: float = 1.0
    """eta, strength of the negative guidance."""
    reference: GuidanceReference = "empty"
    """Text that negative guidance is taken about: the empty one, or each target's anchor, which suits styles."""
    ddim_steps: int = 50
    """Sampling steps of a trajectory."""
    pool: int = 4
    """Trajectories that are sampled and used up together."""
    compat: Literal["", "authors"] = ""
    """"authors": the search's gradients add up from step to step."""
    seed: int = 0
    """Seed of all random numbers."""

    def __post_init__(self) -> None:
        check_seed("advunlearn", self.seed)
        training = ("iterations", "lr", "warmup_iter", "retain_loss_w", "start_guidance")
        for name in (*training, "attack_step", "attack_lr", "adv_prompt_num"):
            require(getattr(self, name) >= 0, f"advunlearn: {name} must be >= 0, got {getattr(self, name)}")
        for name in ("retain_batch", "retain_step", "ddim_steps", "pool"):
            require(getattr(self, name) > 0, f"advunlearn: {name} must be > 0, got {getattr(self, name)}")
        require(self.layers is None or self.layers > 0, f"advunlearn: layers must be > 0, got {self.layers}")
        require(
            self.negative_guidance >= -1,
            f"advunlearn: negative_guidance must be >= -1 (-1 changes nothing), got {self.negative_guidance}",
        )
        check_sentences("advunlearn", self.templates)

    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> DenseEdit:
        """Minimise |eps(z_t, T(c + d)) - (e_0 - eta (e_c - e_0))|^2 + w |eps(z_t, T(r)) - e_r|^2 over T.

        The attack is d = argmin |eps(z_t, T(c + d)) - e_c|^2. T is the encoder with d (k, d_e) among its word
        embeddings. e are predictions of the unedited model, which also samples z_t (b, c, h, w); r are retained texts.
        SDXL's two encoders are trained and attacked together. Targets are taken in turn. Differs: with the reference
        `anchor`, e_0 is the prediction under the target's anchor.
        Differs: z_t come from pools, because the model that samples them is frozen, and each row of a batch has its own
        t; we count tokens, the authors words; retained captions are ours; with "iter" one Adam serves both kinds of
        steps (inferred).
        """
        refuse_named_targets("advunlearn", self.templates, request.targets)
        references = reference_texts("advunlearn", request, self.reference)
        encoders, component = encoder_parameters(model).values(), _COMPONENT_PATTERNS[self.component]
        names = select_encoder_layers("advunlearn", encoders, self.layers, component)
        trained, texts = TrainableWeights(model, names), TextEncodings.of(model)
        walk = GuidedSampler(model, texts, self.ddim_steps, self.start_guidance)
        kept, turns = self._retained(model, request), 1 if self.retain_train == "reg" else 1 + self.retain_step
        steps, calm = (training_budget(each, len(request.targets)) for each in (self.iterations, self.warmup_iter))
        rows = steps * max(1, turns - 1) * self.retain_batch
        beside = TrajectoryPool(walk, kept, self.pool, rows, self.seed, every=False)
        foe = _Foe(replace(self, iterations=steps, warmup_iter=calm), model, trained, texts, walk, request.targets)

        def loss(step: int, rng: torch.Generator) -> dict[str, Tensor]:
            turn, part = divmod(step, turns)
            found: dict[str, _LossPart] = {}
            if part == 0:
                which = turn % len(request.targets)
                asked = foe.prompt(which, turn, rng)
                target = request.targets[which]
                goal = negative_guidance_goal(target, self.negative_guidance, references[target])
                found["target"] = foe.point(which), asked, [goal]
            if part > 0 or turns == 1:
                with trained.teacher():
                    point = beside.draw(
                        turn if turns == 1 else turn * self.retain_step + part - 1, self.retain_batch, rng
                    )
                found["retain"] = point, model.condition(point.prompts), [keep_goal(text) for text in point.prompts]
            weights = {"target": 1.0, "retain": self.retain_loss_w if turns == 1 else 1.0}
            errors = _row_errors(model, trained, texts, list(found.values()))
            return {name: weights[name] * rows.mean() for name, rows in zip(found, errors, strict=True)}

        about = {"settings": settings_data(self), "request": vars(request), "retained": kept}
        losses = train(trained, loss, TrainingPlan(steps * turns, self.lr, seed=self.seed), about, [foe], "advunlearn")
        return trained.edit(loss_figures(losses))

    def _retained(self, model: ModelView, request: Request) -> list[str]:
        """Return retained texts in the templates and captions that name no target, without those that are too long."""
        found = [form.replace("{}", text) for text in request.retain for form in self.templates]
        found += without_names(load_captions(self.dataset_retain), request.targets)
        held = [text for text in dict.fromkeys(found) if fits_context(model, text)]
        message = (
            "advunlearn: there is nothing to retain, and without retained texts training breaks the encoder: name texts"
            " with --retain, or --set dataset_retain=everyday"
        )
        require(bool(held), message, RequestError)
        return held


def _row_errors(
    model: ModelView, trained: TrainableWeights, texts: TextEncodings, parts: Sequence[_LossPart]
) -> tuple[Tensor, ...]:
    """Return the mean squared error of each row, part by part, with one call of the student and one of the teacher."""
    points, given, goals = zip(*parts, strict=True)
    x_t, t = torch.cat([point.x_t for point in points]), torch.cat([point.t for point in points])
    with trained.teacher():
        (wanted,) = goal_predictions(model, texts, x_t, t, [list(chain(*goals))])
    said = model.denoise(x_t, t, Conditioning.concatenate(given))
    errors = (said - wanted).float().square().flatten(1).mean(1)
    return tuple(errors.split([len(point.x_t) for point in points]))


@dataclass
class _Foe:
    """The attacker: has a pool of latents for each target, and remembers the last attack on it."""

    settings: AdvUnlearn
    model: ModelView
    trained: TrainableWeights
    texts: TextEncodings
    walk: GuidedSampler
    targets: Sequence[str]
    pools: list[TrajectoryPool] = field(init=False)
    used: list[int] = field(init=False)  # rows used of each pool
    latest: dict[int, tuple[Tensor, ...]] = field(default_factory=dict)  # by target: rows (1, k, d_e) for each encoder
    vocabulary: TokenVocabulary = field(init=False)

    def __post_init__(self) -> None:
        s, count = self.settings, len(self.targets)
        rows = -(-s.iterations // count) * (1 + s.attack_step)
        self.pools = [
            TrajectoryPool(self.walk, [text], s.pool, rows, s.seed * count + i) for i, text in enumerate(self.targets)
        ]
        self.used, self.vocabulary = [0] * count, TokenVocabulary.of(self.model)
        for which in range(count) if s.adv_prompt_num else ():
            self._slots(which)  # Raises before anything is sampled if the free tokens do not fit.

    def point(self, which: int) -> NoisyLatents:
        """Return the next latents (1, c, h, w) under a target."""
        with self.trained.teacher():
            self.used[which] += 1
            return self.pools[which].draw(self.used[which] - 1, 1, torch.Generator())

    def prompt(self, which: int, turn: int, rng: torch.Generator) -> Conditioning:
        """Return the student's conditioning in this iteration: the target, attacked after the warm-up."""
        s = self.settings
        if turn < s.warmup_iter or not s.adv_prompt_num or not s.attack_step:
            return self.model.condition([self.targets[which]])
        slots = self._slots(which)
        self.latest[which] = self._attacked(which, slots, rng)
        return self.model.condition(self.vocabulary.prompts([slots], self.latest[which]))

    def _attacked(self, which: int, slots: FreeTokenSlots, rng: torch.Generator) -> tuple[Tensor, ...]:
        """Search rows that bring the student's prediction back to the target's own, with new latents at each step."""
        s, target = self.settings, self.targets[which]
        rows = [part.detach().clone().requires_grad_() for part in self._start(which, slots, rng)]

        def lacking(step: int, rng: torch.Generator) -> Tensor:
            point = self.point(which)
            with self.trained.teacher():
                (wanted,) = goal_predictions(self.model, self.texts, point.x_t, point.t, [[keep_goal(target)]])
            said = self.model.denoise(point.x_t, point.t, self.model.condition(self.vocabulary.prompts([slots], rows)))
            return (said - wanted).float().square().mean()

        with freeze_parameters(self.model.modules(part) for part in encoder_parameters(self.model)):
            Descent(
                rows, s.attack_lr, transforms=[SearchGradient(s.attack_method == "fast_at", s.compat == "authors")]
            ).run(lacking, s.attack_step)
        return tuple(row.detach() for row in rows)

    def _slots(self, which: int) -> FreeTokenSlots:
        """Return the target's ids with the positions of the free tokens."""
        s, tokenizer = self.settings, self.model.tokenizer
        ids, room, k = word_ids(tokenizer, self.targets[which]), tokenizer.length - 2, self.settings.adv_prompt_num
        if s.attack_type == "add":
            return FreeTokenSlots(ids, tuple(range(len(ids))))
        if s.attack_type == "per_k_words":
            return spread_free_tokens(ids, k, room)
        message = (
            f"advunlearn: adv_prompt_num {k} and {self.targets[which]!r} are {k + len(ids)} tokens, but the text"
            f" encoder holds {room}: lower it"
        )
        require(k + len(ids) <= room, message)
        if s.attack_type == "replace_k":
            return insert_free_tokens([tokenizer.pad] * len(ids), k, "prefix", room)
        return insert_free_tokens(ids, k, _TOKEN_PLACEMENTS[s.attack_type], room)

    def _start(self, which: int, slots: FreeTokenSlots, rng: torch.Generator) -> tuple[Tensor, ...]:
        s = self.settings
        if s.attack_init == "latest" and which in self.latest:
            return self.latest[which]
        own = torch.tensor([[slots.ids[place] for place in slots.free_positions]])
        return self.vocabulary.rows(
            own if s.attack_type == "add" else self.vocabulary.random_ids((1, len(slots.free_positions)), rng)
        )

    def state(self) -> dict[str, Tensor]:
        found = {f"row.{which}.{e}": part for which, rows in self.latest.items() for e, part in enumerate(rows)}
        return found | {"used": torch.tensor(self.used)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.used = state["used"].tolist()
        there = sorted({int(name.split(".")[1]) for name in state if name.startswith("row.")})
        encoders = range(len(self.vocabulary.tables))
        self.latest.clear()
        for which in there:
            self.latest[which] = tuple(state[f"row.{which}.{e}"].to(self.model.device) for e in encoders)
