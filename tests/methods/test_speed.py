"""SPEED against its algorithm written out with the copies made one by one, and the exact properties of its paper."""

import re

import numpy as np
import pytest
import torch

from tests import tiny
from unconcept.core import Request
from unconcept.core.errors import RequestError, SettingsError
from unconcept.core.hashing import hash_json
from unconcept.core.settings import build_settings
from unconcept.edits import TextMapEdit
from unconcept.methods.speed import SPEED

REQUEST = Request(("dog face", "red car"), ("goat", "bus"), ("cat", "wolf", "a moon", "sun", "grey hare"))
EXPLICIT = Request(("nude",), ("",), (), "explicit")


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def held(view, seed: int) -> torch.Tensor:
    """Start state of "" and three centres of the other states: Lloyd's iterations written out."""
    null = view.embed([""], at="all")[0]
    rest = null[1:].numpy()
    found = rest[np.random.RandomState(seed).choice(len(rest), 3, replace=False)]
    while True:
        nearest = ((rest[:, None] - found[None]) ** 2).sum(-1).argmin(1)
        moved = np.stack([rest[nearest == i].mean(0) for i in range(3)])
        shift, found = np.sqrt(((moved - found) ** 2).sum(1)).sum() ** 2, moved
        if shift < 1e-4:
            return torch.cat([null[:1], torch.from_numpy(found)]).T


def states(view, request: Request, texts, method: SPEED) -> torch.Tensor:
    everywhere = (method.tokens or ("all" if request.kind == "explicit" else "last")) == "all"
    return (view.embed(texts, at="all")[:, 1:].flatten(0, 1) if everywhere else view.embed(texts)).T


def literal(view, request: Request, method: SPEED, name: str, w: torch.Tensor) -> torch.Tensor:
    """W' - W by the published formulas, columns as printed, one inverse after another."""
    c1, ca = (states(view, request, texts, method) for texts in (request.targets, request.anchors))
    c0 = states(view, request, request.retain, method) if request.retain else view.embed([""], at="all")[0, 1:].T
    eye, k, c2 = torch.eye(len(c1), dtype=torch.float64), len(request.targets), held(view, method.seed)
    s11, sa1 = c1 @ c1.T / k, ca @ c1.T / k
    refined = c0
    if method.aug_num:
        d_e = w @ (sa1 - s11) @ torch.linalg.inv(eye + s11)
        noise = torch.Generator().manual_seed(int(hash_json([method.seed, name])[:15], 16))
        g = torch.randn(c0.shape[1], method.aug_num, dtype=torch.float64, generator=noise)
        if not method.disable_filter:
            keep = (d_e @ c0).norm(dim=0) > (d_e @ c0).norm(dim=0).mean()
            c0, g = c0[:, keep], g[keep]
        v = torch.linalg.svd(w, full_matrices=False)[2][-1]
        v = v * v[v.abs().argmax()].sign()
        copies = (c0[:, :, None] + g[None] * v[:, None, None]).flatten(1)
        shift = (d_e @ copies).norm(dim=0)
        refined = torch.cat([c0, copies[:, shift > shift.mean()]], 1)
    u, s, _ = torch.linalg.svd(refined @ refined.T / refined.shape[1])
    p = u[:, s < method.threshold] @ u[:, s < method.threshold].T
    m = torch.linalg.inv(s11 @ p + method.retain_scale * eye)
    inner = torch.linalg.inv(c2.T @ p @ m @ c2 + method.lamb * torch.eye(4, dtype=torch.float64))
    return w @ (sa1 - s11) @ p @ (eye - m @ c2 @ inner @ c2.T @ p) @ m


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"retain_scale": 0.05, "threshold": 1e-4, "disable_filter": True},
        {"aug_num": 0, "params": "KV"},
        {"lamb": 0.5, "retain_scale": 0.7, "seed": 3},
        {"params": "K", "tokens": "all", "threshold": 1.0},
    ],
)
def test_is_the_published_algorithm(family, settings) -> None:
    view, method = tiny.shared(family), SPEED(**settings)
    edit = method.erase(view, REQUEST)
    maps = {n: w.detach() for n, w in view.text_maps().items()}
    assert set(edit.names) == {n for n in maps if re.search(f"to_[{method.params.lower()}].weight", n)}
    for name in edit.names:
        wanted = literal(view, REQUEST, method, name, maps[name])
        assert torch.allclose(edit.delta(name, maps[name]), wanted, atol=1e-10, rtol=1e-8)
        assert wanted.abs().max() > 1e-6


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_explicit_kind_reads_every_token(family) -> None:
    """With nothing retained the null text's own states are; centres in their span need the regulariser, as the authors
    set it.
    """
    view, method = tiny.shared(family), SPEED(lamb=0.5, retain_scale=0.7)
    edit = method.erase(view, EXPLICIT)
    for name in edit.names:
        w = view.text_maps()[name].detach()
        assert torch.allclose(edit.delta(name, w), literal(view, EXPLICIT, method, name, w), atol=1e-9)
    last = SPEED(lamb=0.5, retain_scale=0.7, tokens="last").erase(view, EXPLICIT)
    assert last.pairs[last.names[0]][1].shape[0] == 1


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("null_text", ["centres", "all"])
def test_retained_and_null_texts_are_read_as_before(family, null_text) -> None:
    view, method = tiny.shared(family), SPEED(threshold=1e-9, disable_filter=True, null_text=null_text)
    request = Request(("dog face",), ("goat",), ("cat", "wolf"))
    edit = method.erase(view, request)
    kept = torch.cat(
        [view.embed(request.retain), held(view, 0).T if null_text == "centres" else view.embed([""], at="all")[0]]
    )
    for name in edit.names:
        delta = edit.delta(name, view.text_maps()[name])
        assert (kept @ delta.T).abs().max() < 1e-8
        assert delta.abs().max() > 1e-6


