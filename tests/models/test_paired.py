"""A CLIP whose text tower is a model's own encoder, against transformers' CLIP; and what is not one."""

import pytest
import torch
from transformers import CLIPModel

from tests import tiny, toy_text
from unconcept.core.errors import ModelError, SettingsError
from unconcept.erasing.vision_towers import open_vision_towers
from unconcept.models.vision.clip import clip_text_tower, load_clip
from unconcept.models.vision.paired_clip import open_paired_clip
from unconcept.training import loss_gradient


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.clip_folder(tmp_path_factory.mktemp("clip") / "clip", side=16)


def view_of(folder, layers: int):
    """A model that reads texts with the first layers of the CLIP, as SD 1.x does with all, SD 2.x with all but the
    last.
    """
    config = toy_text.text_config(toy_text.tokenizer(), 32, "quick_gelu")
    config.num_hidden_layers = layers
    view = tiny.view("sd1", torch.float32)
    encoder = type(view.pipeline.text_encoder)(config).eval()
    own = CLIPModel.from_pretrained(folder).text_model.state_dict()
    encoder.load_state_dict({name: own[name] for name in encoder.state_dict()})
    view.pipeline.text_encoder = encoder
    return view


@pytest.mark.parametrize("layers", [1, 2])
def test_texts_are_read_as_the_clip_reads_them(folder, layers) -> None:
    view = view_of(folder, layers)
    sight, clip = open_paired_clip(folder, view, "text_encoder"), load_clip(folder, torch.device("cpu"))
    texts = ["a dog", "cat", "a red fox"]
    assert torch.allclose(sight.embed_texts(texts), clip.embed_texts(texts), atol=1e-6)
    assert sight.scale == pytest.approx(CLIPModel.from_pretrained(folder).logit_scale.exp().item())
    pictures = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sight.embed_images(pictures), clip.embed_images(pictures))
    live = dict(view.modules("text_encoder").named_parameters())
    weight = live["encoder.layers.0.mlp.fc1.weight"]
    (g,) = loss_gradient(sight.embed_texts(texts).square()[:, 0].sum(), [weight])
    assert g.any()
    with torch.no_grad():
        before = sight.embed_texts(texts)
        weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
        assert not torch.allclose(sight.embed_texts(texts), before, atol=1e-3)


def test_another_clip_is_refused(folder, tmp_path) -> None:
    view = view_of(folder, 2)
    with torch.no_grad():
        view.modules("text_encoder").get_parameter("encoder.layers.1.mlp.fc1.weight").mul_(1.05)
    with pytest.raises(ModelError, match="does not belong to tiny-sd1's text_encoder"):
        open_paired_clip(folder, view, "text_encoder")
    with pytest.raises(ModelError, match="holds no CLIP"):
        open_paired_clip(tmp_path, view, "text_encoder")


def test_half_precision_is_the_same_clip(folder) -> None:
    view = view_of(folder, 2)
    view.pipeline.text_encoder.half().float()
    assert open_paired_clip(folder, view, "text_encoder").embed_texts(["a dog"]).shape == (1, 24)


def test_what_openclip_wrote_has_other_names(folder) -> None:
    from dataclasses import replace

    clip = load_clip(folder, torch.device("cpu"))
    with pytest.raises(ModelError, match="in OpenCLIP's layout"):
        clip_text_tower(replace(clip, towers=object()))  # type: ignore[arg-type]


def test_each_encoder_needs_its_own(folder) -> None:
    view = view_of(folder, 2)
    assert [*open_vision_towers(view, {"text_encoder": str(folder), "text_encoder_2": ""})] == ["text_encoder"]
    with pytest.raises(SettingsError, match="--set clip=FOLDER"):
        open_vision_towers(view, {"text_encoder": "", "text_encoder_2": ""})
    with pytest.raises(SettingsError, match="--set clip=FOLDER"):
        open_vision_towers(tiny.shared("sdxl"), {"text_encoder": "", "text_encoder_2": str(folder)})


def test_moji_is_seen_through_its_own_tower() -> None:
    """That of the judge that does not grade."""
    from unconcept.models import open_model
    from unconcept.scorers.moji_clip import MojiClip
    from unconcept.worlds.registry import METHOD_JUDGE_WEIGHTS

    view = open_model("moji", "cpu", "float32")
    (sight,) = open_vision_towers(view, {"text_encoder": "", "text_encoder_2": ""}).values()
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    clip = MojiClip(lambda texts: view.embed(texts, at="first_eot"), METHOD_JUDGE_WEIGHTS)
    assert torch.allclose(
        sight.embed_images(pictures) @ sight.embed_texts(["cat", "sun"]).T, clip.score(pictures, ["cat", "sun"])
    )
    with pytest.raises(SettingsError, match="leave the setting out"):
        open_vision_towers(view, {"text_encoder": "somewhere"})
