"""LEDITS++ against its card, on tiny models."""

from dataclasses import replace

import torch

from tests.attacks.cases import case
from unconcept.attacks.ledits import LEdits, word_places
from unconcept.models.diffusion.procedures.edit_friendly import EditFriendly, attended_places, changed_places
from unconcept.models.diffusion.procedures.registry import SamplingRequest
from unconcept.models.diffusion.vae import decode_latents, encode_images
from unconcept.models.views import pipeline_view

CONTRACT_SETTINGS = {"steps": 2, "skip": 0.5, "edits": ["in ink style"]}


def drawn(asked, given) -> torch.Tensor:
    with asked.edit_applied():
        texts = asked.model.condition([given.text])
        return given.sampling.sample(asked.model, SamplingRequest(texts, asked.noise[:1], 9, 7.0))


def test_without_an_edit_any_model_comes_back_to_the_picture() -> None:
    """Inverted and drawn under the empty text, with the edit's weights on both ways; an edit leads elsewhere."""
    asked = case("sd1")
    asked = replace(asked, prompts=("", "", ""))
    _, control, tried = LEdits(4, 0.5, edits=("in ink style",), masks="none").search(asked)
    assert (control.inputs[0].sampling.done, control.inputs[0].sampling.steps) == (2, 6)
    with torch.no_grad():
        picture = decode_latents(asked.model, encode_images(asked.model, asked.pictures[:1]))
    assert torch.allclose(drawn(asked, control.inputs[0]), picture, atol=1e-3)
    assert not torch.allclose(drawn(asked, tried.inputs[0]), picture, atol=1e-2)


def test_a_mask_keeps_the_edit_to_its_places(monkeypatch) -> None:
    """In one step, latents differ from those without an edit in the mask alone: a part of what attends, or all."""
    monkeypatch.setattr(pipeline_view, "finish_pictures", lambda model, latents: latents)
    asked = case("sd1")
    *_, tried = LEdits(1, 3.0, edits=("in ink style",)).search(asked)
    given = tried.inputs[0]
    own: EditFriendly = given.sampling
    plain = drawn(asked, replace(given, text="", sampling=replace(own, masks="none", guidance_scale=1.0)))
    shares = []
    for masks in ("intersect", "attention", "none"):
        edited = drawn(asked, replace(given, sampling=replace(own, masks=masks, threshold=0.7)))
        shares.append(float(((edited - plain).abs().amax(1) > 1e-6).float().mean()))
    assert 0 < shares[0] < shares[1] < 0.5
    assert shares[2] == 1


def test_masks_are_of_zeros_and_ones_and_of_the_strongest_tenth() -> None:
    rng = torch.Generator().manual_seed(0)
    strongest = changed_places(torch.randn(2, 4, 16, 16, generator=rng), 0.9)
    assert strongest.shape == (2, 1, 16, 16)
    assert {*strongest.unique().tolist()} == {0.0, 1.0}
    assert 0.09 < float(strongest.mean()) < 0.11
    words = torch.tensor([[False, True, True], [False, True, False]])
    maps = [torch.rand(4, 2, 16 * 16, 3, generator=rng), torch.rand(4, 2, 8 * 8, 3, generator=rng)]
    mask = attended_places(maps, words, (32, 32), 0.9)
    assert mask.shape == (2, 1, 32, 32)
    assert {*mask.unique().tolist()} == {0.0, 1.0}
    assert 0.08 < float(mask.mean()) < 0.13
    coarse = mask[:, :, ::4, ::4]
    assert torch.equal(coarse.repeat_interleave(4, 2).repeat_interleave(4, 3), mask), "read are the maps of a quarter"


def test_a_mask_is_where_the_words_are_looked_at() -> None:
    """One place of the maps attends to the second state: the mask holds its square, unless that is no word."""
    maps = torch.full((2, 1, 64, 3), 0.1)
    maps[1, 0, 9 * 3, 1] = 1.0
    mask = attended_places([maps], torch.tensor([[False, True, False]]), (32, 32), 0.98)
    assert mask[0, 0, 12:16, 12:16].all()
    assert mask[0, 0, 8:20, 8:20].sum() == mask.sum(), "and places beside it at most, by the smoothing"
    other = attended_places([maps], torch.tensor([[False, False, True]]), (32, 32), 0.98)
    assert other.all(), "nothing stands out"


def test_words_are_the_tokens_of_the_edit() -> None:
    places = word_places(case("sd1"), "an ox")
    assert places[0].nonzero()[:, 0].tolist() == [1, 2, 3, 4]
