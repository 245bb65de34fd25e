"""SLUG, Single Layer Unlearning Gradient: Cai et al., ICML 2025, arXiv:2407.11867 (from the authors' code).

Moves one layer of a CLIP's text tower, or of its vision tower, along one gradient, which separates images of the target
from its name. Bisection finds the length of the move.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import NumericsError, RequestError, SettingsError, require
from ..core.request import Request
from ..core.seeds import check_seed, picture_seeds
from ..edits import DenseEdit
from ..linalg.layer_search import bisect_ratio, pareto_front
from ..models import ModelView
from ..models.images import read_picture_folder
from ..models.module_view import AnyModel, ModuleView
from ..models.text.parameters import encoder_parameters, layer_number
from ..models.text.state_rows import sentences_that_fit
from ..models.vision.paired_clip import VisionTextTowers
from ..prompts.templates import check_sentences, open_sentences
from ..training import TrainableWeights, loss_gradient
from ..training.clip_objectives import EmbeddedPairs, ImageTextPairs
from ..training.images.training_images import generate_images, take_in_turn
from .registry import NO_SERVICES, MethodServices, PresenceJudge, Promise, method

_FUSED_MATRICES = (r"self_attn\.[qkv]_proj", r"mlp\.fc[12]")  # matrices that move together
_NamedTensors = dict[str, Tensor]


@method(
    "slug",
    paper="arXiv:2407.11867",
    families=("sd1", "sd2", "sdxl"),
    mechanism="one-step",
    uses=("vision_towers", "presence_judge"),
)
@dataclass(frozen=True)
class SLUG:
    """Moves one layer of the text encoder along one gradient.

    Defaults from the authors' scripts, except for numbers of images.
    """

    promises: ClassVar[tuple[Promise, ...]] = ("changes", "leaves-vision-tower")

    clip: str = ""
    """Folder of the whole CLIP that the text encoder belongs to; moji has its own."""
    clip_2: str = ""
    """Folder of the whole CLIP of SDXL's second encoder."""
    layer: str = ""
    """Layer to move, such as "layers.11.self_attn.out_proj"; "" takes the deepest of the Pareto front."""
    concepts: Literal["together", "each"] = "together"
    """One gradient for all targets, or for each target its own gradient, layer and length, which are added up."""
    batch_size: int = 4
    """Pairs in a batch of the retained texts' contrastive loss."""
    initial_ratio_divisor: float = 10.0
    """The first step is |W| / |G| divided by this."""
    max_search_iterations: int = 10
    """Steps of the search for the length of the move."""
    top_k: int = 5
    """The target is erased if none of its images has its name among this many nearest names."""
    look_pictures: int = 0
    """Then sample and judge this many images of each target: it is erased if none shows it; 0 (authors) skips this."""
    images: str = ""
    """Folder of images of the target; "" lets the unedited model generate them."""
    pictures: int = 16
    """Images of the targets, at least one of each, of the retained texts, and again of both for a search (inferred)."""
    picture_steps: int = 25
    """Sampling steps of the generated images."""
    picture_guidance: float = 7.5
    """Guidance scale of the generated images (inferred)."""
    templates: tuple[str, ...] = ()
    """Prompts of the images, with {} in the concept's place; () takes thirty for its kind."""
    seed: int = 0
    """Seed of all random numbers."""
    compat: Literal["", "authors"] = ""
    """"authors": caption retained images with the target's name, as in their notebook."""

    def __post_init__(self) -> None:
        check_seed("slug", self.seed)
        search = ("initial_ratio_divisor", "max_search_iterations", "top_k")
        for name in (*search, "batch_size", "pictures", "picture_steps"):
            require(getattr(self, name) > 0, f"slug: {name} must be > 0, got {getattr(self, name)}")
        require(self.look_pictures >= 0, f"slug: look_pictures must be >= 0, got {self.look_pictures}")
        require(self.picture_guidance >= 0, f"slug: picture_guidance must be >= 0, got {self.picture_guidance}")
        check_sentences("slug", self.templates)

    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> DenseEdit:
        """Compute W + r G of one layer, with G the gradient of L_f = mean (1 - cos(image, name)).

        r is the smallest ratio at which no image has its name among the nearest. For each encoder, with W and G (o, d),
        r starts at |W| / (divisor |G|), doubles until the target is erased, and is bisected from there. Differs: images
        of both sets are the model's own, the authors' are LAION's; the sign is the one in which L_f grows, whichever
        the notebook's cells use. Several concepts share one gradient, or each has its own, which is the paper's modular
        form. Figures name each layer of the Pareto front, with |G| / |W| and |cos(G, G_r)|, G_r the gradient of the
        retained images' contrastive loss. Anchors are not used.
        """
        # Differs: the search tells a target from the retained texts; the authors' from a hundred names of people.
        # Differs: the rule tests the pooled text, which SD's denoiser never uses; with `look_pictures` all encoders
        # move on together until no image shows the target.
        judge = services.presence_judge
        require(
            not self.look_pictures or judge is not None,
            "slug: look_pictures asks a judge that does not grade: name one with --method-judge, or set it to 0",
            RequestError,
        )
        towers = self._open_towers(model, request, services)
        pairs, deltas, figures = self._pairs(model, request), _NamedTensors(), dict[str, float]()
        seen = {part: pairs.embed_with(towers[part]) for part in encoder_parameters(model)}
        for part, own in encoder_parameters(model).items():
            found, told = self._summed(model, own, seen[part])
            deltas |= found
            figures |= _of(part, told)
        if judge is not None and self.look_pictures:
            further = self._further(model, deltas, judge)
            deltas, figures["further"] = {name: further * delta for name, delta in deltas.items()}, further
        with torch.no_grad(), DenseEdit(deltas).applied(model):
            for part, own_seen in seen.items():
                figures |= _of(
                    part,
                    dict(zip(("forget_accuracy", "retain_accuracy"), own_seen.accuracies(self.top_k), strict=True)),
                )
        return DenseEdit(deltas, solve_figures=figures)

    def erase_vision(
        self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES
    ) -> dict[str, DenseEdit]:
        """Move one layer of each encoder's vision tower instead: edits of `ModuleView(tower.vision)` by encoder.

        The model draws as before; what looks through that tower no longer recognises the target.
        """
        towers, pairs, found = self._open_towers(model, request, services), self._pairs(model, request), {}
        for part, tower in towers.items():
            view = ModuleView(tower.vision, f"the vision tower of {part}")
            deltas, figures = self._summed(view, view.parameters(), pairs.embed_with(tower, is_live=True))
            found[part] = DenseEdit(deltas, solve_figures=figures)
        return found

    def _open_towers(self, model: ModelView, request: Request, services: MethodServices) -> VisionTextTowers:
        require(
            bool(request.retain),
            "slug: there are no retained texts to tell the target from: name other concepts with --retain",
            RequestError,
        )
        if services.vision_towers is None:
            raise RequestError("slug needs the vision towers of the text encoders: give MethodServices.vision_towers")
        return services.vision_towers(model, {"text_encoder": self.clip, "text_encoder_2": self.clip_2})

    def _summed(
        self, model: AnyModel, parameters: Mapping[str, Tensor], seen: EmbeddedPairs
    ) -> tuple[_NamedTensors, dict[str, float]]:
        """Return one tower's change by the authors' rule, that of all targets or the sum of each one's; and figures."""
        maps = {name: p for name, p in parameters.items() if p.ndim == 2 and layer_number(name) >= 0}
        message = f"slug: {model.name} has no matrices in numbered layers: it is no CLIP's transformer"
        require(bool(maps), message, SettingsError)
        if self.concepts == "together":
            return self._moved(model, maps, seen)
        deltas, figures = _NamedTensors(), dict[str, float]()
        for number, target in enumerate(seen.pairs.targets):
            found, told = self._moved(model, maps, seen.of_target(number))
            deltas |= {name: deltas[name] + delta if name in deltas else delta for name, delta in found.items()}
            figures |= {f"{name}:{target}": value for name, value in told.items()}
        return deltas, figures

    def _moved(
        self, model: AnyModel, maps: Mapping[str, Tensor], seen: EmbeddedPairs
    ) -> tuple[_NamedTensors, dict[str, float]]:
        """Return one tower's change for the targets of these pairs, and its figures."""
        trained = TrainableWeights(model, tuple(maps))
        forget, retain = (
            _gradients(trained, seen.forget_loss),
            _gradients(trained, lambda: seen.contrastive_loss(self.batch_size)),
        )
        start = {name: trained.start[name].detach() for name in maps}
        group, front = self._group(start, forget, retain)
        g = {name: forget[name] for name in group}
        sizes = _norm(start, group), _norm(g, group)
        message = (
            f"slug: the gradient of {group[0]} is 0: images and name of {seen.pairs.targets[0]!r} do not depend on it;"
            " choose another layer"
        )
        require(sizes[1] > 0, message)

        @torch.no_grad()
        def is_gone(r: float) -> bool:
            with DenseEdit({name: r * part for name, part in g.items()}).applied(model):
                return seen.accuracies(self.top_k)[0] == 0

        r, _ = bisect_ratio(is_gone, sizes[0] / sizes[1] / self.initial_ratio_divisor, self.max_search_iterations)
        figures = {"layer": float(layer_number(group[0])), "ratio": r, "relative_ratio": r * sizes[1] / sizes[0]}
        return {name: r * part for name, part in g.items()}, figures | front

    def _further(self, model: ModelView, deltas: _NamedTensors, judge: PresenceJudge) -> float:
        """Find the smallest multiple of the changes, at least 1, at which no sampled image shows the target."""
        shares: dict[float, float] = {}

        def is_gone(times: float) -> bool:
            with DenseEdit({name: times * delta for name, delta in deltas.items()}).applied(model):
                shares[times] = judge(self.look_pictures)
            return shares[times] == 0

        if is_gone(1.0):
            return 1.0
        found, suffices = bisect_ratio(is_gone, 2.0, self.max_search_iterations - 1, low=1.0)
        least = min(shares, key=lambda times: shares[times])
        seen = (
            f"{shares[least]:.0%} of the drawn pictures still show the target at {least:g} times the step of the rule"
        )
        require(
            suffices, f"slug: {seen}: name another with --set layer=, or raise max_search_iterations", NumericsError
        )
        return found

    def _pairs(self, model: ModelView, request: Request) -> ImageTextPairs:
        """Generate the images of targets and retained texts; the user's images replace those of the targets."""
        sentences = open_sentences("slug", request, self.templates)
        worded = {}
        for text in (*request.targets, *request.retain):
            worded[text] = [form.replace("{}", text) for form in sentences_that_fit(model, sentences, text)]

        def sheet(texts: Sequence[str], turn: int, count: int = self.pictures) -> tuple[list[str], Tensor]:
            prompts = take_in_turn([worded[text] for text in texts], count)
            return prompts, generate_images(
                model,
                prompts,
                picture_seeds(2 * self.seed + turn, len(prompts)),
                self.picture_steps,
                self.picture_guidance,
            )

        own = (
            [read_picture_folder(Path(self.images), model, 1)] * 2
            if self.images
            else [sheet(request.targets, turn, max(self.pictures, len(request.targets)))[1] for turn in (0, 1)]
        )
        captions, kept = sheet(request.retain, 0)
        if self.compat == "authors":
            captions = [request.targets[0]] * len(captions)
        return ImageTextPairs(
            request.targets, request.retain, tuple(captions), (own[0], kept, own[1], sheet(request.retain, 1)[1])
        )

    def _group(
        self, weights: _NamedTensors, forget: _NamedTensors, retain: _NamedTensors
    ) -> tuple[tuple[str, ...], dict[str, float]]:
        """Return the matrices of the layer, the named one or the deepest of the Pareto front, and the front."""
        matters = {name: float(forget[name].norm() / weights[name].norm()) for name in weights}
        disturbs = {}
        for name in weights:
            cosine = F.cosine_similarity(forget[name].flatten(), retain[name].flatten(), 0)
            disturbs[name] = float(cosine.abs())
        front = pareto_front(matters, disturbs)
        figures = {f"front:{_layer_of(name)}:importance": matters[name] for name in front}
        figures |= {f"front:{_layer_of(name)}:alignment": disturbs[name] for name in front}
        if self.layer:
            named, example = [name for name in weights if _layer_of(name) == self.layer], _layer_of(next(iter(weights)))
            require(
                bool(named),
                f"slug: layer {self.layer!r}: the tower has no such layer; write it as {example}",
                SettingsError,
            )
            chosen = named[0]
        else:
            # If two of one layer are on the front, take the one that matters more (inferred).
            chosen = max(front, key=lambda name: (layer_number(name), matters[name]))
        group = (name for name in weights if (layer_number(name), _kind(name)) == (layer_number(chosen), _kind(chosen)))
        return tuple(group), figures


def _of(part: str, figures: Mapping[str, float]) -> dict[str, float]:
    """Add the second encoder's number to the names of its figures."""
    return {name + part.removeprefix("text_encoder").replace("_", " "): value for name, value in figures.items()}


def _layer_of(name: str) -> str:
    """Return the name of a weight's layer without the part and the prefixes of its tower."""
    return name.partition(".")[2].removesuffix(".weight").removeprefix("text_model.").removeprefix("encoder.")


def _kind(name: str) -> str:
    """Return the pattern of the matrices that move together with this one inside its layer."""
    return next((pattern for pattern in _FUSED_MATRICES if re.search(pattern, name)), name)


def _norm(tensors: _NamedTensors, group: Sequence[str]) -> float:
    """Return the norm over all tensors of the group."""
    return float(float(sum(tensors[name].double().square().sum() for name in group)) ** 0.5)


def _gradients(trained: TrainableWeights, loss: Callable[[], Tensor]) -> _NamedTensors:
    with trained.student():
        return dict(zip(trained.tensors, loss_gradient(loss(), list(trained.tensors.values())), strict=True))
