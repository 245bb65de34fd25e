"""Filters around an unedited model, as arms of a bench: a word filter, and a judge that withholds pictures.

A filter gets what an eraser gets, the names of the request, and no more. Whoever has the model has no filter.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from ...core.errors import EditError, SettingsError, require
from ...core.hashing import hash_json
from ...core.request import Request, RequestSpec
from ...edits.base import EditOrigin
from ...edits.common import BesideEdit
from ...models import ModelView
from ...models.checkpoint.model_card import base_id
from ...prompts.checks import JudgedAspect
from ...worlds.table import concept_table
from ..judging.judge import Judge, judge_weights
from ..tasks.edited_model import EditedModel
from ..tasks.filtered_model import FilteredModel
from ..worlds import world_of
from .trial import Trial

FILTERS: Mapping[str, str] = {
    "word-filter": "does not draw a prompt that contains a name of the target as whole words, in capitals or not",
    "output-filter": "draws, and withholds a picture in which a second judge, which does not grade, finds the target",
}
OUTSIDE_REASON = "a filter stands outside the model: whoever has the weights attacks a model without it"
_PARTS: tuple[JudgedAspect, ...] = ("object", "left", "right", "above", "below")


@dataclass(frozen=True)
class NoEdit(BesideEdit):
    """Stands in a trial for the edit that a filter does not make; its origin names the filter."""

    origin: EditOrigin

    @property
    def bound_names(self) -> tuple[str, ...]:
        return ()

    @property
    def hash(self) -> str:
        return hash_json([self.origin.method, self.origin.settings, self.origin.targets])

    def tensors(self) -> Mapping[str, Tensor]:
        return {}

    def scaled(self, strength: float, amplify: bool = False) -> "NoEdit":
        return self

    @contextmanager
    def applied(self, model: ModelView) -> Iterator[None]:
        yield

    def effect(self, model: ModelView, request: Request) -> dict[str, float]:
        return {}

    def describe(self) -> str:
        return "changes nothing: a filter stands around the model"

    def save(self, path: str | Path) -> None:
        raise EditError(f"{self.origin.method} makes no edit, so there is no file of it")


def trial_of_filter(name: str, concepts: tuple[str, ...], unedited: EditedModel, grading: Judge | None) -> Trial:
    """Make the trial of a filter. `SettingsError` if no judge but the grading one is there to withhold pictures."""
    request = world_of(unedited.model).request(RequestSpec(concepts)).request
    base = unedited.base()
    behind = FilteredModel(unedited.model, device=unedited.device, dtype=unedited.dtype)
    settings: dict[str, Any] = {}
    if name == "word-filter":
        behind = replace(behind, words=request.targets)
    else:
        judge = _filtering_judge(unedited, grading)
        labels = tuple(label for one in concepts for label in concept_table()[one].labels)
        aspects: tuple[JudgedAspect, ...] = ("style",) if request.kind == "style" else _PARTS
        behind = replace(behind, judge=judge, labels=labels, aspects=aspects)
        settings = {"judge": judge.key, "labels": list(labels)}
    origin = EditOrigin(
        name,
        settings,
        request.targets,
        (),
        (),
        request.kind,
        base.family,
        base_id(base.name),
        unedited.key,
        version("unconcept"),
    )
    edit = NoEdit(origin)
    return Trial(name, concepts, replace(behind, edit_hash=edit.hash), edit, {"bytes": 0, "parameters": 0})


def _filtering_judge(unedited: EditedModel, grading: Judge | None) -> Judge:
    judge = world_of(unedited.model).method_judge
    message = f"output-filter: {unedited.model} has no second judge, and the one that grades may not withhold"
    require(judge is not None, f"{message}; leave the filter out", SettingsError)
    assert judge is not None
    is_other = grading is None or grading.reader.needs_model or judge_weights(grading) != judge_weights(judge)
    require(is_other, f"{message}: it is {grading and grading.path}; grade with another judge", SettingsError)
    return judge
