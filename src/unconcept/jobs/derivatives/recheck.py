"""Does an edit still hold on fine-tunes and merges of its base? First without a picture, then with pictures."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch

from ...core.errors import EditError, ModelError, SettingsError, UnknownName, UsageError, require
from ...core.escapes import file_name_text
from ...core.output_folder import atomic_folder, require_usable_folder
from ...core.progress import ProgressCallback, ignore_progress
from ...core.request import Request
from ...edits import Edit, open_edit, origin_of
from ...evaluation.worlds import world_of
from ...models import ModelView, open_model
from ...models.text.state_rows import embed_together
from ..command_options import EvaluateOptions, RecheckOptions
from ..edit_base import base_of_edits
from ..evaluate import evaluate, plan_evaluation
from ..options import texts
from .transfer import bind_edit, reading_change

Verdict = Literal["in its weights", "holds", "weaker", "lost", "unknown"]
_HOLDS, _WEAKER = 0.9, 0.5  # shares of the way to the anchor that an edit goes on its own base


@dataclass(frozen=True)
class ConceptCheck:
    """One concept of an edit on one derivative. Distances are shares of that from target to anchor."""

    model: str
    concept: str
    as_it_is: float | None
    """Share of the way from target to anchor that is left without the edit: about 1 if the model never had it, about 0
    if it still has; None if the edit's own base is not found."""
    residual: float | None
    """Distance left with the edit: 0 reads as the anchor, 1 as before. None for an edit without anchors."""
    own_residual: float | None
    """The same on the edit's own base; None if that is not found."""
    drift: float | None
    """Relative change of the retained text that the edit changes most; None without retained texts."""
    verdict: Verdict
    shown_before: float | None = None
    """Share of pictures of the concept that show it without the edit; None if none were judged."""
    shown: float | None = None
    """The same with the edit."""


@dataclass(frozen=True)
class RecheckOutcome:
    """The result of `recheck`."""

    checks: tuple[ConceptCheck, ...]
    failed: dict[str, str]
    """Models that could not be checked, each with the reason."""
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the edit holds on every model, or is in its weights."""
        return not self.failed and all(check.verdict in ("holds", "in its weights") for check in self.checks)

    def data(self) -> dict[str, object]:
        """As plain data."""
        checks = [asdict(check) for check in self.checks]
        return {"holds": self.holds, "checks": checks, "failed": self.failed, "notes": list(self.notes)}


@dataclass(frozen=True)
class OpenRecheck:
    """An edit, the derivatives to check, and the edit's own base if it is on this machine."""

    edit: Edit
    models: tuple[str, ...]
    base: ModelView | None

    @property
    def identity(self) -> dict[str, object]:
        """What the folder of reports is of."""
        return {"edit": self.edit.hash, "models": list(self.models)}


def open_recheck(options: RecheckOptions) -> OpenRecheck:
    """Open what `recheck` compares, but no derivative. Raises the errors for bad options."""
    message = "--pictures and --out go together: leave both out to draw nothing"
    require((options.pictures is None) == (options.out is None), message, SettingsError)
    message = "--judge goes with --pictures: leave it out to draw nothing"
    require(options.judge is None or options.pictures is not None, message, SettingsError)
    edit, models = open_edit(options.edit), tuple(_models(options))
    require(bool(models), "no model: name a derivative with --model, or several in a --folder", SettingsError)
    opened = OpenRecheck(edit, models, _own_base(options.edit))
    if options.out is not None:
        require_usable_folder(options.out, opened.identity, False)
    return opened


def recheck(options: RecheckOptions, progress: ProgressCallback = ignore_progress) -> RecheckOutcome:
    """Measure what an edit does on derivatives of its base, each beside what it does on the base itself.

    One model that cannot be checked raises its `UsageError`; of several, the others are checked.
    """
    opened = open_recheck(options)
    edit, models, base = opened.edit, opened.models, opened.base
    own = None if base is None or not edit.names else _residuals(edit, base)
    checks: list[ConceptCheck] = []
    failed: dict[str, str] = {}
    for number, model in enumerate(models):
        progress("models", number, len(models))
        try:
            checks += _check(edit, options.edit, model, base, own)
        except UsageError as error:
            if len(models) == 1:
                raise
            failed[model] = str(error)
    if options.out is not None:
        checks = list(_with_pictures(checks, opened, options))
    progress("models", len(models), len(models))
    return RecheckOutcome(tuple(checks), failed, tuple(_notes(edit, base)))


def _models(options: RecheckOptions) -> Iterator[str]:
    """The derivatives by name, then those in the folder."""
    yield from dict.fromkeys(texts(options.models))
    if options.folder is None:
        return
    require(options.folder.is_dir(), f"--folder {options.folder} is no folder: give one of derivatives", ModelError)
    for path in sorted(options.folder.iterdir()):
        if (path / "model_index.json").is_file() or (path.is_file() and path.suffix == ".safetensors"):
            yield str(path)


def _own_base(path: Path) -> ModelView | None:
    """The model that an edit was made for; None if it is not on this machine."""
    with suppress(EditError, ModelError):
        return open_model(base_of_edits([path]), "cpu", "float32")
    return None


