"""Drift after every entry and costs, under every rule where they are cheap: each step is the drift of a ledger that
stops there.
"""

import pytest
import torch

from tests.ledger.desk import ask, ledger, model
from tests.methods.quick import QUICK
from unconcept.core import Request
from unconcept.core.errors import LedgerError
from unconcept.edits.merge import MergeSettings, merge_edits
from unconcept.ledger.drift import measure_drift, weight_change
from unconcept.ledger.drift_history import drift_history, retain_costs, state_source
from unconcept.ledger.ledger import EntryNote
from unconcept.ledger.operations import revoke_request
from unconcept.ledger.page import write_ledger_page
from unconcept.ledger.policy import LedgerPolicy
from unconcept.ledger.status import ledger_status
from unconcept.methods import methods

REQUESTS = (
    Request(("dog",), ("cat",), ("sea", "fox")),
    Request(("car",), ("bus",), ("goat",)),
    Request(("sun",), ("moon",), ("sea",)),
)
PROBES = ["fox", "goat", "sea"]
ESD = {**QUICK["esd"], "train_method": "x", "lr": 1e-2}
BOOKS = {
    "kept": ("esd", LedgerPolicy("sequential"), ESD),
    "merged": ("esd", LedgerPolicy("merge", MergeSettings("uniform")), ESD),
    "speed": ("speed", LedgerPolicy(), None),
    "tail": ("uce", LedgerPolicy(), {"tokens": "last+tail"}),
}


def book_of(folder, name, requests=REQUESTS):
    method, policy, settings = BOOKS[name]
    book = ledger(folder, method, policy, settings)
    return book, [ask(book, one, method).id for one in requests]


@pytest.mark.parametrize("name", list(BOOKS))
@pytest.mark.slow
def test_each_step_is_the_drift_of_a_ledger_that_stops_there(name, tmp_path) -> None:
    book, ids = book_of(tmp_path / "l", name)
    if name != "kept":
        revoke_request(book, ids[0], EntryNote())
    steps = drift_history(book, model())
    assert [(step.op, step.in_force) for step in steps] == [("add", 1), ("add", 2), ("add", 3), ("revoke", 2)][
        : len(steps)
    ]
    for number, step in enumerate(steps, 1):
        short, _ = book_of(tmp_path / str(number), name, REQUESTS[:number] if number < 4 else REQUESTS[1:])
        wanted = measure_drift(short, model(), PROBES)
        rows = {one.text: one.share for one in wanted.retained}
        assert step.weights == pytest.approx(wanted.total, rel=1e-4)
        assert step.mean_drift == pytest.approx(sum(rows.values()) / 3, rel=1e-4)
        assert (step.worst, step.worst_drift) == (max(rows, key=rows.get), pytest.approx(max(rows.values()), rel=1e-4))
        assert step.worst_drift > 1e-6


@torch.no_grad()
def shares(edit, other=None) -> dict[str, float]:
    """The slow way: readings of every text through all maps that change."""
    found = {}
    for text in PROBES:
        e, gone, size = model().embed([text])[0], [], []
        for key, w in model().text_maps().items():
            if key in edit.names:
                delta = edit.delta(key, w) - (other.delta(key, w) if other is not None else 0)
                gone.append(delta @ e)
                size.append(w @ e)
        found[text] = float(torch.cat(gone).norm() / torch.cat(size).norm())
    return found


@pytest.mark.parametrize("name", ["kept", "merged", "speed"])
def test_costs_are_those_of_a_requests_own_targets(name, tmp_path) -> None:
    book, ids = book_of(tmp_path / "l", name)
    found = retain_costs(book, model())
    assert set(found) == set(ids)
    edits = {one.id: book.artifacts.get_edit(one.edit) for one in book.request_states.active} if name != "speed" else {}
    for number, id_ in enumerate(ids):
        others = [i for i in ids if i != id_]
        if name == "kept":
            wanted = shares(edits[id_], edits[ids[number - 1]] if number else None)
        elif name == "merged":
            wanted = shares(
                merge_edits(model(), list(edits.values()), MergeSettings("uniform")),
                merge_edits(model(), [edits[i] for i in others], MergeSettings("uniform")),
            )
        else:
            solver, pairs = methods["speed"].settings(), {"dog": "cat", "car": "bus", "sun": "moon"}
            left = sorted(target for target in pairs if target not in REQUESTS[number].targets)
            sets = sorted(pairs), left
            wanted = shares(
                *(
                    solver.erase(model(), Request(tuple(own), tuple(pairs[t] for t in own), tuple(PROBES)))
                    for own in sets
                )
            )
        assert found[id_] == (max(wanted, key=wanted.get), pytest.approx(max(wanted.values()), rel=1e-3))


def test_a_sequence_is_read_from_what_it_kept(tmp_path) -> None:
    book, ids = book_of(tmp_path / "l", "kept")
    kept = [book.artifacts.get_edit(book.request_states.by_id[id_].edit) for id_ in ids]
    assert [step.weights for step in drift_history(book, model())] == [weight_change(model(), edit)[0] for edit in kept]


def page(book, tmp_path) -> str:
    write_ledger_page(book, ledger_status(book), model(), tmp_path / "page.html", True)
    return (tmp_path / "page.html").read_text()


def test_the_page_says_why_there_is_no_curve(tmp_path) -> None:
    book = ledger(tmp_path / "l", "esd", None, ESD)
    assert "no request of this ledger ever changed a weight" in page(book, tmp_path)
    ask(book, REQUESTS[0], "esd")
    with pytest.raises(LedgerError, match="esd: under the rule recompute each past state would need its own training"):
        drift_history(book, model())
    assert "esd: under the rule recompute each past state would need its own training" in page(book, tmp_path)
    ask(book, REQUESTS[1], "uce")
    assert (state_source(book), len(drift_history(book, model()))) == ("updates", 1)
    assert "For requests of uce, computed by rank-one updates" in page(book, tmp_path)


def test_the_page_builds_no_endless_row_of_states(tmp_path, monkeypatch) -> None:
    book, _ = book_of(tmp_path / "l", "speed")
    shown = page(book, tmp_path)
    assert "Each state was folded again" in shown
    assert shown.count(" moves by ") == 3
    monkeypatch.setattr("unconcept.ledger.page.MOST_STATES", 2)
    assert "3 states would have to be rebuilt" in page(book, tmp_path)
    assert len(drift_history(book, model())) == 3
