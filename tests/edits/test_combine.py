"""Fusion against its equation written out, and the exact properties in MACE's paper."""

import pytest
import torch

from tests import tiny
from unconcept.core import Request
from unconcept.core.errors import EditError, RequestError, SettingsError
from unconcept.core.request import RequestSpec
from unconcept.edits import DenseEdit, LowRankEdit, load_edit
from unconcept.edits.fuse import fuse_edits
from unconcept.erasing.make_edit import make_edit
from unconcept.erasing.request_defaults import resolve_request
from unconcept.linalg.low_rank import changes_on_rows, fuse_pairs
from unconcept.linalg.moments import SecondMoments
from unconcept.linalg.ridge import ridge_system
from unconcept.methods.mace import MACE
from unconcept.models.text.state_rows import text_state_moments

PROMPTS = (("a dog face", "an old dog face", "dog face at sea"), ("a red car", "red car and bus", "the red car"))
MANY = tuple(
    f"{a} {b}" for a in ("cat", "wolf", "tall moon", "x ray", "bus") for b in ("by night", "in june", "q", "for 3")
)


def lora(view, seed: int, rank: int = 1, scale: float = 0.1) -> LowRankEdit:
    rng = torch.Generator().manual_seed(seed)
    draw = lambda *shape: scale * torch.randn(*shape, dtype=torch.float64, generator=rng)  # noqa: E731
    return LowRankEdit({name: (draw(len(w), rank), draw(rank, w.shape[1])) for name, w in view.text_maps().items()})


def literal(view, parts, name, w, w0, lamb, prior):
    """W* as the authors' script has it: one sum over every row of every prompt, one inverse for each layer."""
    left, right = lamb * w, lamb * torch.eye(w.shape[1], dtype=w.dtype)
    for edit, prompts in parts:
        for c in view.embed(prompts, at="all").flatten(0, 1):
            left = left + torch.outer((w + edit.delta(name, w0)) @ c, c)
            right = right + torch.outer(c, c)
    if prior is not None:
        left, right = left + w0 @ prior.gram, right + prior.gram
    return left @ torch.linalg.inv(right)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("beneath", ["nothing", "low-rank", "refinement"])
def test_is_the_papers_equation(family, beneath) -> None:
    view = tiny.shared(family)
    parts = [(lora(view, 1), PROMPTS[0]), (lora(view, 2, rank=2), PROMPTS[1])]
    prior = text_state_moments(view, MANY).weighted(0.3)
    refined = MACE(max_train_steps=0).erase(view, Request(("dog face",), ("goat",), ("cat",)))
    under = {"nothing": None, "low-rank": lora(view, 3), "refinement": refined}[beneath]
    edit = fuse_edits(view, parts, 0.7, prior, under)
    assert isinstance(edit, DenseEdit if beneath == "refinement" else LowRankEdit)
    for name, w0 in view.reference(edit.names).items():
        w0 = w0.detach()
        w = w0 if under is None else w0 + under.delta(name, w0)
        assert torch.allclose(
            w0 + edit.delta(name, w0), literal(view, parts, name, w, w0, 0.7, prior), atol=1e-10, rtol=0
        )


def test_edits_that_do_nothing_fuse_to_nothing() -> None:
    view = tiny.shared("sd1")
    edit = fuse_edits(view, [(lora(view, 1, scale=0.0), PROMPTS[0])], 0.1, text_state_moments(view, MANY))
    assert all(not edit.delta(name, w).any() for name, w in view.text_maps().items())


def test_one_edit_whose_prompts_span_everything_is_kept_exactly() -> None:
    view = tiny.shared("sdxl")
    alone = lora(view, 1)
    edit = fuse_edits(view, [(alone, MANY)])
    assert all(
        torch.allclose(edit.delta(name, w), alone.delta(name, w), atol=1e-8) for name, w in view.text_maps().items()
    )


def test_edits_whose_prompts_share_no_direction_are_each_kept_there() -> None:
    """W* C_i = (W + dW_i) C_i for rows C_i of spans that are orthogonal to one another."""
    rng = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(12, 12, generator=rng, dtype=torch.float64))[0]
    rows = [torch.randn(9, 4, generator=rng, dtype=torch.float64) @ part.T for part in basis.split(4, 1)[:2]]
    parts = [
        {
            "w": (
                torch.randn(5, 1, generator=rng, dtype=torch.float64),
                torch.randn(1, 12, generator=rng, dtype=torch.float64),
            )
        }
        for _ in rows
    ]
    moments = [SecondMoments.of(c) for c in rows]
    total = moments[0] + moments[1]
    up, down = fuse_pairs(
        [changes_on_rows(*each) for each in zip(parts, moments, strict=True)],
        ridge_system(total, SecondMoments.empty(12), 1e-10),
    )["w"]
    for part, c in zip(parts, rows, strict=True):
        assert torch.allclose(up @ down @ c.T, part["w"][0] @ part["w"][1] @ c.T, atol=1e-8)


