"""Folds the requests in force again on a model that was fine-tuned since: its present weights are the new base."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext

import torch

from ..edits import DenseEdit, Edit
from ..edits.merge import merge_edits
from ..edits.weights import live_parameters
from ..methods import methods
from ..models import ModelView
from ..models.text.state_cache import deterministic_text_states
from ..training.session import separate_state_folder
from ..training.trainer import base_fingerprint
from .entry import changes_no_weight, method_from_settings
from .fold import edits_text_encoder, merged_request, train_request
from .ledger import Ledger, method_mechanism
from .request_state import RequestState


@contextmanager
def refold_on_current_weights(ledger: Ledger, model: ModelView) -> Iterator[None]:
    """Inside, the model computes with the edits that a new ledger of the same requests would give, begun on its present
    weights.

    Nothing stored is used: texts are encoded again and trained methods train again. Edits that run beside the model are
    not folded again: they stay applied.
    """
    with ExitStack() as on:
        if ledger.policy.rule == "sequential":
            erased: list[str] = []
            for one in ledger.request_states.by_id.values():  # In the order of adding; none was revoked.
                on.enter_context(_on_live(model, _made(ledger, model, [one], sorted(erased))))
                erased += one.content.targets
        else:
            groups: dict[str, list[RequestState]] = defaultdict(list)
            for one in ledger.request_states.active:
                if not changes_no_weight(one.content.method):
                    groups[one.content.method].append(one)
            ways: dict[str, list[list[RequestState]]] = defaultdict(list)
            for method in sorted(groups):
                ways[method_mechanism(method)].append(groups[method])
            for edit in sorted(
                [_made(ledger, model, group) for group in ways["trained"]],
                key=lambda edit: not edits_text_encoder(edit),
            ):
                on.enter_context(_on_live(model, edit))
            for group in ways["closed-form"]:
                on.enter_context(_on_live(model, _made(ledger, model, group)))
        yield


def _made(ledger: Ledger, model: ModelView, requests: Sequence[RequestState], earlier: Sequence[str] = ()) -> Edit:
    """Make the edit of one method's requests, for the model as it now computes."""
    asked, merged = requests[0].content, merged_request(requests, ledger.text_key(model))
    if method_mechanism(asked.method) == "trained":
        if ledger.policy.rule == "merge":
            return merge_edits(model, [_trained(ledger, model, [one]) for one in requests], ledger.policy.merge)
        return _trained(ledger, model, requests, earlier)
    with deterministic_text_states(model) as fixed:
        edit: Edit = method_from_settings(methods[asked.method], asked.settings).erase(fixed, merged)
    return edit


def _trained(ledger: Ledger, model: ModelView, requests: Sequence[RequestState], earlier: Sequence[str] = ()) -> Edit:
    """Train with a state folder separate from those of other requests and of other fine-tuned models."""
    merged = merged_request(requests, ledger.text_key(model))
    with separate_state_folder([one.id for one in requests], base_fingerprint(model)):
        return train_request(ledger, model, requests[0].content, merged, earlier)


@contextmanager
def _on_live(model: ModelView, edit: Edit) -> Iterator[None]:
    """Apply the edit to the present weights; its change is computed from these weights, not from the base's."""
    live = live_parameters(model, edit.names)
    with torch.no_grad():
        change = DenseEdit({name: edit.delta(name, live[name]) for name in edit.names})
    with change.applied(model) if edit.names else nullcontext():
        yield
