"""AdaVD in joint attention: FLUX's text streams written out, and what must hold exactly."""

import pytest
import torch

from tests import tiny
from tests.methods.test_adavd import ONE, REQUEST, literal
from tests.methods.test_nag import attend, families, heads, inputs
from unconcept.core import Request
from unconcept.core.errors import EditError
from unconcept.edits import SteeringEdit
from unconcept.methods.adavd import AdaVD
from unconcept.models.hooks.attention_maps import text_attentions
from unconcept.models.text.state_rows import content_positions

SOFT = {"p": 8.0, "eps": 0.5}


def shifted(v: torch.Tensor, place: int, method: AdaVD) -> torch.Tensor:
    """Values (3, l, o) of prompt, target and empty text: the prompt's are moved, from the first token on."""
    own, target, null = (torch.cat([part[:1], part]) for part in v)  # `literal` leaves a start token as it is.
    return torch.cat([literal(own, target[1 + place], null, method)[None, 1:], v[1:]])


def double_block(block, x, texts, temb, rotary, change):
    """One picture (1, p, o) and three text streams (3, l, o), each beside the picture that the first one makes."""
    attn, l = block.attn, texts.shape[1]
    own, gate, shift_mlp, scale_mlp, gate_mlp = block.norm1(x, emb=temb)
    words, w_gate, w_shift, w_scale, w_gate_mlp = block.norm1_context(texts, emb=temb.expand(3, -1))
    own = own.expand(3, -1, -1)
    q = torch.cat([heads(attn, attn.add_q_proj(words), attn.norm_added_q), heads(attn, attn.to_q(own), attn.norm_q)], 1)
    k = torch.cat([heads(attn, attn.add_k_proj(words), attn.norm_added_k), heads(attn, attn.to_k(own), attn.norm_k)], 1)
    v = torch.cat([change(attn.add_v_proj(words)), attn.to_v(own)], 1).unflatten(-1, (attn.heads, -1))
    found = attend(q, k, v, rotary)
    texts = texts + w_gate[:, None] * attn.to_add_out(found[:, :l])
    texts = texts + w_gate_mlp[:, None] * block.ff_context(
        block.norm2_context(texts) * (1 + w_scale[:, None]) + w_shift[:, None]
    )
    x = x + gate[:, None] * attn.to_out[0](found[:1, l:])
    x = x + gate_mlp[:, None] * block.ff(block.norm2(x) * (1 + scale_mlp[:, None]) + shift_mlp[:, None])
    return x, texts


def single_block(block, x, texts, temb, rotary, change):
    attn, l = block.attn, texts.shape[1]
    both = torch.cat([texts, x.expand(3, -1, -1)], 1)
    own, gate = block.norm(both, emb=temb.expand(3, -1))
    q, k = heads(attn, attn.to_q(own), attn.norm_q), heads(attn, attn.to_k(own), attn.norm_k)
    v = attn.to_v(own)
    v = torch.cat([change(v[:, :l]), v[:, l:]], 1)
    found = attend(q, k, v.unflatten(-1, (attn.heads, -1)), rotary)
    both = both + gate[:, None] * block.proj_out(torch.cat([found, block.act_mlp(block.proj_mlp(own))], 2))
    return both[:1, l:], both[:, :l]


@torch.no_grad()
@pytest.mark.parametrize("method", [AdaVD(**SOFT), AdaVD(**SOFT, joint_cfg=False)])
def test_on_flux_it_is_a_target_and_an_empty_text_beside_one_picture(method) -> None:
    from unconcept.models.diffusion.packed_latents import pack_latents, unpack_latents

    view = tiny.shared("flux")
    net, (noise, t) = view.modules("denoiser"), inputs(view)
    given, (place,) = view.condition(["a dog face"]), content_positions(view, ONE.targets[0])
    states = [given.states, *(view.condition([text]).states for text in (ONE.targets[0], ""))]
    at = torch.cartesian_prod(*(torch.arange(n, dtype=view.dtype) for n in (1, 4, 4)))
    rotary = net.pos_embed(torch.cat([at.new_zeros(given.states.shape[1], 3), at]))
    temb = net.time_text_embed(t.to(view.dtype).expand(1), torch.tensor([3500.0], dtype=view.dtype), given.pooled)
    x, texts = net.x_embedder(pack_latents(noise)), net.context_embedder(torch.cat(states))
    for kind, blocks in ((double_block, net.transformer_blocks), (single_block, net.single_transformer_blocks)):
        for block in blocks:
            x, texts = kind(block, x, texts, temb, rotary, lambda v: shifted(v, place[-1], method))
    wanted = unpack_latents(net.proj_out(net.norm_out(x, temb)), 4, 4)
    with method.erase(view, ONE).applied(view):
        found = view.denoise(noise, t, given)
    assert torch.allclose(found, wanted, atol=1e-10)
    assert not torch.allclose(found, view.denoise(noise, t, given), atol=1e-6)


