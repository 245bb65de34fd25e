"""RealEra's first stage against its problem written out, and the exact properties of its paper."""

import pytest
import torch

from tests import tiny
from unconcept.core import Request
from unconcept.core.errors import SettingsError
from unconcept.core.settings import build_settings
from unconcept.linalg.neighbours import in_neighbourhood
from unconcept.methods.realera import RealEra

REQUEST = Request(("dog face", "red car"), ("goat", "bus"), ("cat", "a moon"))
CAPTIONS = [
    f"{a} {b}" for a in ("cat", "wolf", "tall moon", "x ray", "bus") for b in ("by night", "in june", "q", "for 3")
]


def problem(view, method: RealEra, request: Request, texts):
    """Rows c with the rows they shall be read as, rows beyond, rows of captions; each as the method draws them."""
    e, m = view.embed(request.targets), view.embed(request.anchors)
    c = [method._near(view, row, text) for row, text in zip(e, request.targets, strict=True)]
    wanted = [row.expand(len(near), -1) for row, near in zip(m, c, strict=True)]
    p = view.embed(texts, at="all").flatten(0, 1)
    return (
        torch.cat(c),
        torch.cat(wanted),
        method._beyond(view, request, e).gram,
        p[~in_neighbourhood(p, e, method.s1, method.d1)],
    )


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_solves_the_normal_equations(family, tmp_path) -> None:
    view, path = tiny.shared(family), tmp_path / "captions.txt"
    path.write_text("\n".join(CAPTIONS))
    method = RealEra(l1=0.3, l2=0.7, l3=0.02, prior=str(path))
    edit = method.erase(view, REQUEST)
    c, wanted, b, p = problem(view, method, REQUEST, CAPTIONS)
    d = c.shape[1]
    right = c.T @ c / len(c) + 0.3 * p.T @ p / len(p) + 0.7 * b
    right = right + 0.02 * right.trace() / d * torch.eye(d, dtype=c.dtype)
    for name, w in view.text_maps().items():
        w = w.detach()
        left = w @ wanted.T @ c / len(c) + w @ (right - c.T @ c / len(c))
        assert torch.allclose(w + edit.delta(name, w), left @ torch.linalg.inv(right), atol=1e-10, rtol=0)
        assert ((w + edit.delta(name, w)) @ right - left).norm() < 1e-6 * left.norm()


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_neighbours_keep_both_constraints_in_each_encoder(family) -> None:
    view, method = tiny.shared(family), RealEra(neighbours=500)
    row = view.embed(["dog face"])[0]
    near = method._near(view, row, "dog face")
    assert torch.equal(near[0], row)
    assert len(near) == 501
    for part, own in zip(near[1:].split(view.widths, -1), row.split(view.widths), strict=True):
        assert in_neighbourhood(part, own[None], method.s1 - 1e-9, method.d1 + 1e-9).all()
        assert torch.nn.functional.cosine_similarity(part, own[None]).max() <= method.s2 + 1e-9


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_nothing_to_keep_reads_every_neighbour_as_the_anchor(family) -> None:
    view, request = tiny.shared(family), Request(("dog face", "red car"), ("goat", "bus"))
    method = RealEra(l1=0.0, l2=0.0, l3=1e-11)
    edit = method.erase(view, request)
    c, wanted, *_ = problem(view, method, request, CAPTIONS)
    assert len(c) < c.shape[1]
    for name, w in view.text_maps().items():
        assert torch.allclose(c @ (w.detach() + edit.delta(name, w)).T, wanted @ w.detach().T, atol=1e-6)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_no_room_and_nothing_to_keep_is_the_plain_edit(family) -> None:
    """S1 = S2 = 1, D1 = 0: rows are the targets themselves, and the edit is UCE's."""
    from unconcept.methods.uce import UCE

    view, request = tiny.shared(family), Request(("dog face",), ("goat",))
    edit = RealEra(d1=0.0, s1=1.0, s2=1.0, neighbours=3, l1=0.0, l2=0.0, l3=0.1).erase(view, request)
    c = view.embed(request.targets).detach()
    plain = UCE(lamb=0.1 * float(c.square().sum()) / c.shape[1]).erase(view, request)
    assert all(
        torch.allclose(edit.delta(name, w), plain.delta(name, w), atol=1e-10) for name, w in view.text_maps().items()
    )


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_heavy_terms_leave_the_weights(family) -> None:
    view = tiny.shared(family)
    for stiff in (RealEra(l2=1e12, l3=1e-9), RealEra(l3=1e12)):
        assert all(stiff.erase(view, REQUEST).delta(name, w).abs().max() < 1e-8 for name, w in view.text_maps().items())


@torch.no_grad()
def test_what_is_beyond_moves_less_with_its_term() -> None:
    """At equal residual: with fewer rows than dimensions and a weak ridge both edits read the target as the anchor."""
    view, request = tiny.shared("sdxl"), Request(("dog face",), ("goat",), ("cat", "a moon", "wolf"))
    b, e, m = (view.embed(texts) for texts in (request.retain, request.targets, request.anchors))
    moved, left = [], []
    for l2 in (0.0, 1.0):
        edit = RealEra(neighbours=5, beyond=20, l2=l2, l3=1e-9).erase(view, request)
        deltas = {name: edit.delta(name, w) for name, w in view.text_maps().items()}
        moved.append(sum(float((b @ delta.T).square().sum()) for delta in deltas.values()))
        left.append(
            sum(float(((m - e) @ w.T - e @ deltas[name].T).square().sum()) for name, w in view.text_maps().items())
        )
    assert moved[1] < 1e-6 * moved[0]
    assert max(left) < 1e-6


def test_rows_of_captions_in_the_neighbourhood_are_dropped(tmp_path) -> None:
    """A caption that is the target asks for nothing: the edit is as without it."""
    view, path = tiny.shared("sd1"), tmp_path / "captions.txt"
    method = RealEra(prior=str(path))
    e = view.embed(("dog face",))
    path.write_text("dog face")
    rows = view.embed(["dog face"], at="all").flatten(0, 1)
    assert method._captions(view, e).gram.trace() > 0
    kept = method._outside(rows, e)
    assert 0 < len(kept) < len(rows)
    assert not (kept == e).all(1).any()


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_neither_order_nor_company_changes_a_targets_neighbours(family) -> None:
    view = tiny.shared(family)
    turned = Request(REQUEST.targets[::-1], REQUEST.anchors[::-1], REQUEST.retain[::-1])
    one, two = RealEra().erase(view, REQUEST), RealEra().erase(view, turned)
    assert all(
        torch.allclose(one.delta(name, w), two.delta(name, w), atol=1e-10) for name, w in view.text_maps().items()
    )
    assert RealEra(seed=1).erase(view, REQUEST).hash != one.hash


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("l3", 0.0),
        ("l1", -0.1),
        ("l2", -0.1),
        ("neighbours", -1),
        ("beyond", -1),
        ("d1", -0.1),
        ("s1", 0.0),
        ("s2", 1.1),
        ("b1", 0.0),
        ("b2", 0.9),
    ],
)
def test_settings_out_of_range(setting, value) -> None:
    with pytest.raises(SettingsError, match=setting):
        build_settings(RealEra, {setting: value})


def test_golden_norm() -> None:
    """A change of this number is a change of behaviour."""
    view = tiny.shared("sd1")
    edit = RealEra().erase(view, REQUEST)
    norm = sum(float(edit.delta(name, w).square().sum()) for name, w in view.text_maps().items()) ** 0.5
    assert norm == pytest.approx(GOLDEN, rel=1e-4)


GOLDEN = 3.6504994
