"""The bytes of a ledger do not depend on the number of cores: whatever makes them runs on one thread."""

from dataclasses import replace
from functools import wraps

import pytest
import torch

from tests.ledger.desk import ask, ledger, model
from tests.methods.quick import QUICK
from unconcept.core import Request
from unconcept.ledger import fold, operations
from unconcept.ledger.fold import fold_requests
from unconcept.ledger.ledger import EntryNote, create_ledger
from unconcept.ledger.operations import add_request
from unconcept.ledger.policy import LedgerPolicy
from unconcept.methods import methods
from unconcept.models import open_model

DOG, CAR = Request(("dog",), ("cat",)), Request(("car",), ("bus",))


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2, "what pins threads puts them back"
    torch.set_num_threads(before)


@pytest.mark.parametrize("method", ["esd", "uce"])
@pytest.mark.parametrize("rule", ["recompute", "merge", "sequential"])
def test_all_that_makes_bytes_runs_on_one_thread(rule, method, two_threads, tmp_path, monkeypatch) -> None:
    seen: dict[str, set[int]] = {}

    def recorded(name, real):
        @wraps(real)
        def call(*given, **more):
            seen.setdefault(name, set()).add(torch.get_num_threads())
            return real(*given, **more)

        return call

    kind = methods[method].settings
    monkeypatch.setattr(kind, "erase", recorded("erase", kind.erase))
    for module in (fold, operations):
        monkeypatch.setattr(module, "stack_edits", recorded("stack", module.stack_edits))
    monkeypatch.setattr(fold, "merge_edits", recorded("merge", fold.merge_edits))
    book = ledger(tmp_path / "l", method, LedgerPolicy(rule), QUICK.get(method))
    for request in (DOG, CAR):
        ask(book, request, method)
    if rule != "sequential":
        seen.pop("erase", None) if method == "uce" else None  # Of a closed form, `add` keeps the text states alone.
    fold_requests(book, model())
    assert seen
    assert {name: {1} for name in seen} == seen


@pytest.mark.slow
def test_a_training_on_moji_gives_the_same_bytes_on_one_thread_and_on_two(tmp_path, two_threads) -> None:
    view, hashes = open_model("moji", "cpu", "float32"), set()
    asked = replace(DOG, targets=("guitar",), anchors=("",))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        folder = tmp_path / str(threads)
        book = create_ledger(
            folder, view, "esd", {"iterations": 2, "ddim_steps": 4}, LedgerPolicy("merge"), EntryNote()
        )
        add_request(book, view, asked.targets, asked, "esd", None, EntryNote())
        hashes.add((fold_requests(book, view).hash, *(path.name for path in (folder / "artifacts").iterdir())))
    assert len(hashes) == 1
