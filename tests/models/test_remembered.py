"""A view of files encodes a text once; one of a pipeline, which may be trained, whenever it is asked."""

import pytest
import torch

from tests import tiny
from unconcept.models import open_model
from unconcept.models.text.clip_encoder import ClipTextEncoder
from unconcept.models.text.t5_encoder import T5Encoder


@pytest.mark.parametrize("family", ["sdxl", "flux"])
def test_files_are_asked_once(family, tmp_path, monkeypatch) -> None:
    model = open_model(str(tiny.folder(family, tmp_path / "m")), "cpu", "float32")
    asked: list[tuple[str, ...]] = []
    for kind in (ClipTextEncoder, T5Encoder):
        own = kind._read
        monkeypatch.setattr(
            kind, "_read", lambda self, texts, *rest, own=own: asked.append(tuple(texts)) or own(self, texts, *rest)
        )
    first = model.embed(["dog", "cat", "dog"])
    encoders = len(asked)
    assert set(asked) == {("dog", "cat")}
    assert torch.equal(model.embed(["cat", "dog"]), first[1:])
    assert len(asked) == encoders
    model.embed(["cat", "moon"])
    assert set(asked[encoders:]) == {("moon",)}
    assert torch.equal(model.embed(["dog"], at="first_eot"), model.embed(["dog"], at="first_eot"))
    first.zero_()  # What a caller does to its rows is its own affair.
    assert model.embed(["dog"]).abs().sum() > 0


def test_a_pipelines_states_follow_its_weights() -> None:
    model = tiny.view("sd1")
    before = model.embed(["dog"])
    encoder = model.modules("text_encoder")
    with torch.no_grad():
        encoder.get_input_embeddings().weight.mul_(2)
    assert not torch.equal(model.embed(["dog"]), before)


def test_a_view_of_files_forgets_once_its_pipeline_is_built(tmp_path) -> None:
    model = open_model(str(tiny.folder("sd1", tmp_path / "m")), "cpu", "float32")
    before = model.embed(["dog"])
    with torch.no_grad():
        model.modules("text_encoder").get_input_embeddings().weight.mul_(2)
    assert not torch.allclose(model.embed(["dog"]), before)


def test_texts_that_are_read_alike_are_encoded_once() -> None:
    model = tiny.view("sd1")
    (encoder,) = model._encoders()
    ran: list[int] = []
    states = encoder._read(
        ["", "dog", " ", "dog "], "all", lambda groups: ran.append(sum(map(len, groups))) or encoder._states(groups)
    )
    assert sum(ran) == 2
    assert torch.equal(states, encoder.states(torch.tensor(encoder.tokenizer(["", "dog", "", "dog"]).padded())))


def test_a_pipeline_that_is_built_holds_its_encoders_once(tmp_path) -> None:
    view = open_model(str(tiny.folder("sdxl", tmp_path / "m")), "cpu", "float32")
    read = view.embed(["dog"])
    assert view.checkpoint._held
    assert view.modules("denoiser") is not None
    assert not view.checkpoint._held
    assert torch.equal(view.embed(["dog"]), read)
