"""Folds the requests in force into the state of a ledger: edits of the base, a function of the set of requests.

Order: edits of text encoders, then trained edits, then closed forms on the weights that these leave, then edits that
run beside the model. Requests of one method are merged into one (`core.request.merge_requests`).
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from importlib.metadata import version

import torch

from ..core import pinned_threads
from ..core.errors import LedgerError, require
from ..core.hashing import hash_json, hash_tensors
from ..core.recipe import without_folders
from ..core.request import Request, merge_requests
from ..core.text_identity import TextKey, folded_text
from ..core.versions import library_versions
from ..edits import DenseEdit, Edit, EditOrigin, GatedEdit, TextMapEdit
from ..edits.merge import merge_edits, stack_edits
from ..methods import methods
from ..models import ModelView
from ..models.checkpoint.model_card import base_id, read_licence
from ..models.text.state_cache import TextStateCache, deterministic_text_states
from ..training.regularisers import use_regularisers
from .entry import method_from_settings
from .ledger import Ledger, method_mechanism, request_set_hash
from .request_state import RequestState
from .storage.entry_schema import RequestContent

_StageCallback = Callable[[str, int, int], None]  # name of the stage, number done, total
_ID_DIGITS_IN_NAMES = 12  # digits of an id in a file name


@dataclass(frozen=True)
class LedgerState:
    """The edits that all requests in force give together."""

    edit: Edit
    """The edit of weights, possibly empty; if a single edit that runs beside the model is the whole state, that one."""
    runtime_edits: dict[str, Edit] = field(default_factory=dict)
    """Edits that run beside the model on top of `edit`, by file name."""
    trained_edits: dict[str, Edit] = field(default_factory=dict)
    """Edits that were trained for this state, by method, each with the origin of its own requests. Stored for reuse."""

    @property
    def hash(self) -> str:
        """Hash of all edits."""
        return (
            hash_json([self.edit.hash, {name: one.hash for name, one in self.runtime_edits.items()}])
            if self.runtime_edits
            else self.edit.hash
        )

    @contextmanager
    def applied(self, model: ModelView) -> Iterator[None]:
        """Apply all edits to the model for the duration of the context."""
        with ExitStack() as on:
            for edit in (self.edit, *self.runtime_edits.values()):
                on.enter_context(edit.applied(model))
            yield


def fold_requests(ledger: Ledger, model: ModelView, active: Sequence[RequestState] | None = None) -> LedgerState:
    """Fold the ledger's requests in force, or only those in `active`, into one state.

    Runs on one thread, so that bytes do not depend on the number of cores. `LedgerError` if the base or a text encoder
    is not the ledger's.
    """
    with pinned_threads(1):
        return _folded(ledger, model, active)


def _folded(ledger: Ledger, model: ModelView, active: Sequence[RequestState] | None) -> LedgerState:
    requests = sorted(ledger.request_states.active if active is None else active, key=lambda one: one.id)
    groups = _by_method(requests)
    for method in groups or [ledger.first["method"]]:
        ledger.require_base(model, method_mechanism(method))
        _check_version(method, groups.get(method, ()))
    if ledger.policy.rule == "sequential":
        return LedgerState(_stamped(ledger, model, _last(ledger, requests) or empty_edit(model), requests))
    layers: list[Edit] = []
    beside, kept = dict[str, Edit](), dict[str, Edit]()
    for method in sorted(groups):
        for name, (edit, own) in _parts(ledger, model, method, groups[method]).items():
            if method_mechanism(method) == "trained" and ledger.policy.rule == "recompute":
                edit = kept[method] = _with_own_origin(ledger, model, edit, own)
            if not edit.can_bake():
                beside[name] = edit.stamped(state_origin(ledger, model, edit, own))
            else:
                layers.append(edit)
    under = _stacked(model, layers)
    for method in sorted(groups):
        if method_mechanism(method) == "closed-form":
            under = _closed(ledger, model, method, groups[method], under)
    if under is None and len(beside) == 1:
        (alone,) = beside.values()
        return LedgerState(alone, {}, kept)
    return LedgerState(_stamped(ledger, model, under or empty_edit(model), requests), beside, kept)


def _by_method(requests: Sequence[RequestState]) -> dict[str, list[RequestState]]:
    groups: dict[str, list[RequestState]] = defaultdict(list)
    for one in requests:
        groups[one.content.method].append(one)
    return groups


@torch.no_grad()
def _stacked(model: ModelView, layers: Sequence[Edit]) -> Edit | None:
    """Stack edits into one, those of text encoders first; None if there are none."""
    under: Edit | None = None
    for edit in sorted(layers, key=lambda edit: not edits_text_encoder(edit)):
        under = stack_edits(model, under, edit)
    return under


def _check_version(method: str, requests: Sequence[RequestState]) -> None:
    """Refuse requests made for another version of a method: the same settings would give another edit."""
    for one in requests:
        message = (
            f"request {one.id[:8]} was made for version {one.content.version} of {method}, this library has"
            f" {methods[method].version}: "
        )
        require(
            one.content.version == methods[method].version,
            message + "begin a new ledger and add the request there",
            LedgerError,
        )


def empty_edit(model: ModelView) -> TextMapEdit:
    """An edit that changes nothing: with it applied or baked, every bit of the model stays the same."""
    width = next(iter(model.reference(list(model.text_maps())[:1]).values())).shape[1]
    return TextMapEdit(torch.zeros(0, width), torch.zeros(0, width), tuple(sorted(model.text_maps())))


def merged_request(requests: Sequence[RequestState], key: TextKey = folded_text) -> Request:
    """Merge the requests into one; `key` tells which texts are one text."""
    return merge_requests([one.content.request for one in requests], key)


def stored_text_states(ledger: Ledger, model: ModelView, requests: Sequence[RequestState]) -> TextStateCache:
    """Load the stored text states. If several requests have a text, the state from the smallest id counts."""
    known: TextStateCache = {}
    for one in sorted(requests, key=lambda one: one.id):
        for name in one.artifacts:
            for key, rows in ledger.artifacts.get_states(name).items():
                if key not in known:
                    known[key] = rows.to(model.device, model.dtype)
    return known


def _closed(
    ledger: Ledger, model: ModelView, method: str, requests: Sequence[RequestState], under: Edit | None
) -> Edit:
    # Stored states come from the unedited encoder; if an edit changes the encoder, texts are encoded again.
    known = {} if under is not None and edits_text_encoder(under) else stored_text_states(ledger, model, requests)
    solver = method_from_settings(methods[method], requests[0].content.settings)
    with deterministic_text_states(model, known) as fixed:
        with under.applied(model) if under else nullcontext():
            edit = solver.erase(fixed, merged_request(requests, ledger.text_key(model)))
        return stack_edits(fixed, under, edit)


# Edits, each with its requests, by the file name that it gets if it is stored beside the weights.
_NamedEdits = dict[str, tuple[Edit, Sequence[RequestState]]]


def _parts(ledger: Ledger, model: ModelView, method: str, requests: Sequence[RequestState]) -> _NamedEdits:
    """The edits of one method that do not depend on the weights that other methods leave; none for a closed form."""
    if method_mechanism(method) == "closed-form":
        return {}
    if method_mechanism(method) == "steering":
        steering = method_from_settings(methods[method], requests[0].content.settings).erase(
            model, merged_request(requests, ledger.text_key(model))
        )
        return {f"steering-{steering.rule.__class__.__name__.lower()}": (steering, requests)}
    if ledger.policy.rule == "merge":
        return _merged(ledger, model, method, requests)
    return {f"adapter-{method}": (_trained(ledger, model, method, requests), requests)}


def _merged(ledger: Ledger, model: ModelView, method: str, requests: Sequence[RequestState]) -> _NamedEdits:
    """Merge the separate edits of the requests into one edit of weights.

    Adapters stay separate, so that each can be removed: gated ones as parts of one edit, others in a file each.
    """
    edits = [ledger.artifacts.get_edit(one.edit or "") for one in requests]
    gated = [edit for edit in edits if isinstance(edit, GatedEdit)]
    if len(gated) == len(edits):
        return {
            f"adapter-{method}": (
                replace(gated[0], parts=tuple(part for edit in gated for part in edit.parts)),
                requests,
            )
        }
    if any(not edit.can_bake() for edit in edits):
        return {
            f"adapter-{method}-{one.id[:_ID_DIGITS_IN_NAMES]}": (edit, [one])
            for one, edit in zip(requests, edits, strict=True)
        }
    return {f"adapter-{method}": (merge_edits(model, edits, ledger.policy.merge), requests)}


def _trained(ledger: Ledger, model: ModelView, method: str, requests: Sequence[RequestState]) -> Edit:
    """Load the edit that was stored for exactly this set of requests, or train one on all of them."""
    key = request_set_hash([one.id for one in requests])
    for body in reversed(ledger.entry_log.bodies):
        kept = body.get("trained", {}).get(method)
        if kept and kept["requests"] == key:
            return ledger.artifacts.get_edit(kept["edit"])
    return train_request(ledger, model, requests[0].content, merged_request(requests, ledger.text_key(model)))


def _with_own_origin(ledger: Ledger, model: ModelView, edit: Edit, requests: Sequence[RequestState]) -> Edit:
    """The edit with an origin that covers its own requests and the tensors that it changes.

    Version 0.1 stored a trained edit with the origin of the whole state, which may cover other tensors.
    """
    ids = [one.id for one in requests]
    if edit.origin is not None and edit.origin.settings.get("requests") == ids:
        return edit
    return edit.stamped(state_origin(ledger, model, edit, requests))


def train_request(
    ledger: Ledger, model: ModelView, asked: RequestContent, request: Request, earlier: Sequence[str] = ()
) -> Edit:
    """Train an edit for a request, with the ledger's regularisers; `earlier` are targets that the model as it now is
    has erased already.

    Runs on one thread, so that the result is the same bits on any number of cores.
    """
    with pinned_threads(1), use_regularisers(ledger.policy.regularisers, request, earlier):
        edit: Edit = method_from_settings(methods[asked.method], asked.settings).erase(model, request)
    return edit


def _last(ledger: Ledger, requests: Sequence[RequestState]) -> Edit | None:
    """The stored edit after the last request, under the rule sequential."""
    if not ledger.request_states.changes:
        return None
    latest = ledger.request_states.changes[-1]
    if latest.group not in {one.group for one in requests}:
        raise LedgerError(
            "a sequential ledger has only the state of all its requests, and some are left out here: fold all of them,"
            " or begin a ledger of rule recompute or merge"
        )
    return ledger.artifacts.get_edit(latest.body["edit"])


def edits_text_encoder(edit: Edit) -> bool:
    """Whether an edit changes a text encoder, and with it the inputs of every other edit."""
    return any(name.startswith("text_encoder") for name in edit.names)


def _stamped(ledger: Ledger, model: ModelView, edit: Edit, requests: Sequence[RequestState]) -> Edit:
    bare = replace(edit, origin=None, solve_figures={}) if isinstance(edit, DenseEdit | TextMapEdit) else edit
    return bare.stamped(state_origin(ledger, model, edit, requests))


def state_origin(ledger: Ledger, model: ModelView, edit: Edit, requests: Sequence[RequestState]) -> EditOrigin:
    """The header of a state: the exact set of requests, without times or names."""
    policy = ledger.policy.data() | {"methods": {one.content.method: dict(one.content.settings) for one in requests}}
    joined = merged_request(requests, ledger.text_key(model)) if requests else None
    return EditOrigin(
        method="ledger",
        settings={
            "rule": policy.pop("rule"),
            "policy": without_folders(policy),
            "requests": [one.id for one in requests],
        },
        targets=joined.targets if joined else (),
        anchors=joined.anchors if joined else (),
        retain=joined.retain if joined else (),
        kind=joined.kind if joined else "object",
        family=model.family,
        base=base_id(model.name),
        base_hash=_base_hash(ledger, model, edit.bound_names),
        version=version("unconcept"),
        licence=read_licence(model.checkpoint.source),
        libraries=library_versions(),
    )


def _base_hash(ledger: Ledger, model: ModelView, names: Sequence[str]) -> str:
    """Hash of the tensors that are changed. Computed once per process: the tensors are large, and `require_base` has
    checked them.
    """
    key = (id(model), tuple(names))
    if key not in ledger.hashes:
        ledger.hashes[key] = hash_tensors(model.reference(names))
    return ledger.hashes[key]
