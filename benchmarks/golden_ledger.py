"""Ledgers of every rule on the tiny SD 1: entries under a fixed clock, ids of requests, and folded states."""

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import torch

from tests.ledger.desk import ask, ledger, model
from tests.methods.quick import QUICK
from unconcept.core import Request
from unconcept.core.hashing import hash_tensors
from unconcept.edits import ApplicableEdit, Edit
from unconcept.edits.merge import MergeSettings
from unconcept.ledger import ledger as ledger_module
from unconcept.ledger.audit import audit_requests
from unconcept.ledger.fold import fold_requests
from unconcept.ledger.ledger import EntryNote, Ledger, request_set_hash
from unconcept.ledger.materialize import materialize_ledger
from unconcept.ledger.operations import revoke_request
from unconcept.ledger.policy import LedgerPolicy
from unconcept.ledger.storage import private_file
from unconcept.models import ModelView
from unconcept.training.regularisers import Regularisers

DIGITS = 32  # of a hash
DOG, CAR = Request(("dog",), ("cat",), ("fox",)), Request(("car",), ("bus",), ("sea",))
SUN = Request(("sun",), ("moon",))
NOTE = EntryNote("tests", "golden")
HELD = Regularisers(l2sp=25000.0, selft_topk=0.4, selft_draws=2, projection="update")


def edit_hashes(edit: Edit) -> str:
    """Of its tensors alone, and of all its content (rules, strengths, names); its origin is no part of either."""
    return f"{hash_tensors(edit.tensors())[: DIGITS // 2]} {edit.hash[: DIGITS // 2]}"


class Look:
    """An audit that finds the same whatever it is shown."""

    settings: Mapping[str, object] = {"pictures": 4}

    def __call__(
        self,
        model: ModelView,
        edit: ApplicableEdit,
        concept: str,
        erased: Sequence[str],
        refold: object,
    ) -> dict[str, int | None]:
        return {"pictures": 4, "unedited": 4, "edited": 0, "tuned": 1, "refolded": 0}


def closed_forms(folder: Path) -> Ledger:
    """Every kind of entry: requests revoked and asked again, steering, a state written out, an audit."""
    book = ledger(folder / "ledger")
    first, second, _ = [ask(book, number) for number in (1, 2, 3)]
    revoke_request(book, first.id, NOTE)
    ask(book, 1)
    for method in ("speed", "adavd", "nag"):
        ask(book, DOG, method)
    materialize_ledger(book, model(), folder / "out", False, False, NOTE)
    audit_requests(book, model(), Look(), NOTE)
    revoke_request(book, second.id, NOTE)
    return book


def trained(folder: Path, method: str, policy: LedgerPolicy, *closed: Request) -> Ledger:
    """Two requests of a trained method, written out, and some of a closed form on top."""
    book = ledger(folder / "ledger", method, policy, QUICK[method])
    for request in (DOG, CAR):
        ask(book, request, method)
    for request in closed:
        ask(book, request, "uce")
    materialize_ledger(book, model(), folder / "out", False, False, NOTE)
    return book


def text_encoder(folder: Path) -> Ledger:
    """A closed form on top of a trained text encoder, whose states are read anew, written out."""
    book = ledger(folder / "ledger", "few-shot", LedgerPolicy(), QUICK["few-shot"])
    ask(book, DOG, "few-shot")
    ask(book, SUN, "uce")
    materialize_ledger(book, model(), folder / "out", False, False, NOTE)
    return book


def sequence(folder: Path) -> Ledger:
    """Closed forms one on top of the other."""
    book = ledger(folder / "ledger", "uce", LedgerPolicy("sequential"))
    for number in (1, 2):
        ask(book, number)
    return book


def make(name: str, folder: Path) -> Ledger:
    """The ledger of one case."""
    match name:
        case "closed":
            return closed_forms(folder)
        case "closed-sequential":
            return sequence(folder)
        case "recompute-regularised":
            return trained(folder, "esd", LedgerPolicy(regularisers=HELD))
        case "recompute-text-encoder":
            return text_encoder(folder)
        case "merge-spm" | "merge-receler":
            return trained(folder, name.removeprefix("merge-"), LedgerPolicy("merge"), SUN)
    return trained(folder, "esd", POLICIES[name], *([] if name.startswith("sequential") else [SUN]))


POLICIES = {
    "recompute": LedgerPolicy(),
    "merge-uniform": LedgerPolicy("merge", MergeSettings("uniform")),
    "merge-task-arithmetic": LedgerPolicy("merge", MergeSettings("task-arithmetic", 0.7)),
    "merge-ties": LedgerPolicy("merge", MergeSettings("ties", 1.5, 0.5)),
    "sequential-previous": LedgerPolicy("sequential"),
    "sequential-pretrained": LedgerPolicy("sequential", teacher="pretrained"),
}
OTHERS = (
    "closed",
    "closed-sequential",
    "recompute-regularised",
    "recompute-text-encoder",
    "merge-spm",
    "merge-receler",
)


def clock() -> Callable[[], str]:
    """A second passes from one call to the next."""
    seconds = count()
    return lambda: f"2026-01-01T00:00:{next(seconds):02}.000000+00:00"


def salts() -> Callable[[], str]:
    """The number of the call: entries chain commitments with salts, which are random elsewhere."""
    numbers = count()
    return lambda: f"{next(numbers):064}"


def ledgers() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in (*OTHERS, *POLICIES):
        torch.manual_seed(0)
        with (
            TemporaryDirectory() as folder,
            patch.object(ledger_module, "utc_timestamp", clock()),
            patch.object(private_file, "random_salt", salts()),
        ):
            found |= {f"{name} {what}": value for what, value in describe(make(name, Path(folder))).items()}
    return found


def describe(book: Ledger) -> dict[str, str]:
    """Hashes of the entries, ids of the requests and of the set in force, hashes of the folded edits."""
    found = {}
    for number, body in enumerate(book.entry_log.bodies):
        found[f"entry {number:02} {body['op']}"] = book.entry_log.hash_of(number)[:DIGITS]
    for number, (id_, one) in enumerate(book.request_states.by_id.items()):
        found[f"request {number} {one.content.method} {one.state}"] = id_[:DIGITS]
    found["set in force"] = request_set_hash([one.id for one in book.request_states.active])[:DIGITS]
    state = fold_requests(book, model())
    edits = {"state": state.edit} | {f"state beside it {name}": edit for name, edit in state.runtime_edits.items()}
    return found | {name: edit_hashes(edit) for name, edit in edits.items()}
