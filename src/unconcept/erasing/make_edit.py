"""Runs a method on a request and records in the edit where it comes from."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from ..core.errors import RequestError, SettingsError, require
from ..core.progress import ProgressCallback
from ..core.request import Request, merge_requests, relative_weights, require_distinct_anchors, require_distinct_texts
from ..core.settings import build_settings, settings_data
from ..edits import Edit
from ..edits.origin import origin_for
from ..methods import NO_SERVICES, Method, MethodServices, methods
from ..methods.registry import weights_data
from ..models import ModelView, open_model
from ..models.families import undefined_for
from ..models.text.state_cache import deterministic_text_states
from ..models.text.text_identity import TokenTextKey
from ..training.options import DEFAULT_TRAINING_OPTIONS, TrainingOptions, changed_options
from ..training.regularisers import NO_REGULARISERS, Regularisers, require_stepwise_training, use_regularisers
from ..training.session import Rehearsal, TrainingSession, training_session
from ..training.session import TrainingProgress as Step
from .request_defaults import ResolvedRequest
from .vision_towers import open_vision_towers


def make_edit(
    model: ModelView,
    chosen: ResolvedRequest,
    method: str,
    settings: Mapping[str, object],
    services: MethodServices = NO_SERVICES,
    regularisers: Regularisers = NO_REGULARISERS,
) -> Edit:
    """Run a method on a request and stamp the edit with its origin.

    Concepts are sorted first and a closed form encodes texts one by one on one thread, as a ledger does: the same set
    of concepts gives the same edit in whatever order they were typed.
    """
    info = methods[method]
    solver: Method = build_settings(info.settings, settings, f"{method} setting")
    reason = info.refusal(model.family)
    message = f"{undefined_for(method, model.family, info.families)}: {reason}"
    require(reason is None, message, SettingsError)
    mechanism = info.mechanism_of(solver)
    require_stepwise_training(regularisers, mechanism, method)
    services = _with_loaders(services)
    if info.does != "erase":
        edit = solver.erase(model, chosen.request, services)
    else:
        require(
            bool(chosen.request.anchors),
            f"{method} needs an anchor, the concept that a target shall be read as: name one with --anchor",
            RequestError,
        )
        key = TokenTextKey.of(model)
        require_distinct_texts(chosen.request.targets, chosen.request.retain, key)
        require_distinct_anchors(chosen.request, key)
        request = merge_requests([chosen.request], key)
        alone = deterministic_text_states(model) if mechanism == "closed-form" else nullcontext(model)
        with alone as fixed, use_regularisers(regularisers, request):
            edit = solver.erase(fixed, request, services)
    used = _used(solver, chosen.request, services, regularisers)
    figures = {"parameters": float(edit.parameters)}
    origin = origin_for(edit, model, chosen.request, method, used, figures)
    return edit.stamped(replace(origin, adviser=services.adviser))


def _with_loaders(services: MethodServices) -> MethodServices:
    """Add what opens vision towers and teachers, where the caller gave nothing that does."""
    towers, teacher = services.vision_towers or open_vision_towers, services.teacher or open_teacher
    return replace(services, vision_towers=towers, teacher=teacher)


def open_teacher(model: ModelView, name: str) -> ModelView:
    """Open the model that a record names as its teacher, on the model's device and in its dtype."""
    return open_model(name, str(model.device), str(model.dtype).removeprefix("torch."))


def _used(solver: Method, request: Request, services: MethodServices, regularisers: Regularisers) -> dict[str, object]:
    """What made an edit, for its header: settings, and regularisers and weights if there are any.

    Without seconds, so that the same request makes the same file; report.json and run.json hold the seconds.
    """
    rules = {} if regularisers == NO_REGULARISERS else {"regularisers": regularisers.data()}
    return settings_data(solver) | rules | weights_data(relative_weights(request.targets, services.weights))


@contextmanager
def train_in_folder(
    folder: Path | None,
    progress: ProgressCallback,
    options: TrainingOptions = DEFAULT_TRAINING_OPTIONS,
    rehearsal: Rehearsal | None = None,
) -> Iterator[None]:
    """Inside, trained methods save their state in the folder, resume from it, and report their progress.

    In a rehearsal they take a few steps only, without a folder.
    Raises `SettingsError` on exit if options were given but no method trained step by step.
    """
    trained = False

    def report_step(done: Step) -> None:
        nonlocal trained
        trained = True
        progress(f"{done.name} (loss {done.loss:.3g})", done.done, done.of)

    def report_images(done: int, of: int) -> None:
        progress("pictures for the method", done, of)

    session = TrainingSession(report_step, folder, options=options, on_images=report_images, rehearsal=rehearsal)
    try:
        with training_session(session):
            yield
    finally:
        with suppress(OSError):  # It holds a state, or nothing was trained.
            if folder is not None:
                folder.rmdir()
    message = (
        f"{', '.join(changed_options(options))}: only for methods that train step by step, and this one does not: leave"
        " it out"
    )
    is_resumed = folder is not None and folder.exists()
    require(trained or options == DEFAULT_TRAINING_OPTIONS or is_resumed, message)
