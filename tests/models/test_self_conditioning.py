"""A UNet that is conditioned on its own features: unchanged at first, then in the decoder alone."""

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel

from unconcept.models.hooks.forward import record_outputs
from unconcept.models.hooks.self_conditioning import SelfConditioning, self_conditioned

BLOCKS = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "sample_size": 8}
UNETS = {
    "plain": lambda: UNet2DModel(
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"), **BLOCKS
    ),
    "with text": lambda: UNet2DConditionModel(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
        in_channels=3,
        out_channels=3,
        **BLOCKS,
    ),
}


@pytest.fixture(params=list(UNETS))
def unet(request):
    torch.manual_seed(0)
    return UNETS[request.param]().eval().requires_grad_(False)


def predict(unet):
    rng = torch.Generator().manual_seed(1)
    x, t = torch.randn(2, 3, 8, 8, generator=rng), torch.tensor([100, 700])
    text = (
        {"encoder_hidden_states": torch.randn(2, 4, 8, generator=rng)} if "cross_attention_dim" in unet.config else {}
    )
    return unet(x, t, **text).sample


def test_new_conditioning_changes_nothing_to_the_bit_and_is_removed(unet) -> None:
    before = predict(unet)
    with self_conditioned(unet, SelfConditioning(16, 32)):
        assert torch.equal(predict(unet), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in unet.modules())


def test_the_decoder_reads_the_pooled_features_of_the_same_pass(unet) -> None:
    """The same prediction comes of adding the map's value to the decoder's time embedding by hand."""
    conditioning = SelfConditioning(16, 32)
    torch.nn.init.normal_(conditioning.layers[-1].weight)
    with torch.no_grad(), self_conditioned(unet, conditioning), record_outputs(unet.mid_block) as middle:
        found = predict(unet)
    with torch.no_grad():
        added = conditioning.layers(middle[0].mean((2, 3)))
        plain = predict(unet)

    def by_hand(module, args):
        return (args[0], args[1] + added)

    blocks = [resnet for block in unet.up_blocks for resnet in block.resnets]
    hooks = [block.register_forward_pre_hook(by_hand) for block in blocks]
    with torch.no_grad():
        assert torch.allclose(predict(unet), found, atol=1e-6)
    for hook in hooks:
        hook.remove()
    assert (found - plain).abs().max() > 1e-3


def test_gradients_reach_the_map_and_the_features(unet) -> None:
    conditioning = SelfConditioning(16, 32)
    torch.nn.init.normal_(conditioning.layers[-1].weight)
    first = unet.conv_in.weight.requires_grad_()
    with self_conditioned(unet, conditioning):
        predict(unet).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in conditioning.parameters())
    assert first.grad.abs().max() > 0
