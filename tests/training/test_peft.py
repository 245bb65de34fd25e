"""Low-rank adapters of ours against PEFT's: what is computed and what is learned is the same, bit for bit."""

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model

from tests import tiny
from unconcept.models.hooks.modules import denoiser_modules, denoiser_parameters
from unconcept.training import TrainableLowRank
from unconcept.training.parameter_groups import select_parameters

RANK, SCALE = 3, 0.5


@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd3", "flux"])
def test_the_same_predictions_and_gradients(family) -> None:
    """On all linear maps and convolutions of the denoiser's transformers, rank 3, alpha / r = 0.5."""
    view = tiny.view(family, torch.float32)
    maps = denoiser_modules(view, select_parameters(denoiser_parameters(view), "transformer-maps"))
    ours = TrainableLowRank(view, maps, RANK, scale=SCALE)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for up, _ in ours.pairs.values():
            up.copy_(torch.randn(up.shape, generator=rng))
    x, t = torch.randn(2, *view.latent_shape, generator=rng), torch.tensor([300, 600])
    with torch.no_grad():
        given = view.condition(["dog", "cat"])

    def followed(params):
        said = view.denoise(x, t, given)
        return said, torch.autograd.grad(said.square().mean(), params)

    with ours.student():
        said, found = followed(list(ours.tensors.values()))

    net = view.modules("denoiser").requires_grad_(False)
    modules = [name.partition(".")[2].removesuffix(".weight") for name in maps]
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=SCALE * RANK, target_modules=modules), net)
    theirs = []
    with torch.no_grad():
        for module, (up, down) in zip(modules, ours.pairs.values(), strict=True):
            lora = net.get_submodule(module)
            for layer, own in ((lora.lora_B, up), (lora.lora_A, down)):
                layer["default"].weight.copy_(own.view_as(layer["default"].weight))
                theirs.append(layer["default"].weight)
    other, wanted = followed(theirs)
    assert torch.equal(said, other)
    assert all(torch.equal(g, w.view_as(g)) for g, w in zip(found, wanted, strict=True))