def _notes(edit: Edit, base: ModelView | None) -> Iterator[str]:
    if base is None:
        yield "the edit's own base is not found, so nothing tells whether a model already has the edit in its weights"
    if "last_loss" in origin_of(edit).report:
        yield f"{origin_of(edit).method} is trained and promises nothing of its maps: only pictures tell (--pictures)"
    if not edit.names:
        yield "the edit changes no weight, so its texts are read as before: only pictures tell (--pictures)"


def _residuals(edit: Edit, model: ModelView) -> list[float] | None:
    """The distance left of each target on the model that an edit is bound to; None without anchors."""
    made = origin_of(edit)
    return reading_change(edit, model).residuals(len(made.targets)).tolist() if made.anchors else None


@torch.no_grad()
def _way_left(model: ModelView, base: ModelView, request: Request) -> list[float]:
    """Share of the way from each target to its anchor, as text maps of the base read both, that a model is not gone.

    What it moved otherwise, as a fine-tune does, is at right angles to the way and does not count.
    """
    targets, anchors = (rows.float() for rows in embed_together(base, request.targets, request.anchors))
    (own,) = (rows.float() for rows in embed_together(model, request.targets))
    way, gone, maps = torch.zeros(len(targets)), torch.zeros(len(targets)), model.text_maps()
    for name, weight in base.text_maps().items():
        w, tuned = weight.detach().float(), maps[name].detach().float()
        wanted = (anchors - targets) @ w.T
        way += wanted.square().sum(1)
        gone += (wanted * (own @ tuned.T - targets @ w.T)).sum(1)
    parts = [part.view(len(request.targets), -1).sum(1) for part in (gone, way)]
    return (1 - parts[0] / parts[1].clamp_min(1e-30)).tolist()


def _check(
    edit: Edit, path: Path, model: str, base: ModelView | None, own: Sequence[float] | None
) -> Iterator[ConceptCheck]:
    """Check every target of an edit on one model."""
    made = origin_of(edit)
    request = Request(made.targets, made.anchors, made.retain)
    moved, view = bind_edit(edit, path, model)
    as_it_is: list[float | None] = [None] * len(made.targets)
    if base is not None and made.anchors:
        as_it_is = list(_way_left(view, base, request))
    residuals: list[float | None] = [None] * len(made.targets)
    drift = None
    if edit.names:
        change = reading_change(moved, view)
        residuals = list(change.residuals(len(made.targets)).tolist()) if made.anchors else residuals
        drift = float(change.drifts(len(made.retain)).max()) if made.retain else None
    for i, concept in enumerate(made.targets):
        told = None if own is None else own[i]
        verdict = _verdict(as_it_is[i], residuals[i], told)
        yield ConceptCheck(model, concept, as_it_is[i], residuals[i], told, drift, verdict)


def _verdict(as_it_is: float | None, residual: float | None, own: float | None) -> Verdict:
    """Compare the way to the anchor that is gone here with that on the edit's own base."""
    if residual is None:
        return "unknown"
    wanted = 1 - (own or 0.0)
    if as_it_is is not None and 1 - as_it_is >= _HOLDS * wanted:
        return "in its weights"
    gone = 1 - residual
    return "holds" if gone >= _HOLDS * wanted else "weaker" if gone >= _WEAKER * wanted else "lost"


def _with_pictures(
    checks: Sequence[ConceptCheck], opened: OpenRecheck, options: RecheckOptions
) -> Iterator[ConceptCheck]:
    """Add the shares of pictures that show each concept, from one evaluation a concept and model."""
    assert options.out is not None
    edit, models = opened.edit, list(dict.fromkeys(check.model for check in checks))
    shown: dict[tuple[str, str], tuple[float, float]] = {}
    with atomic_folder(options.out, opened.identity, False) as out, TemporaryDirectory() as place:
        for number, model in enumerate(models):
            moved, _ = bind_edit(edit, options.edit, model)
            file = Path(place) / f"{number}.safetensors"
            moved.save(file)
            for concept in drawn_concepts(model, origin_of(edit).targets):
                name = f"{number:02d}-{file_name_text(Path(model).stem)}-{file_name_text(concept)}"
                asked = drawing_options(options, file, model, concept, out / name)
                groups = evaluate(plan_evaluation(asked)).record().trials[0].groups
                if "direct" in groups:
                    shown[model, concept] = groups["direct"].before.value, groups["direct"].after.value
    for check in checks:
        before, after = shown.get((check.model, check.concept), (None, None))
        yield replace(check, shown_before=before, shown=after)


def drawing_options(options: RecheckOptions, edit: Path, model: str, concept: str, out: Path) -> EvaluateOptions:
    """What is drawn and judged of one concept on one derivative, with an edit that is bound to it."""
    return EvaluateOptions(
        concepts=(concept,),
        edits=[edit],
        model=model,
        judge=options.judge,
        limit=options.pictures,
        workers=1,
        out=out,
    )


def drawn_concepts(model: str, targets: Sequence[str]) -> list[str]:
    """Targets that a model can be asked for; an embedded one knows no synonyms, only the names of concepts."""
    found = []
    for name in targets:
        with suppress(UnknownName):
            world_of(model).require_concepts((name,))
            found.append(name)
    require(bool(found), f"{model} knows none of {', '.join(targets)}: leave --pictures out", SettingsError)
    return found
