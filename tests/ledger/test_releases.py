"""Two releases tell what was withdrawn between them, and `diff` measures it."""

import pytest
import torch
from typer.testing import CliRunner

from tests.ledger.desk import ask, ledger, model
from tests.methods.quick import QUICK
from unconcept.cli import app
from unconcept.core import Request
from unconcept.core.errors import LedgerError
from unconcept.edits import load_edit
from unconcept.ledger.diff import compare_releases
from unconcept.ledger.ledger import EntryNote
from unconcept.ledger.materialize import materialize_ledger
from unconcept.ledger.operations import revoke_request

DOG, CAR = Request(("dog",), ("cat",)), Request(("car",), ("bus",))


def released(folder, method):
    """Two releases, the second after one of two requests was withdrawn; and the id of that one."""
    book = ledger(folder / "l", method, None, QUICK.get(method))
    ids = [ask(book, one, method).id for one in (DOG, CAR)]
    materialize_ledger(book, model(), folder / "a", False, False, EntryNote())
    revoke_request(book, ids[0], EntryNote())
    materialize_ledger(book, model(), folder / "b", False, False, EntryNote())
    return folder / "a", folder / "b", ids[0]


@pytest.mark.parametrize("method", ["uce", "esd"])
def test_the_difference_of_two_releases_is_that_of_their_changes(method, tmp_path) -> None:
    first, second, gone = released(tmp_path, method)
    found = compare_releases(first, second)
    assert (found["only_first"], found["only_second"], found["both"], found["same"]) == ([gone], [], 1, False)
    edits = [load_edit(folder / "edit.safetensors") for folder in (first, second)]
    if method == "uce":  # Each map is formed here; T = X^T Y, and one target gives one direction.
        changes = [{"T": edit.x.double().T @ edit.y.double()} for edit in edits]
        assert found["directions"] == torch.linalg.matrix_rank(changes[0]["T"] - changes[1]["T"], rtol=1e-6)
    else:
        changes = [edit.deltas for edit in edits]
        assert found["directions"] is None
    moved, size = (
        torch.cat([part.double().flatten() for part in parts]).norm()
        for parts in ([changes[0][name] - changes[1][name] for name in changes[0]], changes[0].values())
    )
    assert found["difference"] == pytest.approx(float(moved / size), rel=1e-6)
    assert compare_releases(first, first)["difference"] == pytest.approx(0, abs=1e-6)
    shown = CliRunner().invoke(app, ["ledger", "diff", str(first), str(second)]).stdout
    assert f"- {gone[:8]}\nthe edits differ by " in shown


def test_edits_of_two_kinds_are_one_line(tmp_path) -> None:
    with pytest.raises(LedgerError, match="cannot be compared without the model"):
        compare_releases(released(tmp_path / "1", "uce")[0], released(tmp_path / "2", "esd")[0])
