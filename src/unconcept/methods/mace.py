"""Mass Concept Erasure (MACE): Lu et al., CVPR 2024, arXiv:2403.06135.

Three stages. The words around a concept stop carrying it: they are read as they are beside another word, in closed form. A low-rank
adapter a concept takes the attention of its own words out of the places where it is seen. All adapters become one edit, in closed form.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import DataError, require
from ..core.hashing import hash_tensors
from ..core.request import Request
from ..core.settings import check_seed, dump
from ..edits import DenseEdit, LowRankEdit, TextMapEdit
from ..edits.fuse import fuse
from ..linalg.moments import Moments, Shifts
from ..linalg.ridge import ridge_map
from ..models import ModelView
from ..models.diffusion.vae import picture_size
from ..models.hooks.attention_maps import attention_probabilities, text_attentions
from ..models.hooks.modules import modules_named
from ..models.text.state_rows import fits, fitting, moments_of, shared_rows, word_in
from ..prompts.captions import captions
from ..prompts.templates import check_sentences, sentences
from ..training import LowRank, Plan, figures, train
from ..training.goals import Texts
from ..training.gradient_transforms import Clip
from ..training.images.object_masks import at_size, attending, in_front, on_cells
from ..training.images.training_images import drawn, encoded
from ..training.images.user_images import given_pictures
from ..training.trajectories import PRIMES, focused, noised
from .registry import method

CLIP, WEIGHT_DECAY = 1.0, 1e-2
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and spread of its colours


@method(
    "mace",
    paper="arXiv:2403.06135",
    families=("sd1", "sd2", "sdxl"),
    way="trained",
    elsewhere="no cross-attention reads the text there, and the paper defines its refinement for those maps alone",
)
@dataclass(frozen=True)
class MACE:
    """Closed-form refinement, an adapter a concept, closed-form fusion. Scales of the authors' configs for 10 persons, `lamb` of the one for birds."""

    lamb: float = 10.0  # lambda, pull towards the old weights
    train_preserve_scale: float = 1e-4  # beta, weight of both prior sets in the refinement
    fuse_preserve_scale: float = 1e-4  # the same in the fusion
    preserve_weight: float = 8e4  # of the retained texts, the domain prior, beside the captions, the general one
    prior: str = ""  # captions: a packaged set or a file; "" is none
    prior_size: int = 616_000  # captions that `prior` stands for: its sums are scaled to COCO's number; 0 takes them as they are
    templates: tuple[str, ...] = ()  # sentences around the concept, {} in its place; () takes thirty of its kind
    max_train_steps: int = 50  # of each concept's adapter; 0: the refinement alone
    learning_rate: float = 1e-4
    rank: int = 1
    importance_sampling: bool = True  # timesteps mostly within 200 to 400; else any
    use_pooler: bool = True  # the end token's attention too, and that of the pads where they repeat it (SD 1.x, SDXL)
    masks: Literal["attention", "foreground", "none"] = "attention"  # where the object is; a style is everywhere
    pictures: int = 8  # a concept
    picture_prompt: str = ""  # {} in the concept's place; "" is the authors' for its kind
    picture_steps: int = 30
    picture_guidance: float = 7.5
    pictures_file: str = ""  # CSV: target, picture, mask; in place of drawn ones
    seed: int = 0
    compat: Literal["", "authors"] = ""  # "authors": beta counts twice in the refinement, and pictures are shifted as ImageNet's

    def __post_init__(self) -> None:
        check_seed("mace", self.seed)
        scales = ("lamb", "train_preserve_scale", "fuse_preserve_scale", "preserve_weight", "prior_size", "picture_guidance")
        for name in (*scales, "max_train_steps", "learning_rate"):
            require(getattr(self, name) >= 0, f"mace: {name} must be >= 0, got {getattr(self, name)}")
        for name in ("rank", "pictures", "picture_steps"):
            require(getattr(self, name) > 0, f"mace: {name} must be > 0, got {getattr(self, name)}")
        table = self.pictures_file
        require(not table or table.lower().endswith(".csv"), f"mace: pictures_file must be a .csv table of target, picture, mask, got {table!r}")
        check_sentences("mace", (*self.templates, *([self.picture_prompt] if self.picture_prompt else [])))

    def erase(self, model: ModelView, request: Request) -> TextMapEdit | LowRankEdit | DenseEdit:
        """Refine, train an adapter for each target on top, fuse.

        Differs: retained texts are the domain prior; masks come from the model's own attention, or from the picture's background, and
        pictures are encoded in the autoencoder's range, where the authors' code shifts them as ImageNet's.
        """
        refined = self.refined(model, request)
        if not self.max_train_steps:
            return refined
        forms, pairs = sentences(request.kind, self.templates), zip(request.targets, request.anchors, strict=True)
        targets = [_Target(number, pair[0], fitting(model, forms, *pair), request.kind) for number, pair in enumerate(pairs)]
        shown = [self._shown(model, target) for target in targets]
        parts, losses = [], list[float]()
        with refined.applied(model):
            for target, (latents, masks) in zip(targets, shown, strict=True):
                about = {"settings": dump(self), "request": vars(request), "pictures": hash_tensors({"latents": latents, "masks": masks})}
                adapter, own = self._trained(model, target, latents, masks, about)
                parts.append((adapter, [target.said(form) for form in target.forms]))
                losses += own
        preserve = self.preserved(model, request.retain, self.fuse_preserve_scale)
        return replace(fuse(model, parts, self.lamb, preserve, refined), solve_figures=figures(losses))

    @torch.no_grad()
    def refined(self, model: ModelView, request: Request) -> TextMapEdit:
        """W' = (sum W e_g e_f^T + beta W M + lam W) (sum e_f e_f^T + beta M + lam I)^-1 as W (I + T).

        Rows e_f, e_g (n, d) of the words that a sentence with the target and the same with the anchor share; M (d, d) of
        captions and retained texts. Differs: the authors' script multiplies M by beta twice, so their 1e-4 acts as 1e-8.
        """
        beta = self.train_preserve_scale ** (2 if self.compat == "authors" else 1)
        forms, pairs = sentences(request.kind, self.templates), zip(request.targets, request.anchors, strict=True)
        first, *others = (Shifts.of(*shared_rows(model, fitting(model, forms, *pair), *pair)) for pair in pairs)
        found = sum(others, first)
        t = ridge_map(found, self.preserved(model, request.retain, beta), self.lamb)
        wide = torch.promote_types(model.dtype, torch.float32)
        return TextMapEdit(torch.eye(len(t), dtype=wide, device=t.device), t.to(wide), tuple(model.text_maps()))

    def preserved(self, model: ModelView, retain: Sequence[str], scale: float) -> Moments:
        """beta M (d, d): the captions' moments at the size they stand for, and the retained texts' moments."""
        texts = [text for text in captions(self.prior) if fits(model, text)]  # Differs: the authors cut longer captions.
        size = self.prior_size / len(texts) if self.prior_size and texts else 1.0
        general = moments_of(model, texts).weighted(size)
        return (general + moments_of(model, retain).weighted(self.preserve_weight)).weighted(scale)

    def _shown(self, model: ModelView, target: "_Target") -> tuple[Tensor, Tensor]:
        """Pictures of a target as latents (n, c, h, w), and masks (n, 1, h, w) bool of where they show it. The unedited model draws them."""
        masks = list[Tensor | None]()
        if self.pictures_file:
            pictures, masks = given_pictures(self.pictures_file, target.name, picture_size(model))
        else:
            usual = "a photo in the style of {}" if target.kind == "style" else "a photo of the {}"
            prompts = [target.said(self.picture_prompt or usual)] * self.pictures
            seeds = [self._seed(target) * PRIMES[1] + i for i in range(self.pictures)]
            pictures = drawn(model, prompts, seeds, self.picture_steps, self.picture_guidance, "dpm")
        latents = encoded(model, shifted(pictures) if self.compat == "authors" else pictures)
        found = self._masks(model, target, pictures, latents)
        for i, mask in enumerate(masks):
            if mask is not None:
                found[i] = on_cells(mask[None], latents)[0]
                seen = f"mace: {self.pictures_file}: mask {i + 1} of {target.name!r} is white in no cell of {latents.shape[-1]}x{latents.shape[-2]}"
                require(bool(found[i].any()), f"{seen}: nothing would be learned from it; make it white on the object, or leave its cell empty", DataError)
        return latents, found

    def _masks(self, model: ModelView, target: "_Target", pictures: Tensor, latents: Tensor) -> Tensor:
        if target.kind == "style" or self.masks == "none":
            return torch.ones_like(latents[:, :1], dtype=torch.bool)
        if self.masks == "foreground":
            return on_cells(in_front(pictures), latents)
        form, rng = target.forms[0], torch.Generator().manual_seed(self._seed(target))
        return attending(model, latents, target.said(form), word_in(model, form, target.name, self.use_pooler), rng)

    def _seed(self, target: "_Target") -> int:
        return self.seed * PRIMES[0] + target.number

    def _trained(self, model: ModelView, target: "_Target", latents: Tensor, masks: Tensor, about: Mapping[str, object]) -> tuple[LowRankEdit, list[float]]:
        """Minimise sum over cross-attentions of |A[heads, places in the mask, S]|_F of one noised picture under one sentence.

        A are the probabilities of places of the picture looking at tokens; what is trained are keys and values of the text.
        """
        maps, texts, seed = modules_named(model, model.text_maps()), Texts.of(model), self._seed(target)
        trained, tokens = LowRank(model, maps, self.rank, seed), [word_in(model, form, target.name, self.use_pooler) for form in target.forms]
        plan = Plan(self.max_train_steps, self.learning_rate, "adamw", WEIGHT_DECAY, seed, transforms=[Clip(CLIP)])
        with attention_probabilities(model, text_attentions(model)) as kept:

            def loss(step: int, rng: torch.Generator) -> Tensor:
                i, form = (int(torch.randint(count, (), generator=rng)) for count in (len(latents), len(target.forms)))
                t = focused(1, rng, len(model.schedule.alpha)) if self.importance_sampling else None
                x_t, t, _ = noised(model, latents[[i]], rng, t)
                for found in kept.values():
                    found.clear()
                model.denoise(x_t, t, texts([target.said(target.forms[form])]))
                return attention_on([found for (found,) in kept.values()], masks[[i]], tokens[form])

            losses = train(trained, loss, plan, about, name=f"mace-{target.number + 1}")
        return trained.edit({}), losses


@dataclass(frozen=True)
class _Target:
    """One of a request's targets, and the sentences it is erased in."""

    number: int
    name: str
    forms: Sequence[str]
    kind: str

    def said(self, form: str) -> str:
        return form.replace("{}", self.name)


def shifted(pictures: Tensor) -> Tensor:
    """Pictures (n, 3, H, W) in [0, 1] that an encoder, which takes 2 x - 1, is given as ImageNet's networks want theirs."""
    mean, spread = (pictures.new_tensor(each)[:, None, None] for each in IMAGENET)
    return ((pictures - mean) / spread + 1) / 2


def attention_on(found: Sequence[Tensor], mask: Tensor, tokens: Tensor) -> Tensor:
    """Sum over cross-attentions of the norm of their probabilities (b, heads, p, l) within masks (b, 1, h, w) and on tokens (l,), mean over b."""
    norms = [(a * at_size(mask, a.shape[2])[:, None, :, None] * tokens).flatten(1).norm(dim=1) for a in found]
    return torch.stack(norms).sum(0).mean()