def test_figures_say_what_the_projector_is() -> None:
    view = tiny.shared("sd1")
    request = Request(("dog face",), ("goat",), ("cat", "wolf", "the Dog Face"))
    figures = SPEED(threshold=1e-9, aug_num=0).erase(view, request).solve_figures
    assert figures["projector_rank"] == 32 - 2 - 4
    assert figures["spectral_gap"] > 1e9
    assert figures["threshold"] == 1e-9
    assert figures["not_retained"] == 1
    assert SPEED(threshold=1e-9, disable_filter=True).erase(view, request).solve_figures["projector_rank"] == 32 - 3 - 4


def test_figures_reach_the_report() -> None:
    from unconcept.core.request import RequestSpec
    from unconcept.erasing.make_edit import make_edit
    from unconcept.erasing.request_defaults import resolve_request

    edit = make_edit(
        tiny.shared("sd1"), resolve_request(RequestSpec(("dog face",), ("goat",), ("cat",)), "tiny"), "speed", {}
    )
    assert {"projector_rank", "spectral_gap", "threshold", "drift"} <= edit.origin.report.keys()


def test_without_copies_one_map_serves_every_layer() -> None:
    assert isinstance(SPEED(aug_num=0).erase(tiny.shared("sd1"), REQUEST), TextMapEdit)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_stiff_ridge_leaves_the_weights(family) -> None:
    view = tiny.shared(family)
    edit = SPEED(retain_scale=1e12).erase(view, REQUEST)
    assert max(edit.delta(name, view.text_maps()[name]).abs().max() for name in edit.names) < 1e-9


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_target_read_as_its_anchor_already_gives_nothing(family) -> None:
    """Upper and lower case are one to the tokenizer."""
    view = tiny.shared(family)
    edit = SPEED().erase(view, Request(("Goat",), ("goat",), ("cat", "wolf")))
    assert max(edit.delta(name, view.text_maps()[name]).abs().max() for name in edit.names) == 0


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_order_of_targets_does_not_matter(family) -> None:
    view = tiny.shared(family)
    turned = Request(REQUEST.targets[::-1], REQUEST.anchors[::-1], REQUEST.retain)
    one, two = SPEED().erase(view, REQUEST), SPEED().erase(view, turned)
    maps = view.text_maps()
    assert all(
        torch.allclose(one.delta(name, maps[name]), two.delta(name, maps[name]), atol=1e-12) for name in one.names
    )


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_seed_moves_the_noise_and_no_seed_does_without_it(family) -> None:
    view = tiny.shared(family)
    assert SPEED(seed=1).erase(view, REQUEST).hash != SPEED().erase(view, REQUEST).hash
    still = [SPEED(aug_num=0, null_text="all", seed=seed).erase(view, REQUEST).hash for seed in (0, 1)]
    assert still[0] == still[1]


