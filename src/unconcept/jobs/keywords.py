"""The Python API: jobs as functions of keywords, which also accept pipelines and edits in memory.

Jobs run in worker processes and store pictures by content, so a pipeline or an edit in memory is written to a temporary
folder first.
"""

import inspect
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from ..core.errors import EditError, SettingsError, require
from ..core.escapes import file_name_text
from ..core.output_folder import output_errors
from ..core.settings import build_settings, require_known_names
from ..edits import Edit, origin_of
from ..edits.origin import OriginMaker
from ..evaluation.tasks.shared_files import is_url
from ..evaluation.trials.report import Report
from ..models import open_model
from ..models.loading import absolute_source
from .command_options import (
    AttackOptions,
    BenchOptions,
    EraseOptions,
    EvaluateOptions,
    RecheckOptions,
    WorstCaseOptions,
)
from .derivatives.recheck import recheck
from .edit_base import record_base
from .erase import EraseOutcome, erase
from .evaluate import evaluate, plan_attack, plan_bench, plan_evaluation
from .protection.options import ProtectOptions
from .protection.protect import protect
from .resolve import plan_job
from .searches.worst_case import find_worst_case, plan_worst_case

_PATH_NAMES = {"out", "store", "concepts_file", "retain_file", "prompts"}
_P = ParamSpec("_P")
_Options = TypeVar("_Options")
_Outcome = TypeVar("_Outcome")


def _keyword_function(
    name: str, options: Callable[_P, _Options], job: Callable[[_Options], _Outcome]
) -> Callable[_P, _Outcome]:
    """Turn a job that takes an options dataclass into a function of the dataclass's parameters."""
    assert isinstance(options, type)

    def call(*args: _P.args, **given: _P.kwargs) -> _Outcome:
        require_known_names(options, given, f"{name} keyword")
        try:
            named = inspect.signature(options).bind(*args, **given).arguments
        except TypeError as error:
            raise SettingsError(f"{name}: {error}; see help(unconcept.{name})") from None
        with _on_disk(dict(named)) as stored:
            return job(build_settings(options, stored, f"{name} keyword"))

    call.__name__ = call.__qualname__ = name
    call.__doc__ = job.__doc__
    vars(call)["__signature__"] = inspect.signature(options).replace(return_annotation=Any)
    return call


@contextmanager
def _on_disk(given: dict[str, Any]) -> Iterator[Any]:
    """Inside, the keywords hold paths in place of a pipeline or edits in memory."""
    with tempfile.TemporaryDirectory(prefix="unconcept-") as place:
        for name in _PATH_NAMES & given.keys():
            is_path = isinstance(given[name], str) and not is_url(given[name])
            given[name] = Path(given[name]) if is_path else given[name]
        if given.get("model") is not None:
            given["model"] = _stored_model(given["model"], Path(place))
        if "models" in given:
            given["models"] = _stored_models(given["models"], Path(place))
        if "edit" in given:
            given["edit"] = _stored_edits(given["edit"], Path(place))[0]
        if "edits" in given:
            given["edits"] = _stored_edits(given["edits"], Path(place))
        yield given


def _stored_model(model: Any, place: Path) -> str:
    if isinstance(model, str | Path):
        return str(model)
    name = Path(open_model(model).name).name  # Raises an error for a model that cannot be edited.
    with output_errors(place, "set TMPDIR to a folder with more space"):
        model.save_pretrained(place / name)
    return str(place / name)


def _stored_models(models: Any, place: Path) -> list[str]:
    several = [models] if isinstance(models, str | Path) or not isinstance(models, Sequence) else models
    for number in range(len(several)):
        (place / f"model-{number}").mkdir()
    return [_stored_model(model, place / f"model-{number}") for number, model in enumerate(several)]


def _stored_edits(edits: Any, place: Path) -> list[Path]:
    found = []
    for number, edit in enumerate(edits if isinstance(edits, Sequence) and not isinstance(edits, str) else [edits]):
        if isinstance(edit, str | Path):
            found.append(Path(edit))
        else:
            message = f"a {type(edit).__name__} is no edit: give a file of one, or what a method's erase returned"
            require(callable(getattr(edit, "save", None)), message, EditError)
            found.append(_stored_edit(edit, place / str(number)))
    return found


def _stored_edit(edit: Edit, folder: Path) -> Path:
    folder.mkdir()
    path = folder / f"{file_name_text(origin_of(edit).method) or 'edit'}.safetensors"
    edit.save(path)
    if isinstance(edit.maker, OriginMaker):
        record_base(folder, absolute_source(edit.maker.model.name))
    return path


def _erase(options: EraseOptions) -> EraseOutcome | None:
    """Erase concepts: edit, check, draw before and after, judge, report."""
    return erase(plan_job(options).job)


def _evaluate(options: EvaluateOptions) -> Report:
    """Evaluate edits with a suite, on the same prompts and noise as the unedited model."""
    return evaluate(plan_evaluation(options))


def _attack(options: AttackOptions) -> Report:
    """Try to bring erased concepts back, and compare with the same attack on the unedited model."""
    return evaluate(plan_attack(options))


def _bench(options: BenchOptions) -> Report:
    """Erase every concept with every method, one edit each, and compare the methods."""
    return evaluate(plan_bench(options))


def _worst_case(options: WorstCaseOptions) -> Report:
    """Search for the candidates that are hardest to erase together, and measure them beside random sets."""
    return find_worst_case(plan_worst_case(options))


erase_concepts = _keyword_function("erase", EraseOptions, _erase)
evaluate_edits = _keyword_function("evaluate", EvaluateOptions, _evaluate)
attack_edits = _keyword_function("attack", AttackOptions, _attack)
recheck_edit = _keyword_function("recheck", RecheckOptions, recheck)
protect_pictures = _keyword_function("protect", ProtectOptions, protect)
bench_methods = _keyword_function("bench", BenchOptions, _bench)
worst_case_sets = _keyword_function("worst_case", WorstCaseOptions, _worst_case)
