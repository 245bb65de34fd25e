"""Which text encoders there are, and that what is left out is what no prediction depends on."""

import pytest
import torch

from tests import tiny
from unconcept.models.text.parameters import encoder_parameters, layer_number
from unconcept.training import loss_gradient
from unconcept.training.parameter_groups import select_text_parameters

PARTS = {"sd1": ["text_encoder"], "sd2": ["text_encoder"], "sdxl": ["text_encoder", "text_encoder_2"]}


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_parameter_that_is_read_and_no_other(family) -> None:
    view = tiny.shared(family)
    found = encoder_parameters(view)
    assert list(found) == PARTS[family]
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1, *view.latent_shape, generator=rng, dtype=view.dtype)
    loss = view.denoise(x, torch.tensor([500]), ["a dog"]).square().sum()
    for part in PARTS[family]:
        every = {f"{part}.{name}": p for name, p in view.modules(part).named_parameters()}
        moved = {
            name
            for name, g in zip(every, loss_gradient(loss, list(every.values()), keep_graph=True), strict=True)
            if g.abs().sum() > 1e-20
        }
        # A key's bias moves every score of a row alike, so nothing depends on it.
        assert {n for n in found[part] if "k_proj.bias" not in n} == {n for n in moved if "k_proj.bias" not in n}


def test_layers_are_numbered() -> None:
    assert layer_number("text_encoder.encoder.layers.11.mlp.fc1.weight") == 11
    assert layer_number("text_encoder.final_layer_norm.weight") == -1


@pytest.mark.parametrize(("family", "last"), [("sd1", [1]), ("sd2", [1]), ("sdxl", [0, 1])])
def test_few_shots_last_attention_is_the_last_that_is_read(family, last) -> None:
    for number, own in zip(last, encoder_parameters(tiny.shared(family)).values(), strict=True):
        names = select_text_parameters(own, "text-mlp-lastattn")
        assert {layer_number(name) for name in names if ".self_attn." in name} == {number}
        assert {layer_number(name) for name in names if ".mlp." in name} == {*range(number + 1)}
        assert len(names) == 4 * (number + 1) + 8