@pytest.mark.parametrize("tokens", ["last", "all"])
def test_many_concepts_at_once(tokens) -> None:
    """More rows than dimensions: as many pairs as dimensions, and the edit of the algorithm written out."""
    view, method = tiny.shared("sd1"), SPEED(tokens=tokens, threshold=0.5, disable_filter=True)
    request = Request(tuple(f"{a}{b}" for a in "qxyz" for b in "0123456789"), ("goat",) * 40, ("cat", "wolf"))
    edit, name = method.erase(view, request), "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v.weight"
    w = view.text_maps()[name].detach()
    assert edit.pairs[name][1].shape == (32, 32)
    assert torch.allclose(edit.delta(name, w), literal(view, request, method, name, w), atol=1e-9)


def test_a_retain_set_that_spans_the_target_is_named() -> None:
    view = tiny.shared("sd1")
    spanning = tuple(f"{a}{b}" for a in "qxyz" for b in "0123456789")
    with pytest.raises(RequestError, match=r"'dog face'.*not erasable under this retain set.*rank 0"):
        SPEED(threshold=1e-12, disable_filter=True).erase(view, Request(("dog face",), ("goat",), spanning))
    with pytest.raises(RequestError, match="names a target"):
        SPEED().erase(view, Request(("dog",), ("goat",), ("a dog", "Dog house")))


def test_float32_edit_is_close_to_float64() -> None:
    exact, rough = (SPEED().erase(tiny.view("sd1", dtype), REQUEST) for dtype in (torch.float64, torch.float32))
    assert all(
        torch.allclose(exact.delta(n, exact.pairs[n][0]).float(), rough.delta(n, rough.pairs[n][0]), atol=1e-5)
        for n in exact.names
    )


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("params", "Q"),
        ("aug_num", -1),
        ("threshold", 0.0),
        ("retain_scale", 0.0),
        ("lamb", -0.5),
        ("lamb", float("nan")),
        ("seed", -1),
        ("null_text", "none"),
        ("tokens", "first"),
    ],
)
def test_settings_out_of_range(setting, value) -> None:
    with pytest.raises(SettingsError, match=setting):
        build_settings(SPEED, {setting: value})


def test_golden_norm() -> None:
    """A change of this number is a change of behaviour."""
    view = tiny.shared("sd1")
    edit = SPEED().erase(view, REQUEST)
    norm = sum(float(edit.delta(name, view.text_maps()[name]).square().sum()) for name in edit.names) ** 0.5
    assert norm == pytest.approx(GOLDEN, rel=1e-4)


GOLDEN = 1.2579652


@pytest.mark.parametrize("family", tiny.MMDITS)
def test_text_maps_of_flow_models(family) -> None:
    """FLUX's map of states is the algorithm written out; the empty text is held by all maps, and targets near anchors.

    SD3's empty text has equal rows here, of which the plain iterations make an empty cluster.
    """
    view, method = tiny.view(family), SPEED(threshold=0.5)
    edit = method.erase(view, REQUEST)
    (name,), (pooled_name,) = view.text_maps(), view.text_maps("pooled")
    assert edit.names == tuple(sorted((name, pooled_name)))
    w = view.text_maps()[name]
    if family == "flux":
        assert torch.allclose(edit.delta(name, w), literal(view, REQUEST, method, name, w), atol=1e-8)
    for at, full, own in (("last_subject", name, w), ("pooled", pooled_name, view.text_maps("pooled")[pooled_name])):
        delta = edit.delta(full, own)
        empty = view.embed([""], at="all")[0, :1] if at == "last_subject" else view.embed([""], at=at)
        assert (empty @ delta.T).norm() < 1e-8 * (empty @ own.T).norm()
        c, a = (view.embed(texts, at=at) for texts in (REQUEST.targets, REQUEST.anchors))
        wanted = (a - c) @ own.T
        assert (wanted - c @ delta.T).norm() < wanted.norm()
