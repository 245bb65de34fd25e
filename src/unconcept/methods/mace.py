"""Mass Concept Erasure (MACE): Lu et al., CVPR 2024, arXiv:2403.06135.

Three stages. First, in closed form, the words around a concept stop carrying it: they map to the same values as beside
the anchor. Then a low-rank adapter for each concept removes its words' attention from the places that show it. Finally,
in closed form, all adapters are fused into one edit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import inf
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core.errors import DataError, require
from ..core.hashing import hash_tensors
from ..core.request import Request
from ..core.seeds import BLOCK_SEED_STEP, check_seed, numbered_seed
from ..core.settings import settings_data
from ..edits import DenseEdit, LowRankEdit, TextMapEdit
from ..edits.fuse import fuse_edits, prior_moments
from ..linalg.conditions import condition_figure
from ..linalg.moments import SecondMoments
from ..linalg.ridge import RowShifts, ridge_map
from ..models import ModelView
from ..models.diffusion.vae import picture_size
from ..models.hooks.attention_maps import record_attention, text_attentions
from ..models.hooks.modules import denoiser_modules
from ..models.text.state_rows import sentences_that_fit, shared_context_rows, word_mask
from ..prompts.captions import load_captions
from ..prompts.templates import check_sentences, open_sentences, refuse_named_targets
from ..training import TrainableLowRank, TrainingPlan, loss_figures, train
from ..training.goals import TextEncodings
from ..training.gradient_transforms import GradientClip
from ..training.images.object_masks import attention_mask, foreground_mask, resize_mask_to_grid, resize_mask_to_latents
from ..training.images.training_images import generate_images, images_to_latents
from ..training.images.user_images import load_user_images
from ..training.trajectories import focused_timesteps, noise_latents
from .registry import NO_SERVICES, MethodServices, Unreached, method

_GRADIENT_NORM, _WEIGHT_DECAY = 1.0, 1e-2
_IMAGENET_STATS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation of its colours


@method(
    "mace",
    paper="arXiv:2403.06135",
    families=("sd1", "sd2", "sdxl", "sd3", "flux", "chroma", "zimage", "flux2", "flux2_klein", "qwenimage"),
    mechanism="trained",
)
@dataclass(frozen=True)
class MACE:
    """Refines text maps in closed form, trains an adapter for each concept, and fuses them in closed form.

    Scales are those of the authors' configs for 10 persons, `lamb` that of the one for birds.
    """

    crowded_from: ClassVar[int] = 100
    unreached: ClassVar[Unreached] = "any pooled text"

    lamb: float = 10.0
    """lambda, pull towards the old weights."""
    train_preserve_scale: float = 1e-4
    """beta, weight of both prior sets in the refinement."""
    fuse_preserve_scale: float = 1e-4
    """beta in the fusion."""
    preserve_weight: float = 8e4
    """Weight of the retained texts (domain prior) relative to the captions (general prior)."""
    prior: str = ""
    """Captions of the general prior: a packaged set or a file; "" is none."""
    prior_size: int = 616_000
    """Number of captions to which the sums over `prior` are scaled, COCO's by default; 0 does not scale them."""
    templates: tuple[str, ...] = ()
    """Sentences with {} in the concept's place; () takes thirty for its kind."""
    max_train_steps: int = 50
    """Training steps of each concept's adapter; 0: only refine."""
    learning_rate: float = 1e-4
    """Learning rate of the adapters."""
    rank: int = 1
    """Rank of each concept's adapter."""
    importance_sampling: bool = True
    """Draw timesteps mostly from 200 to 400; else from all."""
    use_pooler: bool = True
    """Include the end token's attention, and that of pads which repeat it (SD 1.x, SDXL)."""
    masks: Literal["attention", "foreground", "none"] = "attention"
    """How to find the object in an image; a style is everywhere."""
    pictures: int = 8
    """Images of each concept."""
    picture_prompt: str = ""
    """Prompt of the images, with {} in the concept's place; "" uses the authors' for its kind."""
    picture_steps: int = 30
    """Sampling steps of the images."""
    picture_guidance: float = 7.5
    """Guidance scale of the images."""
    pictures_file: str = ""
    """CSV table with the columns target, picture, mask, to use instead of generated images."""
    seed: int = 0
    """Seed of all random numbers."""
    compat: Literal["", "authors"] = ""
    """"authors": apply beta twice in the refinement, and normalise images with ImageNet's statistics."""

    def __post_init__(self) -> None:
        check_seed("mace", self.seed)
        scales = (
            "lamb",
            "train_preserve_scale",
            "fuse_preserve_scale",
            "preserve_weight",
            "prior_size",
            "picture_guidance",
        )
        for name in (*scales, "max_train_steps", "learning_rate"):
            require(getattr(self, name) >= 0, f"mace: {name} must be >= 0, got {getattr(self, name)}")
        for name in ("rank", "pictures", "picture_steps"):
            require(getattr(self, name) > 0, f"mace: {name} must be > 0, got {getattr(self, name)}")
        table = self.pictures_file
        require(
            not table or table.lower().endswith(".csv"),
            f"mace: pictures_file must be a .csv table of target, picture, mask, got {table!r}",
        )
        check_sentences("mace", (*self.templates, *([self.picture_prompt] if self.picture_prompt else [])))

    def erase(
        self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES
    ) -> TextMapEdit | LowRankEdit | DenseEdit:
        """Refine the text maps, train an adapter for each target on top, and fuse everything.

        Differs: retained texts are the domain prior; masks come from the model's own attention, or from the image's
        background; images are encoded in the autoencoder's range, whereas the authors' code normalises them with
        ImageNet's statistics. The pooled text of SDXL, SD3 and FLUX still names the concept. The one map of a
        joint transformer's text is refined as cross-attention's are (inferred); no adapters can be trained there.
        """
        message = f"mace: {model.family} models have no cross-attention to train adapters in: set max_train_steps = 0"
        require(model.spec.attention == "cross" or not self.max_train_steps, message)
        refuse_named_targets("mace", [self.picture_prompt], request.targets)
        refined = self.refined(model, request)
        if not self.max_train_steps:
            return refined
        forms = open_sentences("mace", request, self.templates)
        pairs = zip(request.targets, request.anchors, strict=True)
        targets = [
            _Target(number, pair[0], sentences_that_fit(model, forms, *pair), request.kind)
            for number, pair in enumerate(pairs)
        ]
        shown = [self._shown(model, target) for target in targets]
        parts, losses = [], list[float]()
        with refined.applied(model):
            for target, (latents, masks) in zip(targets, shown, strict=True):
                about = {
                    "settings": settings_data(self),
                    "request": vars(request),
                    "pictures": hash_tensors({"latents": latents, "masks": masks}),
                }
                adapter, own = self._trained(model, target, latents, masks, about)
                parts.append((adapter, [target.said(form) for form in target.forms]))
                losses += own
        preserve = self.preserved(model, request.retain, self.fuse_preserve_scale)
        fused = fuse_edits(model, parts, self.lamb, preserve, refined)
        conditions = [each.solve_figures.get("condition", inf) for each in (refined, fused)]
        return replace(fused, solve_figures=loss_figures(losses) | condition_figure(*conditions))

    @torch.no_grad()
    def refined(self, model: ModelView, request: Request) -> TextMapEdit:
        """Solve W' = (sum W e_g e_f^T + beta W M + lam W) (sum e_f e_f^T + beta M + lam I)^-1 as W (I + T).

        e_f, e_g (n, d) are rows of the words shared by a sentence with the target and the same one with the anchor;
        M (d, d) are moments of captions and retained texts. Differs: the authors' script multiplies M by beta twice, so
        their 1e-4 acts as 1e-8.
        """
        beta = self.train_preserve_scale ** (2 if self.compat == "authors" else 1)
        forms = open_sentences("mace", request, self.templates)
        pairs = zip(request.targets, request.anchors, strict=True)
        rows = (shared_context_rows(model, sentences_that_fit(model, forms, *pair), *pair) for pair in pairs)
        wide = torch.promote_types(model.dtype, torch.float32)
        # Nothing but the solver holds the sums, which are large.
        solved = ridge_map(
            RowShifts.over(chain.from_iterable(rows), self.preserved(model, request.retain, beta)), self.lamb, wide
        )
        figures = condition_figure(solved.condition)
        return TextMapEdit(solved.x, solved.y, tuple(model.text_maps()), solve_figures=figures)

    def preserved(self, model: ModelView, retain: Sequence[str], scale: float) -> SecondMoments:
        """Return beta M (d, d): the captions' moments, scaled to `prior_size`, plus the retained texts' moments."""
        # Differs: the authors cut longer captions.
        texts = load_captions(self.prior)
        return prior_moments(model, texts, retain, self.prior_size, self.preserve_weight).weighted(scale)

    def _shown(self, model: ModelView, target: "_Target") -> tuple[Tensor, Tensor]:
        """Return images of a target as latents (n, c, h, w), and masks (n, 1, h, w) bool of the cells that show it.

        The unedited model generates the images.
        """
        masks = list[Tensor | None]()
        if self.pictures_file:
            pictures, masks = load_user_images(self.pictures_file, target.name, picture_size(model))
        else:
            usual = "a photo in the style of {}" if target.kind == "style" else "a photo of the {}"
            prompts = [target.said(self.picture_prompt or usual)] * self.pictures
            seeds = [self._seed(target) * BLOCK_SEED_STEP + i for i in range(self.pictures)]
            pictures = generate_images(model, prompts, seeds, self.picture_steps, self.picture_guidance, "dpm")
        latents = images_to_latents(model, imagenet_shift(pictures) if self.compat == "authors" else pictures)
        found = self._masks(model, target, pictures, latents)
        for i, mask in enumerate(masks):
            if mask is not None:
                found[i] = resize_mask_to_latents(mask[None], latents)[0]
                seen = (
                    f"mace: {self.pictures_file}: mask {i + 1} of {target.name!r} is white in no cell of"
                    f" {latents.shape[-1]}x{latents.shape[-2]}"
                )
                require(
                    bool(found[i].any()),
                    f"{seen}, so nothing would be learned; make it white on the object, or leave its cell empty",
                    DataError,
                )
        return latents, found

    def _masks(self, model: ModelView, target: "_Target", pictures: Tensor, latents: Tensor) -> Tensor:
        if target.kind == "style" or self.masks == "none":
            return torch.ones_like(latents[:, :1], dtype=torch.bool)
        if self.masks == "foreground":
            return resize_mask_to_latents(foreground_mask(pictures), latents)
        form, rng = target.forms[0], torch.Generator().manual_seed(self._seed(target))
        return attention_mask(
            model, latents, target.said(form), word_mask(model, form, target.name, self.use_pooler), rng
        )

    def _seed(self, target: "_Target") -> int:
        return numbered_seed(self.seed, target.number)

    def _trained(
        self, model: ModelView, target: "_Target", latents: Tensor, masks: Tensor, about: Mapping[str, object]
    ) -> tuple[LowRankEdit, list[float]]:
        """Minimise the sum over cross-attentions of |A[heads, places in mask, S]|_F for a noised image and a sentence.

        A are the attention probabilities from places of the image to tokens. The keys and values of the text are
        trained.
        """
        maps, texts, seed = denoiser_modules(model, model.text_maps()), TextEncodings.of(model), self._seed(target)
        trained, tokens = (
            TrainableLowRank(model, maps, self.rank, seed),
            [word_mask(model, form, target.name, self.use_pooler) for form in target.forms],
        )
        plan = TrainingPlan(
            self.max_train_steps,
            self.learning_rate,
            "adamw",
            _WEIGHT_DECAY,
            seed,
            transforms=[GradientClip(_GRADIENT_NORM)],
        )
        with record_attention(model, text_attentions(model)) as kept:

            def loss(step: int, rng: torch.Generator) -> Tensor:
                i, form = (int(torch.randint(count, (), generator=rng)) for count in (len(latents), len(target.forms)))
                t = focused_timesteps(1, rng, len(model.schedule.alpha)) if self.importance_sampling else None
                x_t, t, _ = noise_latents(model, latents[[i]], rng, t)
                for found in kept.values():
                    found.clear()
                model.denoise(x_t, t, texts([target.said(target.forms[form])]))
                return attention_loss([found for (found,) in kept.values()], masks[[i]], tokens[form])

            losses = train(trained, loss, plan, about, name=f"mace-{target.number + 1}")
        return trained.edit({}), losses


@dataclass(frozen=True)
class _Target:
    """One of a request's targets, and the sentences in which it is erased."""

    number: int
    name: str
    forms: Sequence[str]
    kind: str

    def said(self, form: str) -> str:
        return form.replace("{}", self.name)


def imagenet_shift(pictures: Tensor) -> Tensor:
    """Convert images (n, 3, H, W) in [0, 1] so that an encoder of 2 x - 1 gets them normalised as for ImageNet."""
    mean, spread = (pictures.new_tensor(each)[:, None, None] for each in _IMAGENET_STATS)
    return ((pictures - mean) / spread + 1) / 2


def attention_loss(found: Sequence[Tensor], mask: Tensor, tokens: Tensor) -> Tensor:
    """Sum over cross-attentions the norm of probabilities (b, heads, p, l) inside the masks and on the tokens (l,).

    Masks are (b, 1, h, w). Returns the mean over b.
    """
    norms = [
        (a * resize_mask_to_grid(mask, a.shape[2])[:, None, :, None] * tokens).flatten(1).norm(dim=1) for a in found
    ]
    return torch.stack(norms).sum(0).mean()
