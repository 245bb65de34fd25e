"""Run a method, stamp its edit, and say exactly what the edit does to the text maps, without a picture."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..core.errors import RequestError, SettingsError, require
from ..core.hashing import hash_tensors
from ..core.progress import ProgressCallback
from ..core.request import Request, merge_requests
from ..core.settings import build_settings, settings_data
from ..core.versions import library_versions
from ..edits import Edit, EditOrigin, LowRankEdit, RuntimeEdit, TextMapEdit, bound_parameters
from ..linalg.low_rank import numerical_rank
from ..methods import NO_SERVICES, Method, MethodServices, methods
from ..models import ModelView
from ..models.checkpoint.model_card import base_id, read_licence
from ..models.model_view import TextInput
from ..models.text.state_cache import deterministic_text_states
from ..models.text.state_rows import embed_together
from ..models.text.tokenizer import TextPosition
from ..training.options import DEFAULT_TRAINING_OPTIONS, TrainingOptions, changed_options
from ..training.regularisers import NO_REGULARISERS, Regularisers, require_stepwise_training, use_regularisers
from ..training.session import TrainingProgress as Step
from ..training.session import TrainingSession, training_session
from .request_defaults import ResolvedRequest
from .vision_towers import open_vision_towers


def make_edit(
    model: ModelView,
    chosen: ResolvedRequest,
    method: str,
    settings: Mapping[str, Any],
    services: MethodServices = NO_SERVICES,
    regularisers: Regularisers = NO_REGULARISERS,
) -> Edit:
    """Run a method and stamp the edit with where it comes from.

    The method is asked in canonical order and a closed form solved text by text on one thread, as in a ledger: the same
    set of concepts gives the same edit, however they were typed.
    """
    info = methods[method]
    hyperparameters: Any = build_settings(info.settings, settings, f"{method} setting")
    reason = info.refusal(model.family)
    require(
        reason is None,
        f"{method} is not defined for {model.family} models, only for {', '.join(info.families)}: {reason}",
        SettingsError,
    )
    require_stepwise_training(regularisers, info.mechanism, method)
    if services.vision_towers is None:
        services = replace(services, vision_towers=open_vision_towers)
    solver: Method = hyperparameters
    if info.does == "debias":
        edit = solver.erase(model, chosen.request, services)
    else:
        require(
            bool(chosen.request.anchors), f"{method} reads targets as anchors: name one with --anchor", RequestError
        )
        request = merge_requests([chosen.request])
        alone = deterministic_text_states(model) if info.mechanism == "closed-form" else nullcontext(model)
        with alone as fixed, use_regularisers(regularisers, request):
            edit = solver.erase(fixed, request, services)
    # No seconds: the same request makes the same file. They stand in the report and in run.json.
    used = settings_data(hyperparameters) | (
        {} if regularisers == NO_REGULARISERS else {"regularisers": regularisers.data()}
    )
    figures = {"parameters": float(edit.parameters)}
    return edit.stamped(origin_for(edit, model, chosen.request, method, used, figures))


@contextmanager
def train_in_folder(
    folder: Path, progress: ProgressCallback, options: TrainingOptions = DEFAULT_TRAINING_OPTIONS
) -> Iterator[None]:
    """Inside, trained methods keep their state in the folder, go on from what lies there, and tell how far they are.

    `SettingsError` afterwards if options were given and nothing was trained step by step.
    """
    told = False

    def tell(done: Step) -> None:
        nonlocal told
        told = True
        progress(f"{done.name} (loss {done.loss:.3g})", done.done, done.of)

    with training_session(TrainingSession(tell, folder, options=options)):
        yield
    message = (
        f"{', '.join(changed_options(options))}: only methods that train step by step take it, and this one does not:"
        " leave it out"
    )
    require(told or options == DEFAULT_TRAINING_OPTIONS or folder.exists(), message)


def origin_for(
    edit: Edit,
    model: ModelView,
    request: Request,
    method: str,
    settings: dict[str, Any],
    figures: Mapping[str, float] | None = None,
) -> EditOrigin:
    """Where an edit comes from, with exact figures of what it does, and those of its making."""
    return EditOrigin(
        method=method,
        settings=settings,
        targets=request.targets,
        anchors=request.anchors,
        retain=request.retain,
        kind=request.kind,
        family=model.family,
        base=base_id(model.name),
        base_hash=hash_tensors(model.reference(bound_parameters(edit))),
        version=version("unconcept"),
        report={**edit_effect(edit, model, request), **(figures or {}), **edit.solve_figures},
        licence=read_licence(model.checkpoint.source),
        libraries=library_versions(),
    )


_TEXT_INPUT_POSITIONS: tuple[tuple[TextInput, TextPosition], ...] = (
    ("states", "last_subject"),
    ("pooled", "pooled"),
)  # of a text into a denoiser, and where it is read


@torch.no_grad()
def edit_effect(edit: Edit, model: ModelView, request: Request) -> dict[str, float]:
    """Exact figures without a picture, over the text maps the edit changes; the norm is over all it changes.

    `residual`: how far the worst target is still read from its anchor, 0 = as the anchor, 1 = unchanged; `residual of
    NAME`: each target. `drift`: how far the worst retained text's reading moved, relative to its size. `relative_norm`:
    of the weights' change. `norm_jump`: of the matrix whose norm changes most, the norm after over the norm before.
    `numerical_rank`: of the change, the largest of all layers. Without anchors there is no residual. An edit that runs
    beside the model has its own figures.
    """
    if isinstance(edit, RuntimeEdit):
        return edit.effect(model, request.targets, request.retain)
    norms = _Norms()
    residuals, drifts = torch.zeros(len(request.targets)), torch.zeros(len(request.retain))
    for reads, at in _TEXT_INPUT_POSITIONS:
        maps = {name for name in model.text_maps(reads) if name in set(edit.names)}
        if not maps:
            continue
        texts = request.targets, request.anchors or request.targets, request.retain
        targets, anchors, retain = (rows.float() for rows in embed_together(model, *texts, at=at))
        left, gap, moved, size = (torch.zeros(len(rows)) for rows in (targets, targets, retain, retain))
        for name, w in model.reference(maps).items():
            w = w.to(targets.device)
            delta, w = edit.delta(name, w).float(), w.float()
            wanted = (anchors - targets) @ w.T
            gap += wanted.square().sum(1).cpu()
            left += (wanted - targets @ delta.T).square().sum(1).cpu()
            moved += (retain @ delta.T).square().sum(1).cpu()
            size += (retain @ w.T).square().sum(1).cpu()
            norms.add(w, delta)
        residuals = torch.maximum(residuals, _share(left, gap, len(residuals)))
        drifts = torch.maximum(drifts, _share(moved, size, len(drifts)))
    read = {name for reads, _ in _TEXT_INPUT_POSITIONS for name in model.text_maps(reads)}
    for name, w in model.reference(name for name in edit.names if name not in read).items():
        norms.add(w.float(), edit.delta(name, w).float())
    figures = norms.figures() | _rank(edit)
    # A trained edit promises nothing of single maps.
    if read & set(edit.names) and request.anchors and "last_loss" not in edit.solve_figures:
        each = zip(request.targets, residuals.tolist(), strict=True)
        figures |= {"residual": float(residuals.max())} | {f"residual of {target}": value for target, value in each}
    if read & set(edit.names) and len(drifts):
        figures["drift"] = float(drifts.max())
    return figures


@dataclass
class _Norms:
    """Sums over all weights that an edit changes, and the largest jump of one of their norms."""

    change: float = 0.0
    weight: float = 0.0
    jump: float = 1.0

    def add(self, w: torch.Tensor, delta: torch.Tensor) -> None:
        """One weight and what is added to it. What is no matrix, or was nothing, has no jump."""
        change, weight = float(delta.square().sum()), float(w.square().sum())
        self.change, self.weight = self.change + change, self.weight + weight
        if w.ndim > 1 and weight:
            after = weight + 2 * float(torch.dot(delta.flatten(), w.flatten())) + change
            self.jump = max(
                self.jump, (max(after, 0.0) / weight) ** 0.5, key=lambda ratio: max(ratio, 1 / max(ratio, 1e-30))
            )

    def figures(self) -> dict[str, float]:
        return {"relative_norm": (self.change / self.weight) ** 0.5 if self.weight else 0.0, "norm_jump": self.jump}


def _share(part: torch.Tensor, whole: torch.Tensor, texts: int) -> torch.Tensor:
    """Of squares of rows (n * streams,), the worst of each text's rows (n,)."""
    shares = (part / whole.clamp_min(1e-30)).sqrt()
    return shares.view(texts, -1).amax(1) if texts else shares


def _rank(edit: Edit) -> dict[str, float]:
    """A dense edit's would cost an SVD of every matrix: it is not told."""
    if isinstance(edit, TextMapEdit):
        return {"rank": float(numerical_rank(edit.x.T, edit.y))}
    return (
        {"rank": float(max(numerical_rank(*pair) for pair in edit.pairs.values()))}
        if isinstance(edit, LowRankEdit)
        else {}
    )
