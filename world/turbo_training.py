"""What a distillation of `moji` is made of: its plan, captions and networks, and the student that it writes."""

import random
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor

from unconcept.core.settings import build_settings
from unconcept.models import Conditioning, ModelView, open_model
from unconcept.models.hooks.modules import denoiser_modules, denoiser_parameters
from unconcept.training import (
    Trainable,
    TrainableLowRank,
    TrainableWeights,
    TrainingPlan,
    TrainingSession,
    training_session,
)
from unconcept.training.distillation.distill import DistillationLoss, distil
from unconcept.training.distillation.networks import DistillationNetworks, TextContext
from unconcept.training.distillation.objectives import DistillationObjective, objectives
from unconcept.training.distillation.rollout import Rollout, distilled_record, few_step_timesteps
from unconcept.training.distillation.scores import FAKE_BETAS, FakeScore
from unconcept.training.forgetting.running_mean import RunningMean
from unconcept.training.goals import TextEncodings, TextOrStates
from unconcept.training.parameter_groups import select_parameters
from unconcept.worlds.scenes import scene_words
from unconcept.worlds.table import concept_table

from .captions import Captions
from .student import write_student

ENCODED = 50  # texts encoded at once


@dataclass(frozen=True)
class TurboPlan:
    """What a distillation is made of; another plan is another training."""

    objective: str = "pg-sb"
    settings: dict[str, float | str | bool] = field(default_factory=dict)
    """Of the objective."""
    teacher: str = "moji"
    t_init: int = 625
    generation_steps: int = 4
    rank: int = 0
    """Of the student's low-rank change; 0 trains all weights."""
    steps: int = 6000
    batch_size: int = 32
    lr: float = 2e-5
    fake_lr: float = 1e-4
    warm_up: int = 50
    ema: float = 0.995
    prompts: int = 6000
    rung: int = 3
    seed: int = 7

    def build_objective(self) -> DistillationObjective:
        """The objective with its settings."""
        return build_settings(objectives[self.objective], self.settings, f"--set of {self.objective},")

    def rate(self, step: int) -> float:
        """Linear warm-up, constant, and a linear fall to a twentieth over the last third."""
        left = (self.steps - step) / (self.steps / 3)
        return min(1.0, (step + 1) / self.warm_up, max(0.05, left))


class EncodedPrompts(TextEncodings):
    """Text states of all prompts, encoded once in an order of their own."""

    @classmethod
    @torch.no_grad()
    def encoded(cls, model: ModelView, prompts: Sequence[str]) -> "EncodedPrompts":
        """Encode each text once, and the empty one."""
        every, found = [*dict.fromkeys(["", *prompts])], cls(model, OrderedDict())
        for start in range(0, len(every), ENCODED):
            part = every[start : start + ENCODED]
            states = model.condition(part)
            found._known.update({text: states.rows(slice(i, i + 1)) for i, text in enumerate(part)})
        return found

    def __call__(self, texts: Sequence[TextOrStates]) -> Conditioning:
        return Conditioning.concatenate([self._known[str(text)] for text in texts])


def set_plain_attention(view: ModelView) -> None:
    """Leave torch's own attention, whose backward pass in bfloat16 is slow on a CPU."""
    denoiser: Any = view.modules("denoiser")
    denoiser.set_attn_processor(AttnProcessor())


def draw_prompts(plan: TurboPlan) -> list[str]:
    """Training captions, as `moji` was trained on; no pictures of them are needed."""
    captions, rng = Captions(concept_table(), scene_words(), plan.rung), random.Random(plan.seed)
    return [captions.draw(rng).text for _ in range(plan.prompts)]


def concept_names() -> list[str]:
    """What a student may be led away from."""
    return [entry.name for entry in concept_table().objects]


def matrices(view: ModelView) -> dict[str, torch.nn.Module]:
    """The denoiser's linear maps and convolutions, by the full name of their weight."""
    names = select_parameters(denoiser_parameters(view), "full")
    parameters = denoiser_parameters(view)
    return denoiser_modules(view, [name for name in names if parameters[name].ndim > 1])


@dataclass
class TurboTraining:
    """Everything that a training holds in memory."""

    plan: TurboPlan
    device: str
    student: Trainable = field(init=False)
    mean: RunningMean = field(init=False)
    loss: DistillationLoss = field(init=False)
    negatives: list[str] = field(init=False)

    def __post_init__(self) -> None:
        plan, objective = self.plan, self.plan.build_objective()
        own, teacher = (open_model(plan.teacher, self.device, "float32") for _ in range(2))
        for view in (own, teacher):
            set_plain_attention(view)
        self.prompts = draw_prompts(plan)
        self.negatives = concept_names()
        texts = EncodedPrompts.encoded(teacher, [*self.prompts, *self.negatives])
        every = select_parameters(denoiser_parameters(teacher), "full")
        if plan.rank:
            self.student = TrainableLowRank(own, matrices(own), plan.rank, plan.seed, "uniform")
        else:
            self.student = TrainableWeights(own, every)
        guidance, empty = objective.fake_learning
        fake = FakeScore(TrainableWeights(teacher, every), texts, plan.fake_lr, guidance, empty, plan.seed)
        nets = DistillationNetworks(
            Rollout(own, few_step_timesteps(plan.t_init, plan.generation_steps)),
            texts,
            teacher,
            texts,
            fake if objective.needs_fake else None,
            self.prompts,
            plan.steps * plan.batch_size,
            plan.seed,
        )
        self.mean = RunningMean(plan.ema)
        self.loss = DistillationLoss(nets, objective, self.contexts)

    def contexts(self, step: int, rng: torch.Generator) -> list[TextContext]:
        """The captions of a step, and a concept to lead away from."""
        picked = torch.randint(len(self.prompts), (self.plan.batch_size,), generator=rng).tolist()
        negative = self.negatives[int(torch.randint(len(self.negatives), (), generator=rng))]
        return [TextContext.of([self.prompts[i] for i in picked], negative)]

    def run(self, session: TrainingSession) -> list[float]:
        """Train to the end of the plan."""
        plan = TrainingPlan(
            self.plan.steps,
            self.plan.lr,
            "adam",
            seed=self.plan.seed,
            transforms=[self.mean],
            rate=self.plan.rate,
            betas=FAKE_BETAS,
        )
        with training_session(session):
            return distil(self.student, self.loss, plan, {"turbo": asdict(self.plan)}, "turbo")

    def write(self, out: Path) -> None:
        """Write the mean of the student's weights as a model that opens by its record."""
        tensors = dict(self.student.tensors)
        if self.mean.means:
            tensors = dict(zip(tensors, self.mean.means, strict=True))
        record = distilled_record(self.plan.t_init, teacher=self.plan.teacher)
        write_student(out, self.plan.teacher, {name: t.detach().cpu() for name, t in tensors.items()}, record)
