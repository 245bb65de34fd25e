"""What an audit draws: once, into the store, by what the model computes with."""

import torch

from unconcept.evaluation.attacks import resurgence_audit as resurgent
from unconcept.evaluation.attacks.resurgence_audit import FineTuneResurgence
from unconcept.evaluation.tasks.picture_store import PictureStore
from unconcept.models import open_model
from unconcept.prompts.checks import seeded_prompt


def test_pictures_are_drawn_once_and_states_are_told_apart(tmp_path, monkeypatch) -> None:
    drawn: list[list[str]] = []

    def draw(model, prompts, spec):
        drawn.append([prompt.text for prompt in prompts])
        return torch.full((len(prompts), 3, 2, 2), len(drawn) / 255)

    monkeypatch.setattr(resurgent, "draw_prompts", draw)
    model, look, prompts = (
        open_model("moji", "cpu", "float32"),
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
