"""Score forgetting distillation (SFD): Chen et al., ICLR 2025, arXiv:2409.11219.

Erases inside the distillation of a model of few steps: what the student draws under a target is scored by a teacher
that reads the anchor. No images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from ..core.errors import RequestError, SettingsError, require
from ..core.request import Request
from ..core.seeds import check_seed
from ..core.settings import settings_data
from ..edits import DenseEdit
from ..models import ModelView
from ..models.hooks.modules import denoiser_parameters
from ..models.text.state_rows import sentences_that_fit
from ..prompts.templates import check_sentences, open_sentences
from ..training import TrainableWeights, TrainingPlan, loss_figures
from ..training.budget import number_in_turn, text_in_turn, training_budget
from ..training.distillation.distill import DistillationLoss, distil
from ..training.distillation.networks import DistillationNetworks, TextContext
from ..training.distillation.objectives import SiD
from ..training.distillation.rollout import Rollout, few_step_timesteps
from ..training.distillation.scores import FAKE_BETAS, FakeScore
from ..training.goals import TextEncodings
from ..training.parameter_groups import ParameterSelector, select_parameters
from ..training.trainer import base_fingerprint
from .registry import NO_SERVICES, MethodServices, method

_GROUPS: dict[str, ParameterSelector] = {"full-weight": "full", "cross-attn": "xattn", "kv": "kv"}


@method("sfd", paper="arXiv:2409.11219", families=("sd1", "sd2"))
@dataclass(frozen=True)
class SFD:
    """Erases inside the distillation of a model of few steps. Defaults from the authors' script for Stable Diffusion.

    The teacher is the model of many steps that the record names.
    """

    needs_few_steps: ClassVar[bool] = True

    parameter_group: Literal["full-weight", "cross-attn", "kv"] = "full-weight"
    """Parameters of the student to train; the fake score trains all of its own."""
    iterations: int = 1000
    """Training steps for up to four targets; more targets have more."""
    lr: float = 1e-6
    """Learning rate of the student."""
    fake_lr: float = 3e-6
    """Learning rate of the fake score."""
    batch_size: int = 8
    """Latents under retained texts in a step, and as many under targets."""
    forget_weight: float = 0.01
    """Weight of the targets' loss, beside 1 for retained texts, in both networks."""
    alpha: float = 1.0
    """alpha of SiD."""
    cfg: Literal["zero", "anti", "long-short"] = "long-short"
    """Guidance of both scores: `long-short` as the authors', or that of SiD for few steps."""
    guidance: float = 4.5
    """Scale of that guidance; 1 guides nothing away."""
    overrides_fake: bool = False
    """Let the fake score read the anchor too where it is compared, as the authors' `sg_w_override`."""
    init_timestep: int = 625
    """Timestep of the first step, for a model without a record of few steps."""
    generation_steps: int = 1
    """Steps in which such a model draws."""
    templates: tuple[str, ...] = ()
    """Sentences around names, with {} in their place; () takes thirty for the targets' kind."""
    seed: int = 0
    """Seed of all random numbers."""

    def __post_init__(self) -> None:
        check_seed("sfd", self.seed)
        for name in ("iterations", "lr", "fake_lr", "forget_weight"):
            require(getattr(self, name) >= 0, f"sfd: {name} must be >= 0, got {getattr(self, name)}")
        require(self.batch_size > 0, f"sfd: batch_size must be > 0, got {self.batch_size}")
        few_step_timesteps(self.init_timestep, self.generation_steps)
        check_sentences("sfd", self.templates)

    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> DenseEdit:
        """Minimise SiD's loss under retained texts plus `forget_weight` times that under targets.

        Under a target c_f the teacher reads its anchor c_o: (y_phi(c_o) - y_psi(c_f)) (y_psi(c_f) - x) / w on what the
        student draws under c_f, x (b, c, h, w); the fake score learns it under c_f. Differs: retained texts and
        anchors stand for the authors' list of remaining prompts, and sentences around them are ours. Differs: a model
        without a record is its own teacher; its edit holds for pictures drawn in `generation_steps` steps from
        `init_timestep`.
        """
        teacher = self._teacher(model, services)
        trained = TrainableWeights(model, select_parameters(denoiser_parameters(model), _GROUPS[self.parameter_group]))
        nets = self._networks(model, teacher, trained)
        contexts = _ForgettingContexts.of(self, model, request)
        objective = SiD(self.alpha, self.cfg, self.guidance)
        steps = training_budget(self.iterations, len(request.targets))
        plan = TrainingPlan(steps, self.lr, seed=self.seed, betas=FAKE_BETAS)
        about = {"settings": settings_data(self), "request": vars(request), "teacher": base_fingerprint(teacher)}
        return trained.edit(
            loss_figures(distil(trained, DistillationLoss(nets, objective, contexts), plan, about, "sfd"))
        )

    def _networks(self, model: ModelView, teacher: ModelView, trained: TrainableWeights) -> DistillationNetworks:
        objective, record = SiD(self.alpha, self.cfg, self.guidance), model.few_step
        timesteps = few_step_timesteps(self.init_timestep, self.generation_steps)
        if record is not None:
            timesteps = tuple(int(t) for t in record.timesteps[max(record.timesteps)])
        every = select_parameters(denoiser_parameters(teacher), "full")
        texts = TextEncodings.as_sampled(teacher)
        learning, empty = objective.fake_learning
        own = TrainableWeights(teacher, every)
        around = None if teacher is not model else trained.teacher
        fake = FakeScore(own, texts, self.fake_lr, learning, empty, self.seed, around)
        rollout = Rollout(model, timesteps)
        return DistillationNetworks(rollout, TextEncodings.of(model), teacher, texts, fake, seed=self.seed)

    @staticmethod
    def _teacher(model: ModelView, services: MethodServices) -> ModelView:
        """The model of many steps; the model itself if it has no record."""
        record = model.few_step
        if record is None:
            return model
        message = f"sfd: {model.name} is drawn by the steps of its scheduler, and sfd noises predictions anew"
        require(record.step == "renoise", f"{message}: give a model whose record says renoise", SettingsError)
        named = 'name it in its few_step.json, "teacher": "FOLDER"'
        require(bool(record.teacher), f"sfd: the record of {model.name} names no teacher: {named}", SettingsError)
        message = f"sfd needs {record.teacher}, the teacher of {model.name}: give MethodServices.teacher"
        if services.teacher is None:
            raise RequestError(message)
        return services.teacher(model, record.teacher)


