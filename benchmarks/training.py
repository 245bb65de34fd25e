"""Trainings against plain transcriptions of their method cards, in one run and on one thread: `python -m benchmarks.training`.

The rivals are written here: a second model for the teacher, every prompt encoded anew in each step, a call of the teacher for each prompt,
a gradient for every weight, and for ESD a trajectory of its own for each x_t. What makes the difference is taken away cause by cause.
Seconds are CPU seconds; tensors are those of the denoiser, its copies, gradients and optimizer, as they stand after a step.
"""

import argparse
import copy
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from unconcept.core.recipe import load_recipe
from unconcept.core.request import Request
from unconcept.core.settings import build
from unconcept.edits import DenseEdit
from unconcept.methods.concept_ablation import ConceptAblation
from unconcept.methods.esd import ESD
from unconcept.models import ModelView, open_model
from unconcept.models.hooks import first_detached
from unconcept.models.parts import denoiser_parameters
from unconcept.models.unet import UNetView
from unconcept.training import Session, session
from unconcept.training.selectors import Selector, selected

REQUEST = Request(("guitar",), ("piano",))  # A tune concept.


@dataclass(frozen=True)
class Plain:
    """What a rival does the plain way; each False takes one cause away."""

    every_gradient: bool = True
    texts_each_step: bool = True
    call_each: bool = True


CAUSES = {
    "plain": Plain(),
    "+ gradients of what is trained alone": Plain(every_gradient=False),
    "+ texts encoded once": Plain(every_gradient=False, texts_each_step=False),
    "+ one call of the teacher": Plain(False, False, False),
}


@dataclass(frozen=True)
class Taken:
    """What a training took."""

    whole: float  # CPU seconds, of everything
    update: float  # of one step, x_t given, by the median
    tensors: int  # bytes


@dataclass
class Rival:
    """A student beside its teacher, both whole, and an optimizer."""

    model: ModelView
    which: Selector
    how: Plain
    make: Callable[[list[Tensor]], torch.optim.Optimizer]
    known: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.teacher = self.model.modules("denoiser")
        self.student = copy.deepcopy(self.teacher)
        self.names = selected(denoiser_parameters(self.model), self.which)
        own = dict(self.student.named_parameters())
        self.trained = [own[name.partition(".")[2]] for name in self.names]
        if not self.how.every_gradient:
            self.student.requires_grad_(False)
            for parameter in self.trained:
                parameter.requires_grad_(True)
        self.optimizer = self.make(self.trained)

    def said(self, net: torch.nn.Module, x_t: Tensor, t: Tensor, texts: Sequence[str]) -> Tensor:
        return net(x_t, t, encoder_hidden_states=torch.cat([self.encoded(text) for text in texts])).sample

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
        return DenseEdit({name: (p - own[name.partition(".")[2]]).detach() for name, p in zip(self.names, self.trained, strict=True)})


def esd(model: ModelView, method: ESD, how: Plain) -> tuple[Taken, DenseEdit]:
    """The card's loop."""
    begun, before = time.process_time(), alive() - own_bytes(model)
    rival, rng, spent = Rival(model, "xattn", how, lambda params: torch.optim.Adam(params, lr=method.lr)), torch.Generator().manual_seed(0), []
    (target,) = REQUEST.targets
    for _ in range(method.iterations):
        x_t, t = rival.trajectory(target, int(torch.randint(method.ddim_steps, (), generator=rng)), method, rng)
        start, b = time.process_time(), len(x_t)
        with torch.no_grad():
            if how.call_each:
                e_c, e_0 = (rival.said(rival.teacher, x_t, t, [text] * b) for text in (target, ""))
            else:
                e_c, e_0 = rival.said(rival.teacher, torch.cat([x_t, x_t]), t.repeat(2), [target] * b + [""] * b).chunk(2)
        wanted = e_0 - method.negative_guidance * (e_c - e_0)
        rival.follow((rival.said(rival.student, x_t, t, [target] * b) - wanted).square().mean())
        spent.append(time.process_time() - start)
    return Taken(time.process_time() - begun, statistics.median(spent), alive() - before), rival.edit()


def ablation(model: ModelView, method: ConceptAblation, how: Plain) -> Taken:
    """The card's loop on noised latents of no picture: the frozen model's prediction under the anchor is the target's."""
    begun, before = time.process_time(), alive() - own_bytes(model)
    rival, rng, spent = Rival(model, "kv", how, lambda params: torch.optim.AdamW(params, lr=method.lr)), torch.Generator().manual_seed(0), []
    form = method.templates[0] if method.templates else "{}"
    target, anchor = (form.replace("{}", words[0]) for words in (REQUEST.targets, REQUEST.anchors))
    maps = [rival.student.get_submodule(name.partition(".")[2].removesuffix(".weight")) for name in rival.names]
    with first_detached(maps):
        for _ in range(method.iterations):
            start = time.process_time()
            x_t = torch.randn(method.batch_size, *model.latent_shape, generator=rng)
            t = torch.randint(1000, (len(x_t),), generator=rng)
            with torch.no_grad():
                wanted = rival.said(rival.teacher, x_t, t, [anchor] * len(x_t))
            error = (rival.said(rival.student, x_t, t, [target] * len(x_t)) - wanted).square().sum(1).mean()
            rival.follow(error, method.max_grad_norm)
            spent.append(time.process_time() - start)
    return Taken(time.process_time() - begun, statistics.median(spent), alive() - before)


