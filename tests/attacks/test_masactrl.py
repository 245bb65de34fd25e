"""MasaCtrl against its card, on tiny models."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from tests.attacks.cases import case
from unconcept.attacks.masactrl import MasaCtrl
from unconcept.core.errors import SettingsError
from unconcept.models.diffusion.procedures.mutual_attention import MutualAttention, self_attentions, shared_keys
from unconcept.models.diffusion.procedures.registry import SamplingRequest

CONTRACT_SETTINGS = {"steps": 2, "first_step": 1, "first_layer": 0, "edits": ["in ink style"]}


def drawn(asked, sources: tuple[str, ...], texts: list[str], first_step: int) -> torch.Tensor:
    given = MutualAttention(asked.noise[: len(texts)], sources, 3, 3.0, first_step, 0)
    return given.sample(asked.model, SamplingRequest(asked.model.condition(texts), asked.noise, 9, 9.0))


def test_the_same_text_in_both_gives_the_same_picture() -> None:
    asked = case("sd1")
    texts = ["a dog", "it barks"]
    plain = asked.model.sample(texts, asked.noise[:2], 3, 3.0, "ddim")
    assert torch.allclose(drawn(asked, tuple(texts), texts, 0), plain, atol=1e-5)


def test_keys_come_from_the_picture_from_the_first_step_on() -> None:
    asked = case("sd1")
    plain = asked.model.sample(["a fox"], asked.noise[:1], 3, 3.0, "ddim")
    assert torch.allclose(drawn(asked, ("a dog",), ["a fox"], 3), plain, atol=1e-5)
    late, early = (drawn(asked, ("a dog",), ["a fox"], step) for step in (2, 0))
    gaps = [float((one - plain).norm()) for one in (late, early)]
    assert 0 < gaps[0] < gaps[1]


@torch.no_grad()
def test_attention_of_the_edit_is_the_rule_written_out() -> None:
    """softmax(Q K'^T / sqrt d) V', K' and V' of the other half's rows; the picture's own rows stay as they are."""
    attention = self_attentions(case("sd1").model)[0]
    hidden = torch.randn(4, 6, attention.to_q.in_features, generator=torch.Generator().manual_seed(0))
    plain = attention(hidden)
    with shared_keys([attention], 1, lambda: True):
        found = attention(hidden, encoder_hidden_states=None)
    assert torch.equal(attention(hidden), plain)
    read = hidden[[0, 0, 2, 2]]
    q, k, v = (
        part.unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        for part in (attention.to_q(hidden), attention.to_k(read), attention.to_v(read))
    )
    expected = attention.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(found[[0, 2]], plain[[0, 2]], atol=1e-6)


def test_layers_are_counted_as_they_compute() -> None:
    """Down, middle, up: not as torch lists them."""
    model, called = case("sdxl").model, []
    layers = self_attentions(model)
    handles = [m.register_forward_hook(lambda m, args, out: called.append(m)) for m in layers]
    with torch.no_grad():
        model.denoise(torch.zeros(1, 4, 8, 8), torch.tensor([1]), ["a"])
    for handle in handles:
        handle.remove()
    assert called == layers
    with pytest.raises(SettingsError, match="give a lower one"):
        list(MasaCtrl(1, first_layer=len(layers), edits=("x",)).search(replace(case("sdxl"))))
