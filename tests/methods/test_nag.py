"""NAG in joint attention: the two text streams of FLUX written out, and what must hold exactly."""

from dataclasses import replace

import pytest
import torch

from tests import tiny
from unconcept.core.errors import EditError
from unconcept.core.request import Request
from unconcept.edits import SteeringEdit
from unconcept.methods.nag import NAG, joined_texts
from unconcept.methods.nasa import NASA

ONE = Request(("dog",), ("",), ())
STRONG = NAG(nag_scale=7.0, tau=1.5, a=0.6)
families = pytest.mark.parametrize("family", tiny.MMDITS)


def inputs(view, rows: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    noise = torch.randn(rows, *view.latent_shape, dtype=view.dtype, generator=torch.Generator().manual_seed(0))
    return noise, torch.tensor(500)


def heads(attn, rows: torch.Tensor, norm) -> torch.Tensor:
    return norm(rows.unflatten(-1, (attn.heads, -1)))


def attend(q, k, v, rotary) -> torch.Tensor:
    """softmax(Q K^T / sqrt d) V for (b, n, heads, d), after the rotary embedding."""
    from diffusers.models.embeddings import apply_rotary_emb

    q, k = (apply_rotary_emb(part, rotary, sequence_dim=1) for part in (q, k))
    weights = torch.softmax(torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5, -1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2)


def guided(plus: torch.Tensor, minus: torch.Tensor) -> torch.Tensor:
    led = STRONG.nag_scale * plus - (STRONG.nag_scale - 1) * minus
    ratio = led.norm(dim=-1, keepdim=True) / plus.norm(dim=-1, keepdim=True)
    return STRONG.a * led * ratio.clamp(max=STRONG.tau) / ratio + (1 - STRONG.a) * plus


def double_block(block, x, texts, temb, rotary):
    """One picture (1, p, o) and two text streams (2, l, o): the picture attends to each, and NAG joins the results."""
    attn = block.attn
    own, gate, shift_mlp, scale_mlp, gate_mlp = block.norm1(x, emb=temb)
    words, w_gate, w_shift, w_scale, w_gate_mlp = block.norm1_context(texts, emb=temb.expand(2, -1))
    own, l = own.expand(2, -1, -1), texts.shape[1]
    q = torch.cat([heads(attn, attn.add_q_proj(words), attn.norm_added_q), heads(attn, attn.to_q(own), attn.norm_q)], 1)
    k = torch.cat([heads(attn, attn.add_k_proj(words), attn.norm_added_k), heads(attn, attn.to_k(own), attn.norm_k)], 1)
    v = torch.cat([attn.add_v_proj(words), attn.to_v(own)], 1).unflatten(-1, (attn.heads, -1))
    found = attend(q, k, v, rotary)
    picture = attn.to_out[0](guided(found[:1, l:], found[1:, l:]))
    texts = texts + w_gate[:, None] * attn.to_add_out(found[:, :l])
    texts = texts + w_gate_mlp[:, None] * block.ff_context(
        block.norm2_context(texts) * (1 + w_scale[:, None]) + w_shift[:, None]
    )
    x = x + gate[:, None] * picture
    x = x + gate_mlp[:, None] * block.ff(block.norm2(x) * (1 + scale_mlp[:, None]) + shift_mlp[:, None])
    return x, texts


def single_block(block, x, texts, temb, rotary):
    attn, l = block.attn, texts.shape[1]
    both = torch.cat([texts, x.expand(2, -1, -1)], 1)
    own, gate = block.norm(both, emb=temb.expand(2, -1))
    q, k = heads(attn, attn.to_q(own), attn.norm_q), heads(attn, attn.to_k(own), attn.norm_k)
    found = attend(q, k, attn.to_v(own).unflatten(-1, (attn.heads, -1)), rotary)
    picture = guided(found[:1, l:], found[1:, l:]).expand(2, -1, -1)
    mixed = torch.cat([torch.cat([found[:, :l], picture], 1), block.act_mlp(block.proj_mlp(own))], 2)
    both = both + gate[:, None] * block.proj_out(mixed)
    return both[:1, l:], both[:, :l]


@torch.no_grad()
def test_on_flux_it_is_two_text_streams_beside_one_picture() -> None:
    from unconcept.models.diffusion.packed_latents import pack_latents, unpack_latents

    view = tiny.shared("flux")
    net, (noise, t) = view.modules("denoiser"), inputs(view)
    given, negative = view.condition(["a moon"]), view.condition(["dog"])
    at = torch.cartesian_prod(*(torch.arange(n, dtype=view.dtype) for n in (1, 4, 4)))
    rotary = net.pos_embed(torch.cat([at.new_zeros(given.states.shape[1], 3), at]))
    guidance = torch.tensor([3500.0], dtype=view.dtype)
    temb = net.time_text_embed(t.to(view.dtype).expand(1), guidance, given.pooled)
    x, texts = net.x_embedder(pack_latents(noise)), net.context_embedder(torch.cat([given.states, negative.states]))
    for block in net.transformer_blocks:
        x, texts = double_block(block, x, texts, temb, rotary)
    for block in net.single_transformer_blocks:
        x, texts = single_block(block, x, texts, temb, rotary)
    wanted = unpack_latents(net.proj_out(net.norm_out(x, temb)), 4, 4)
    with STRONG.erase(view, ONE).applied(view):
        found = view.denoise(noise, t, given)
    assert torch.allclose(found, wanted, atol=1e-10)
    assert not torch.allclose(found, view.denoise(noise, t, given), atol=1e-4)


@families
@torch.no_grad()
def test_what_is_not_led_away_stays(family) -> None:
    """No scale, no share, no strength; the text that is its own negative; the empty text, bitwise."""
    view = tiny.shared(family)
    (noise, t), edit = inputs(view), STRONG.erase(view, ONE)
    plain = {text: view.denoise(noise, t, [text]) for text in ("a moon", "dog", "")}
    for one, text in ((NAG(nag_scale=1.0), "a moon"), (NAG(a=0.0), "a moon"), (STRONG, "dog")):
        with one.erase(view, ONE).applied(view):
            assert torch.allclose(view.denoise(noise, t, [text]), plain[text], atol=1e-10)
    with edit.applied(view):
        assert torch.equal(view.denoise(noise, t, [""]), plain[""])
    with edit.scaled(0.0).applied(view):
        assert torch.equal(view.denoise(noise, t, ["a moon"]), plain["a moon"])
    assert torch.equal(view.denoise(noise, t, ["a moon"]), plain["a moon"])


@families
@torch.no_grad()
def test_several_targets_are_one_negative_text_or_their_mean(family) -> None:
    """Of several, the mean leads away; a guided row is asked once more for each."""
    view, sizes, long = tiny.shared(family), [], "a fox on the moon in a car"
    noise, t = inputs(view)
    assert joined_texts(view, ("dog", "cat", long)) == ("dog, cat", long)
    one, two = (STRONG.erase(view, Request(texts, ("", ""), ())) for texts in (("dog", "cat"), ("dog", long)))
    handle = (
        view.modules("denoiser")
        .transformer_blocks[0]
        .register_forward_pre_hook(
            lambda module, args, kwargs: sizes.append(len(kwargs["hidden_states"])), with_kwargs=True
        )
    )
    given = view.condition(["a moon", "", "a car"])
    for edit in (one, two):
        with edit.applied(view):
            view.denoise(noise.expand(3, -1, -1, -1), t, given)
    handle.remove()
    assert sizes == [3 + 2, 3 + 2 * 2]
    a, b = two.rule.negative_texts
    found = []
    for negative in ((a, b), (b, a), (a,), (a, a)):
        rule = replace(two.rule, negative=torch.cat(negative))
        with SteeringEdit(rule, two.maps).applied(view):
            found.append(view.denoise(noise, t, ["a moon"]))
    assert torch.allclose(found[0], found[1], atol=1e-12)
    assert torch.allclose(found[2], found[3], atol=1e-12)
    assert not torch.allclose(found[0], found[2], atol=1e-6)


def test_other_rules_and_states_of_another_length_are_refused() -> None:
    unet, view = tiny.shared("sd1"), tiny.shared("flux")
    nasa = SteeringEdit(NASA().erase(unet, ONE).rule, tuple(view.text_maps()))
    with (
        pytest.raises(EditError, match="subtraction steers cross-attention, which tiny-flux has none of"),
        nasa.applied(view),
    ):
        pass
    rule = STRONG.erase(view, ONE).rule
    cut = SteeringEdit(type(rule)(rule.negative[:-1], rule.null, rule.phi, rule.tau, rule.a), tuple(view.text_maps()))
    with pytest.raises(EditError, match="are not whole texts of 512 each"), cut.applied(view):
        pass
