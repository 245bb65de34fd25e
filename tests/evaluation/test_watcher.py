"""Eyes for methods that look whether a target is gone."""

import pytest
import torch

from unconcept.core.request import RequestSpec
from unconcept.erasing.make_edit import make_edit
from unconcept.erasing.request_defaults import resolve_request
from unconcept.evaluation.judging import live as observing
from unconcept.evaluation.judging.judge import Judge
from unconcept.evaluation.judging.live import PresenceRate
from unconcept.evaluation.sampling import DrawSpec
from unconcept.evaluation.tasks.edited_model import EditedModel
from unconcept.evaluation.tasks.picture_store import PictureStore
from unconcept.prompts.checks import REPORT_SEEDS, moji_checks
from unconcept.worlds.table import concept_table

NAMES = ("dog face", "pizza")


def test_it_looks_once_at_each_picture_of_the_targets_alone(tmp_path, monkeypatch) -> None:
    """Direct prompts, tuning seeds; the same model is not drawn again, an edited one is; the share is of the judge's
    words.
    """
    prompts, said = [], iter(["dog face", "nothing", "pizza", "pizza"] + ["nothing"] * 4)

    def drawn(model, asked, spec):
        prompts.extend(asked)
        return torch.zeros(len(asked), 3, 64, 64)

    monkeypatch.setattr(observing, "draw_prompts", drawn)
    monkeypatch.setattr(observing, "judge_labels", lambda judge, checks, pictures: [next(said) for _ in checks])
    told = []
    view = EditedModel().base()
    look = PresenceRate(
        view,
        Judge("moji-judge"),
        lambda sizes: moji_checks(concept_table(), NAMES, sizes),
        DrawSpec(batch_size=3),
        PictureStore(tmp_path / "s"),
        tell=lambda *words: told.append(words[0]),
    )
    assert look(2) == pytest.approx(0.75)
    assert [name for name in NAMES for prompt in prompts if name in prompt.text] == ["dog face"] * 2 + ["pizza"] * 2
    assert all(prompt.seed < REPORT_SEEDS for prompt in prompts)
    assert look(2) == pytest.approx(0.75)
    assert len(prompts) == 4
    with make_edit(view, resolve_request(RequestSpec(("dog face",)), "moji"), "uce", {}).applied(view):
        assert look(2) == 0
    assert len(prompts) == 8
    assert told[0] == "presence check: 3 of 4 pictures show a target"