def ours(model: ModelView, method: ESD | ConceptAblation) -> tuple[Taken, DenseEdit]:
    """The library's own, told of after each step: the median step of a pool draws nothing."""
    ends, tensors, begun, before = list[float](), [0], time.process_time(), alive() - own_bytes(model)

    def tell(progress: object) -> None:
        ends.append(time.process_time())
        tensors[0] = alive() - before if len(ends) == method.iterations else 0

    with session(Session(tell)):
        edit = method.erase(model, REQUEST)
    steps = [after - before for before, after in pairwise(ends)]
    return Taken(time.process_time() - begun, statistics.median(steps), tensors[0]), edit


def alive() -> int:
    """Bytes of all tensors there are."""
    gc.collect()
    stores = {thing.untyped_storage().data_ptr(): thing.untyped_storage().nbytes() for thing in gc.get_objects() if issubclass(type(thing), Tensor)}
    return sum(stores.values())


def own_bytes(model: ModelView) -> int:
    return sum(p.numel() * p.element_size() for p in model.modules("denoiser").parameters())


def wide(tokens: object) -> UNetView:
    """Random weights in the shape of SD 1.4's denoiser and text encoder at 16 x 16 latents, with a small autoencoder."""
    torch.manual_seed(0)
    net = UNet2DConditionModel(sample_size=16, cross_attention_dim=768)  # diffusers' other defaults are SD 1.x's
    text = CLIPTextConfig(
        vocab_size=len(tokens), hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, max_position_embeddings=77
    )
    blocks = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    vae = AutoencoderKL(down_block_types=blocks[0], up_block_types=blocks[1], block_out_channels=(32,) * 4, latent_channels=4)
    rule = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    pipe = StableDiffusionPipeline(vae, CLIPTextModel(text), tokens, net, rule, None, None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    for part in (net, vae, pipe.text_encoder):
        part.eval()
    return UNetView.from_pipeline(pipe, "SD 1.4 wide")


def compared(title: str, rivals: dict[str, Taken], own: Taken) -> None:
    """The update alone: each cause's seconds and how many times ours they are; tensors last."""
    print(f"\n{title}: one update, x_t given")
    for name, taken in {**rivals, "ours": own}.items():
        print(f"  {name:40} {taken.update:8.3f} s  {taken.update / own.update:5.2f} x ours  {taken.tensors / 2**20:8.0f} MiB")
    print(f"  tensors, ours of plain: {own.tensors / rivals['plain'].tensors:.2f}")


def updates(model: ModelView, method: ESD, ablating: ConceptAblation, steps: int) -> None:
    method = replace(method, iterations=steps, pool=1, sampling="reference")
    plain = {name: esd(model, replace(method, ddim_steps=2), how)[0] for name, how in CAUSES.items()}
    compared(f"ESD-x on {model.name}", plain, ours(model, replace(method, ddim_steps=steps * method.batch_size))[0])
    ablating = replace(ablating, iterations=steps, target_model="frozen", pictures=ablating.batch_size, picture_steps=1, augment=False)
    plain = {name: ablation(model, ablating, how) for name, how in list(CAUSES.items())[:-1]}
    compared(f"Concept Ablation (keys and values, frozen target) on {model.name}", plain, ours(model, ablating)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=7, help="updates to take the median of")
    parser.add_argument("--only", choices=("whole", "moji", "wide"))
    parser.add_argument("--iterations", type=int, help="of the whole training; the recipe's by default")
    parser.add_argument("--out", type=Path, default=Path("out/training"), help="folder for both edits of the whole training, and what the judge says")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = open_model(device="cpu")
    model.modules("denoiser")  # Builds the networks, which are read when they are first needed.
    method = build(ESD, load_recipe("moji-esd").settings)
    ablating = build(ConceptAblation, load_recipe("moji-concept-ablation").settings)
    if args.only in (None, "whole"):
        method_ = method if args.iterations is None else replace(method, iterations=args.iterations)
        (own, edit), (plain, other) = ours(model, method_), esd(model, method_, Plain())
        print(f"whole ESD-x on moji, {method_.iterations} steps: plain {plain.whole:.1f} s, ours {own.whole:.1f} s, {plain.whole / own.whole:.1f} times")
        print(judged(model, {"plain": other, "ours": edit}, args.out))
    if args.only in (None, "moji"):
        updates(model, method, ablating, args.steps)
    if args.only in (None, "wide"):
        updates(wide(model.pipeline.tokenizer), method, ablating, args.steps)


def judged(model: ModelView, edits: dict[str, DenseEdit], out: Path) -> str:
    """A table of what both edits leave and keep, beside the unedited model."""
    from unconcept.evaluation.editing import origin_for
    from unconcept.evaluation.evaluate import Run, evaluate
    from unconcept.evaluation.markdown import results_table

    files = tuple(out / f"{name}.safetensors" for name in edits)
    out.mkdir(parents=True, exist_ok=True)
    for file, edit in zip(files, edits.values(), strict=True):
        edit.stamped(origin_for(edit, model, REQUEST, "esd", {})).save(file)
    return results_table(evaluate(Run(REQUEST.targets, out / "judged", edits=files, suite="results", device="cpu", overwrite=True)).findings)


if __name__ == "__main__":
    main()
