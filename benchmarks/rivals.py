"""Published trainings transcribed plainly, for `benchmarks/training.py`: what a rival does in vain is taken away cause
by cause.

A second model for the teacher, every prompt encoded anew in each step, a call of a network for each prompt, a gradient
for every weight, and for ESD a trajectory of its own for each x_t.
"""

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from benchmarks.taken import Taken, gauged
from unconcept.core.request import Request
from unconcept.edits import DenseEdit
from unconcept.methods.concept_ablation import ConceptAblation
from unconcept.methods.esd import ESD
from unconcept.methods.spm import SPM
from unconcept.models import ModelView
from unconcept.models.hooks.forward import detach_first_token
from unconcept.models.hooks.modules import denoiser_parameters
from unconcept.training.parameter_groups import ParameterSelector, select_parameters

REQUEST = Request(("guitar",), ("piano",))  # A tune concept.


@dataclass(frozen=True)
class Plain:
    """What a rival does the plain way; each False takes one cause away."""

    every_gradient: bool = True
    texts_each_step: bool = True
    call_each: bool = True  # of a network, for each prompt


CAUSES = {
    "plain": Plain(),
    "+ gradients of what is trained alone": Plain(every_gradient=False),
    "+ texts encoded once": Plain(every_gradient=False, texts_each_step=False),
    "+ one call of each network": Plain(False, False, False),
}


class Paired(nn.Module):
    """A map with a pair of low rank beside it."""

    def __init__(self, beside: nn.Linear | nn.Conv2d, rank: int) -> None:
        super().__init__()
        rows, columns = beside.weight.shape[:2]
        self.beside, kernels = beside, beside.weight.shape[2:]
        self.down, self.up = (
            nn.Parameter(torch.randn(rank, columns, *kernels)),
            nn.Parameter(torch.zeros(rows, rank, *kernels)),
        )

    def forward(self, x: Tensor) -> Tensor:
        through = nn.functional.linear if self.down.dim() == 2 else nn.functional.conv2d
        return self.beside(x) + through(through(x, self.down), self.up)


