"""Few-shot erasing: Fuchi and Takagi, BMVC 2024, arXiv:2405.07288.

Takes a few steps up the diffusion loss on a few images of the target, in the text encoder alone. It sets no anchor: the
model decides what replaces the target.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core.errors import require
from ..core.hashing import hash_tensors
from ..core.request import Request
from ..core.seeds import check_seed, numbered_seed
from ..core.settings import settings_data
from ..edits import DenseEdit
from ..models import ModelView
from ..models.images import read_picture_folder
from ..models.text.parameters import encoder_parameters
from ..models.text.state_rows import sentences_that_fit
from ..prompts.templates import check_sentences, open_sentences
from ..training import TrainableWeights, TrainingPlan, loss_figures, train
from ..training.budget import number_in_turn, training_budget
from ..training.images.picture_sets import draw_pictures
from ..training.images.training_images import images_to_latents, take_in_turn
from ..training.parameter_groups import TextParameterSelector, select_text_parameters
from ..training.trajectories import noise_latents
from .registry import NO_SERVICES, MethodServices, Unreached, method

EncoderParts = Literal["mlp-final-attn", "mlp-only", "attn-only", "mlp-attn", "norms", "embeddings", "all"]
_SELECTORS: Mapping[EncoderParts, TextParameterSelector] = {
    "mlp-final-attn": "text-mlp-lastattn",
    "mlp-only": "text-mlp",
    "attn-only": "text-attn",
    "mlp-attn": "text-mlp-attn",
    "norms": "text-norms",
    "embeddings": "text-embeddings",
    "all": "text-all",
}


@method("few-shot", paper="arXiv:2405.07288", families=("sd1", "sd2", "sdxl"), version=2)
@dataclass(frozen=True)
class FewShot:
    """Unlearns a few images of the target in the text encoder's MLPs and last attention.

    Defaults from the authors' `train.py`.
    """

    unreached: ClassVar[Unreached] = "nothing"

    parts: EncoderParts = "mlp-final-attn"
    """What is trained: the paper's study; "mlp-final-attn" is its choice and the only one of the authors' script."""
    lr: float = 1e-5
    """Learning rate."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Betas of Adam."""
    eps: float = 1e-6
    """Epsilon of Adam."""
    weight_decay: float = 1e-8
    """Weight decay of Adam."""
    batch_size: int = 2
    """Images in a step."""
    epochs: int = 5
    """Passes over the images; nothing else bounds the ascent. More than four targets have more of the user's images."""
    images: str = ""
    """Folder of images of the target; "" lets the unedited model generate them."""
    pictures: int = 4
    """Number of generated images for up to four targets; more targets have more."""
    picture_steps: int = 25
    """Sampling steps of the generated images."""
    picture_guidance: float = 7.5
    """Guidance scale of the generated images (inferred)."""
    is_zero_shot: bool = False
    """Use no images, but latents uniform in [0, 1], one batch in each epoch."""
    templates: tuple[str, ...] = ()
    """Sentences with {} in the target's place; () takes thirty for its kind."""
    seed: int = 0
    """Seed of all random numbers."""

    def __post_init__(self) -> None:
        check_seed("few-shot", self.seed)
        for name in ("lr", "weight_decay", "epochs", "picture_guidance"):
            require(getattr(self, name) >= 0, f"few-shot: {name} must be >= 0, got {getattr(self, name)}")
        for name in ("eps", "batch_size", "pictures", "picture_steps"):
            require(getattr(self, name) > 0, f"few-shot: {name} must be > 0, got {getattr(self, name)}")
        require(
            all(0 <= beta < 1 for beta in self.betas), f"few-shot: betas must be 0 to below 1, got {list(self.betas)}"
        )
        require(
            not (self.is_zero_shot and self.images),
            f"few-shot: is_zero_shot uses no pictures, but images is {self.images!r}: leave out one of the two",
        )
        check_sentences("few-shot", self.templates)

    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> DenseEdit:
        """Minimise -|eps(x_t, T(p)) - eps|^2, mean over the images x_0 of a batch; p names the target, T encodes text.

        Adam goes `epochs` times over the images, with uniform t. SDXL's two encoders are trained together. In v and
        flow models their own training target replaces eps. A generated image keeps the prompt that it was drawn with;
        the user's images and random latents get any of the prompts, as the authors' do. Differs: sentences are ours,
        the authors' are textual inversion's; we look up the last layer that is used, theirs is number 11. Differs:
        images are scaled to the shorter side and cropped, so that none is distorted. Differs: the authors train on a
        few real images, generated ones are ours; the last epoch is the edit, they save each. Anchors and retained texts
        are not used.
        """
        trained = TrainableWeights(
            model,
            tuple(
                name
                for own in encoder_parameters(model).values()
                for name in select_text_parameters(own, _SELECTORS[self.parts])
            ),
        )
        prompts = self._prompts(model, request)
        z, own = self._latents(model, prompts)
        # More targets have more images of the model's own, or more passes over what there is.
        epochs = self.epochs if own else training_budget(self.epochs, len(prompts))
        batches = ceil(len(z) / self.batch_size)

        def loss(step: int, rng: torch.Generator) -> Tensor:
            epoch, place = divmod(step, batches)
            order = torch.randperm(len(z), generator=torch.Generator().manual_seed(numbered_seed(self.seed, epoch)))
            rows = order[place * self.batch_size :][: self.batch_size].tolist()
            x_t, t, wanted = noise_latents(model, z[rows], rng)
            drawn = torch.randint(sum(map(len, prompts)), (len(rows),), generator=rng).tolist()
            asked = [own[i] for i in rows] if own else self._any_prompts(prompts, step, drawn)
            return -(model.denoise(x_t, t, model.condition(asked)) - wanted).float().square().mean()

        plan = TrainingPlan(
            epochs * batches,
            self.lr,
            weight_decay=self.weight_decay,
            seed=self.seed,
            betas=self.betas,
            eps=self.eps,
        )
        about = {"settings": settings_data(self), "request": vars(request), "latents": hash_tensors({"latents": z})}
        losses = train(trained, loss, plan, about, name="few-shot")
        return trained.edit(loss_figures(losses))

    def _prompts(self, model: ModelView, request: Request) -> list[list[str]]:
        """Put each target into every sentence that fits into the encoder with it."""
        forms, found = open_sentences("few-shot", request, self.templates), []
        for target in request.targets:
            found.append([form.replace("{}", target) for form in sentences_that_fit(model, forms, target)])
        return found

    def _any_prompts(self, prompts: Sequence[Sequence[str]], step: int, drawn: Sequence[int]) -> list[str]:
        """Return a random prompt for each row of a step, by its random number; targets take turns."""
        found = []
        for row, number in enumerate(drawn, step * self.batch_size):
            own = prompts[number_in_turn(row, len(prompts), self.seed)]
            found.append(own[number % len(own)])
        return found

    def _latents(self, model: ModelView, prompts: Sequence[Sequence[str]]) -> tuple[Tensor, list[str]]:
        """Return latents (n, c, h, w): of the user's images, of the model's own, or random ones without images.

        The model's own images come with their prompts: every target's in turn, each drawn at least once.
        """
        if self.is_zero_shot:
            noise = torch.rand(self.batch_size, *model.latent_shape, generator=torch.Generator().manual_seed(self.seed))
            return noise.to(model.device, model.dtype), []
        if self.images:
            pictures = read_picture_folder(Path(self.images), model, self.batch_size)
            return images_to_latents(model, pictures).to(model.dtype), []
        shown = take_in_turn(prompts, max(training_budget(self.pictures, len(prompts)), len(prompts)))
        return draw_pictures(model, shown, self).latents, shown
