"""The requests in force folded once more, on a model that was fine-tuned after them: what it now computes with is the new base."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext

import torch

from ..edits import DenseEdit, Edit
from ..edits.merge import merged
from ..edits.weight_edits import live_parameters
from ..methods import methods
from ..models import ModelView
from ..models.text.state_cache import one_by_one
from ..training.session import in_own_folder
from ..training.trainer import base_of
from .entry import restored, runs_beside
from .fold import joint, reads_text, trained
from .ledger import Ledger, way_of
from .request_state import Standing


@contextmanager
def refolded(ledger: Ledger, model: ModelView) -> Iterator[None]:
    """Inside, the model computes with what a ledger of the same requests, begun on its weights as they now are, would hold.

    Nothing that was kept is used: texts are read anew and trained methods train again. What runs beside the model is left out: it
    is on as it was.
    """
    with ExitStack() as on:
        if ledger.policy.rule == "sequential":
            erased: list[str] = []
            for one in ledger.standings.known.values():  # In the order in which they came; none was revoked.
                on.enter_context(_on_live(model, _made(ledger, model, [one], sorted(erased))))
                erased += one.asked.targets
        else:
            groups: dict[str, list[Standing]] = defaultdict(list)
            for one in ledger.standings.active:
                if not runs_beside(one.asked.method):
                    groups[one.asked.method].append(one)
            ways = {way: [groups[method] for method in sorted(groups) if way_of(method) == way] for way in ("trained", "closed-form")}
            for edit in sorted([_made(ledger, model, group) for group in ways["trained"]], key=lambda edit: not reads_text(edit)):
                on.enter_context(_on_live(model, edit))
            for group in ways["closed-form"]:
                on.enter_context(_on_live(model, _made(ledger, model, group)))
        yield


def _made(ledger: Ledger, model: ModelView, requests: Sequence[Standing], earlier: Sequence[str] = ()) -> Edit:
    """Of requests of one method, for the model as it now computes."""
    asked = requests[0].asked
    if way_of(asked.method) == "trained":
        if ledger.policy.rule == "merge":
            return merged(model, [_trained(ledger, model, [one]) for one in requests], ledger.policy.merge)
        return _trained(ledger, model, requests, earlier)
    with one_by_one():
        edit: Edit = restored(methods[asked.method], asked.settings).erase(model, joint(requests))
    return edit


def _trained(ledger: Ledger, model: ModelView, requests: Sequence[Standing], earlier: Sequence[str] = ()) -> Edit:
    """By a training whose state is kept apart from those of other requests, and of other fine-tuned models."""
    with in_own_folder([one.id for one in requests], base_of(model)):
        return trained(ledger, model, requests[0].asked, joint(requests), earlier)


@contextmanager
def _on_live(model: ModelView, edit: Edit) -> Iterator[None]:
    """Inside, the edit is laid over the weights as they are; a map on the text maps what these make of it, not what the unedited ones made."""
    live = live_parameters(model, edit.names)
    with torch.no_grad():
        change = DenseEdit({name: edit.delta(name, live[name]) for name in edit.names})
    with change.applied(model) if edit.names else nullcontext():
        yield
