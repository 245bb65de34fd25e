"""What an audit draws: once, into the store, by what the model computes with."""

import pytest
import torch

from unconcept.edits import LowRankEdit
from unconcept.evaluation.attacks import resurgence_audit as resurgent
from unconcept.evaluation.attacks.resurgence_audit import FineTuneResurgence
from unconcept.evaluation.tasks.picture_store import PictureStore
from unconcept.models import open_model
from unconcept.prompts.checks import seeded_prompt
from unconcept.worlds.table import concept_table


@pytest.fixture(scope="module")
def model():
    return open_model("moji", "cpu", "float32")


def test_a_contact_sheet_has_targets_and_what_should_stay(model, tmp_path, monkeypatch) -> None:
    """Of the same prompts and seeds on both sides; nothing that is erased counts as what should stay."""
    drawn: list[list[tuple[str, int]]] = []

    def draw(model, prompts, spec):
        drawn.append([(prompt.text, prompt.seed) for prompt in prompts])
        return torch.rand(len(prompts), 3, 64, 64, generator=torch.Generator().manual_seed(len(drawn)))

    monkeypatch.setattr(resurgent, "draw_prompts", draw)
    look = FineTuneResurgence(PictureStore(tmp_path), pictures=6)
    edit = LowRankEdit({})
    near = look.contact_sheet(model, edit, ["dog face"], ["dog face"])
    assert [pair.is_target for pair in near] == [True] * 4 + [False] * 4
    kept = {pair.pair.text for pair in near if not pair.is_target}
    found = look.contact_sheet(model, edit, ["dog face"], ["dog face", *kept])
    assert not kept & {pair.pair.text for pair in found}
    assert drawn[0] == drawn[1] == [(pair.pair.text, pair.seed) for pair in near]
    checks = look.checks(model, "dog face")
    assert [pair.seed for pair in near[:4]] == [check.prompt.seed for check in checks[:4]], "those that are counted"
    many = look.contact_sheet(model, edit, [entry.name for entry in concept_table().objects[:20]], [])
    assert sum(pair.is_target for pair in many) == 12


def test_pictures_are_drawn_once_and_states_are_told_apart(model, tmp_path, monkeypatch) -> None:
    drawn: list[list[str]] = []

    def draw(model, prompts, spec):
        drawn.append([prompt.text for prompt in prompts])
        return torch.full((len(prompts), 3, 2, 2), len(drawn) / 255)

    monkeypatch.setattr(resurgent, "draw_prompts", draw)
    look, prompts = (
        FineTuneResurgence(PictureStore(tmp_path)),
        [seeded_prompt("a guitar", 0), seeded_prompt("a guitar", 1)],
    )
    first = look._drawn(model, prompts[:1], "edit")
    both = look._drawn(model, prompts, "edit")
    look._drawn(model, prompts[:1])
    look._drawn(model, prompts[:1], "edit", "tuned")
    assert drawn == [["a guitar"]] * 4, "the second picture alone, and one for each other state"
    assert list(both) == prompts
    assert torch.equal(both[prompts[0]], first[prompts[0]])
    assert both[prompts[1]].unique().tolist() == [torch.tensor(2 / 255).item()]