@dataclass(frozen=True)
class _ForgettingContexts:
    """The texts of a step: retained names in sentences, and targets, which the teacher takes for their anchors."""

    settings: SFD
    remain: Mapping[str, Sequence[str]]  # the sentences that fit around each name
    forget: Mapping[tuple[str, str], Sequence[str]]  # around each target and its anchor

    @classmethod
    def of(cls, settings: SFD, model: ModelView, request: Request) -> "_ForgettingContexts":
        """Choose the sentences that the encoder holds."""
        forms = open_sentences("sfd", request, settings.templates)
        kept = dict.fromkeys((*request.retain, *request.anchors))
        pairs = zip(request.targets, request.anchors, strict=True)
        return cls(
            settings,
            {name: sentences_that_fit(model, forms, name) for name in kept},
            {pair: sentences_that_fit(model, forms, *pair) for pair in pairs},
        )

    def __call__(self, step: int, rng: torch.Generator) -> list[TextContext]:
        own, remain, said, other = self.settings, [], [], []
        for row in range(step * own.batch_size, (step + 1) * own.batch_size):
            first, second = torch.randint(2**31, (2,), generator=rng).tolist()
            name = text_in_turn(row, tuple(self.remain), own.seed)
            remain.append(self.remain[name][first % len(self.remain[name])].replace("{}", name))
            target, anchor = tuple(self.forget)[number_in_turn(row, len(self.forget), own.seed)]
            form = self.forget[target, anchor][second % len(self.forget[target, anchor])]
            said.append(form.replace("{}", target))
            other.append(form.replace("{}", anchor))
        return [TextContext.of(remain), self.forgotten(said, other)]

    def forgotten(self, said: Sequence[str], other: Sequence[str]) -> TextContext:
        """The student draws `said`; the teacher takes it for `other`, and so does the fake score if it is told to."""
        fake = other if self.settings.overrides_fake else said
        return TextContext(said, other, fake, weight=self.settings.forget_weight)