def text_values(view, edit, text):
    """The values of each joint attention, FLUX's single blocks included, before and after the edit: (rows, l, o)."""
    before, after = [], []

    def record(into):
        return lambda module, args, out: into.append(out.clone())

    places = [one.add_v_proj for one in text_attentions(view).values()]
    places += [block.attn.to_v for block in getattr(view.modules("denoiser"), "single_transformer_blocks", ())]
    noise, t = inputs(view)
    handles = [place.register_forward_hook(record(before)) for place in places]
    with torch.no_grad(), edit.applied(view):
        handles += [place.register_forward_hook(record(after)) for place in places]
        view.denoise(noise, t, [text])
    for each in handles:
        each.remove()
    assert len(before) == len(after) == len(places)
    return list(zip(before, after, strict=True))


@families
@pytest.mark.parametrize("request_", [ONE, REQUEST])
def test_without_shift_values_are_orthogonal_to_all_targets(family, request_) -> None:
    """Of both encoders in SD3; its start token stays bit by bit, and so do the targets' own streams."""
    view = tiny.shared(family)
    edit = AdaVD(token_sim=False, joint_cfg=False).erase(view, request_)
    ends = [[rows[-1] for rows in content_positions(view, text)] for text in request_.targets]
    l, first = edit.rule.null.shape[0], content_positions(view, request_.targets[0])[0].start
    assert first == (1 if family == "sd3" else 0)
    for before, after in text_values(view, edit, "a dog face in ink"):
        v_t = torch.cat([row[at] for row, at in zip(after[1:], ends, strict=True)])
        assert len(v_t) == len(request_.targets) * view.streams
        assert (after[0, first:l] @ v_t.T).abs().max() < 1e-9
        assert torch.equal(after[0, :first], before[0, :first])
        assert torch.equal(after[1:], before[1:])
        assert torch.equal(after[0, l:], before[0, l:])
        assert not torch.allclose(after[0, first:l], before[0, first:l], atol=1e-3)


@families
@torch.no_grad()
def test_what_is_not_steered_stays(family) -> None:
    """The empty text and strength 0 bit by bit, in a batch too; the order of targets does not matter."""
    view = tiny.shared(family)
    (noise, t), edit = inputs(view, 2), AdaVD(**SOFT).erase(view, REQUEST)
    plain = view.denoise(noise, t, ["", "a dog face"])
    with edit.applied(view):
        assert torch.equal(view.denoise(noise[:1], t, [""]), view.denoise(noise[:1], t, [""]))
        found = view.denoise(noise, t, ["", "a dog face"])
    assert torch.allclose(found[0], plain[0], atol=1e-12)
    assert not torch.allclose(found[1], plain[1], atol=1e-6)
    with edit.scaled(0.0).applied(view):
        assert torch.equal(view.denoise(noise, t, ["", "a dog face"]), plain)
    turned = AdaVD(**SOFT).erase(view, Request(REQUEST.targets[::-1], REQUEST.anchors))
    with turned.applied(view):
        assert torch.allclose(view.denoise(noise, t, ["", "a dog face"]), found, atol=1e-9)


def test_a_model_with_cross_attention_and_states_of_another_length_are_refused() -> None:
    view, unet = tiny.shared("flux"), tiny.shared("sd1")
    rule = AdaVD().erase(view, ONE).rule
    with (
        pytest.raises(EditError, match="it steers joint attention, and this is cross-attention"),
        SteeringEdit(rule, tuple(unet.text_maps())).applied(unet),
    ):
        unet.denoise(torch.zeros(1, *unet.latent_shape, dtype=unet.dtype), torch.tensor([500]), ["a moon"])
    with pytest.raises(EditError, match="511 states are not whole texts of 512 each for 1 targets"):
        type(rule)(rule.targets[:-1], rule.places, rule.null, 0, 2.0, 100.0, 0.93, True, True)