@dataclass
class Rival:
    """A student beside its teacher, both whole, and an optimizer."""

    model: ModelView
    which: ParameterSelector
    how: Plain
    make: Callable[[list[Tensor]], torch.optim.Optimizer]
    rank: int = 0  # of pairs beside the maps; 0: the maps themselves are trained
    known: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.teacher = self.model.modules("denoiser")
        self.student = copy.deepcopy(self.teacher)
        self.names = select_parameters(denoiser_parameters(self.model), self.which)
        if self.rank:
            self.trained = [pair for name in self.names for pair in self._paired(name)]
        else:
            self.trained = [self.student.get_parameter(name.partition(".")[2]) for name in self.names]
        if not self.how.every_gradient:
            self.student.requires_grad_(False)
            for parameter in self.trained:
                parameter.requires_grad_(True)
        self.optimizer = self.make(self.trained)

    def _paired(self, name: str) -> list[Tensor]:
        path = name.partition(".")[2].removesuffix(".weight")
        pair = Paired(self.student.get_submodule(path), self.rank)
        self.student.set_submodule(path, pair)
        return [pair.down, pair.up]

    def said(self, net: nn.Module, x_t: Tensor, t: Tensor, texts: Sequence[str]) -> Tensor:
        return self.under(net, x_t, t, [self.encoded(text) for text in texts])

    def under(self, net: nn.Module, x_t: Tensor, t: Tensor, states: Sequence[Tensor]) -> Tensor:
        return net(x_t, t, encoder_hidden_states=torch.cat(list(states))).sample

    @torch.no_grad()
    def encoded(self, text: str) -> Tensor:
        if self.how.texts_each_step or text not in self.known:
            self.known[text] = self.model.condition([text]).states
        return self.known[text]

    @torch.no_grad()
    def trajectory(self, text: str, k: int, method: ESD, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """x_t after k of N steps under guidance, by the teacher, and its timestep."""
        rule = DDIMScheduler.from_config(self.model.modules("scheduler").config, clip_sample=False)
        rule.set_timesteps(method.ddim_steps)
        x = torch.randn(method.batch_size, *self.model.latent_shape, generator=rng)
        for t in rule.timesteps[:k]:
            texts = [""] * len(x) + [text] * len(x)
            empty, said = self.said(self.teacher, torch.cat([x, x]), t, texts).chunk(2)
            x = rule.step(empty + method.start_guidance * (said - empty), t, x).prev_sample
        return x, rule.timesteps[k].expand(len(x))

    def follow(self, loss: Tensor, clip: float | None = None) -> None:
        loss.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(self.trained, clip)
        self.optimizer.step()
        self.student.zero_grad(set_to_none=True)

    def edit(self) -> DenseEdit:
        own = dict(self.teacher.named_parameters())
        return DenseEdit(
            {name: (p - own[name.partition(".")[2]]).detach() for name, p in zip(self.names, self.trained, strict=True)}
        )


def esd(model: ModelView, method: ESD, how: Plain) -> tuple[Taken, DenseEdit]:
    """The paper's loop."""
    begun, rng, spent = time.process_time(), torch.Generator().manual_seed(0), []
    (target,) = REQUEST.targets
    with gauged(model, method.iterations) as gauge:
        rival = Rival(model, "xattn", how, lambda params: torch.optim.Adam(params, lr=method.lr))
        for _ in range(method.iterations):
            x_t, t = rival.trajectory(target, int(torch.randint(method.ddim_steps, (), generator=rng)), method, rng)
            start, b = time.process_time(), len(x_t)
            with torch.no_grad():
                if how.call_each:
                    e_c, e_0 = (rival.said(rival.teacher, x_t, t, [text] * b) for text in (target, ""))
                else:
                    e_c, e_0 = rival.said(
                        rival.teacher, torch.cat([x_t, x_t]), t.repeat(2), [target] * b + [""] * b
                    ).chunk(2)
            wanted = e_0 - method.negative_guidance * (e_c - e_0)
            rival.follow((rival.said(rival.student, x_t, t, [target] * b) - wanted).square().mean())
            spent.append(time.process_time() - start)
        return Taken(time.process_time() - begun, statistics.median(spent), gauge.tensors), rival.edit()


def ablation(model: ModelView, method: ConceptAblation, how: Plain) -> Taken:
    """The paper's loop on noised latents of no picture: the frozen model's prediction under
    the anchor is the target's.
    """
    begun, rng, spent = time.process_time(), torch.Generator().manual_seed(0), []
    form = method.templates[0] if method.templates else "{}"
    target, anchor = (form.replace("{}", words[0]) for words in (REQUEST.targets, REQUEST.anchors))
    with gauged(model, method.iterations) as gauge:
        rival = Rival(model, "kv", how, lambda params: torch.optim.AdamW(params, lr=method.lr))
        maps = [rival.student.get_submodule(name.partition(".")[2].removesuffix(".weight")) for name in rival.names]
        with detach_first_token(maps):
            for _ in range(method.iterations):
                start = time.process_time()
                x_t = torch.randn(method.batch_size, *model.latent_shape, generator=rng)
                t = torch.randint(1000, (len(x_t),), generator=rng)
                with torch.no_grad():
                    wanted = rival.said(rival.teacher, x_t, t, [anchor] * len(x_t))
                error = (rival.said(rival.student, x_t, t, [target] * len(x_t)) - wanted).square().sum(1).mean()
                rival.follow(error, method.max_grad_norm)
                spent.append(time.process_time() - start)
    return Taken(time.process_time() - begun, statistics.median(spent), gauge.tensors)


def spm(model: ModelView, method: SPM, how: Plain) -> Taken:
    """The paper's loop on noise in place of x_t."""
    begun, rng, spent = time.process_time(), torch.Generator().manual_seed(0), []
    (target,), (anchor,), count = REQUEST.targets, REQUEST.anchors, method.sampling_batch_size
    with gauged(model, method.iterations) as gauge:
        rival = Rival(
            model, "transformer-maps", how, lambda params: torch.optim.AdamW(params, lr=method.lr), method.rank
        )
        for _ in range(method.iterations):
            start = time.process_time()
            x_t, t = torch.randn(1, *model.latent_shape, generator=rng), torch.randint(1000, (1,), generator=rng)
            many, t_many = x_t.repeat(count, 1, 1, 1), t.repeat(count)
            states = rival.encoded(target)
            strangers = [_as_long(torch.randn(states.shape, generator=rng), states) for _ in range(count)]
            with torch.no_grad():
                if how.call_each:
                    e_p, e_n = (rival.said(rival.teacher, x_t, t, [text]) for text in (target, anchor))
                    kept = rival.under(rival.teacher, many, t_many, strangers)
                else:
                    texts = [states, rival.encoded(anchor), *strangers]
                    e_p, e_n, kept = rival.under(
                        rival.teacher, x_t.repeat(len(texts), 1, 1, 1), t.repeat(len(texts)), texts
                    ).split([1, 1, count])
            if how.call_each:
                said, held = (
                    rival.said(rival.student, x_t, t, [target]),
                    rival.under(rival.student, many, t_many, strangers),
                )
            else:
                texts = [states, *strangers]
                said, held = rival.under(
                    rival.student, x_t.repeat(len(texts), 1, 1, 1), t.repeat(len(texts)), texts
                ).split([1, count])
            wanted = e_n - method.guidance_scale * (e_p - e_n)
            rival.follow((said - wanted).square().mean() + method.la_strength * (held - kept).square().mean())
            spent.append(time.process_time() - start)
    return Taken(time.process_time() - begun, statistics.median(spent), gauge.tensors)


def _as_long(direction: Tensor, states: Tensor) -> Tensor:
    return direction / direction.norm() * states.norm()