def test_order_does_not_matter() -> None:
    view = tiny.shared("sd1")
    parts = [(lora(view, 1), PROMPTS[0]), (lora(view, 2), PROMPTS[1])]
    one, two = fuse_edits(view, parts, 0.1), fuse_edits(view, parts[::-1], 0.1)
    assert all(
        torch.allclose(one.delta(name, w), two.delta(name, w), atol=1e-10) for name, w in view.text_maps().items()
    )


def test_ranks_add_up_and_the_model_is_left_alone() -> None:
    view = tiny.shared("sd1")
    before = {name: w.detach().clone() for name, w in view.text_maps().items()}
    edit = fuse_edits(view, [(lora(view, 1), PROMPTS[0]), (lora(view, 2, rank=2), PROMPTS[1])], 0.1)
    assert all(up.shape[1] == 3 for up, _ in edit.pairs.values())
    assert all(torch.equal(w, before[name]) for name, w in view.text_maps().items())


def test_a_map_that_one_part_lacks_gets_the_others_alone() -> None:
    view = tiny.shared("sd1")
    whole, part = lora(view, 1), lora(view, 2)
    name = whole.names[0]
    part = LowRankEdit({other: pair for other, pair in part.pairs.items() if other != name})
    assert fuse_edits(view, [(whole, PROMPTS[0]), (part, PROMPTS[1])], 0.1).pairs[name][0].shape[1] == 1


@pytest.mark.parametrize("beneath", [False, True])
def test_the_whole_way_is_an_edit_like_any_other(beneath, tmp_path) -> None:
    """Refinement, two low-rank edits on top, one edit out: saved, loaded, applied, left."""
    view = tiny.view("sd1", torch.float32)
    chosen = resolve_request(RequestSpec(("dog face", "red car"), ("goat",), ("cat",)), "tiny")
    method = MACE(lamb=0.1)
    refined = method.refined(view, chosen.request)
    edit = fuse_edits(
        view,
        [(lora(view, 1), PROMPTS[0]), (lora(view, 2), PROMPTS[1])],
        0.1,
        method.preserved(view, ("cat",), 1e-4),
        refined if beneath else None,
    )
    origin = make_edit(view, chosen, "mace", {"max_train_steps": 0}).origin
    edit.stamped(origin).save(tmp_path / "edit.safetensors")
    loaded = load_edit(tmp_path / "edit.safetensors")
    assert loaded.hash == edit.hash
    before = {name: w.detach().clone() for name, w in view.text_maps().items()}
    with loaded.applied(view):
        assert all(not torch.equal(w, before[name]) for name, w in view.text_maps().items())
    assert all(torch.equal(w, before[name]) for name, w in view.text_maps().items())


def test_what_cannot_be_fused() -> None:
    view = tiny.shared("sd1")
    good = lora(view, 1)
    with pytest.raises(RequestError, match="nothing to fuse"):
        fuse_edits(view, [])
    with pytest.raises(RequestError, match="edit 1 of 1 has no prompts"):
        fuse_edits(view, [(good, ())])
    with pytest.raises(EditError, match="is no text map of tiny-sd1: fuse only"):
        fuse_edits(view, [(LowRankEdit({"unet.conv_in.weight": (torch.ones(8, 1), torch.ones(1, 4))}), PROMPTS[0])])
    with pytest.raises(EditError, match="is no text map of tiny-sd1"):
        fuse_edits(view, [(lora(tiny.shared("sdxl"), 1), PROMPTS[0])])
    with pytest.raises(SettingsError, match="lamb = 0 with 24 texts in 32 dimensions"):
        fuse_edits(view, [(good, ("",))])
    with pytest.raises(SettingsError, match="do not span the 32 dimensions"):  # The tiny encoder's last norm leaves 31.
        fuse_edits(view, [(good, MANY)])


def test_golden_norm() -> None:
    """A change of this number is a change of behaviour."""
    view = tiny.shared("sd1")
    edit = fuse_edits(view, [(lora(view, 1), PROMPTS[0]), (lora(view, 2), PROMPTS[1])], 0.1)
    norm = sum(float(edit.delta(name, w).square().sum()) for name, w in view.text_maps().items()) ** 0.5
    assert norm == pytest.approx(GOLDEN, rel=1e-4)


GOLDEN = 1.1645484
