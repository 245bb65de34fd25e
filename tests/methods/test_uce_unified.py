"""UCE with all its sets at once: against the slow normal equations, and `uce`'s bytes where nothing is debiased."""

from dataclasses import replace

import pytest
import torch

from tests import tiny
from tests.methods.planted import Planted
from unconcept.core import Request
from unconcept.core.errors import RequestError, SettingsError
from unconcept.methods import MethodServices
from unconcept.methods.uce import UCE
from unconcept.methods.uce_unified import UCEUnified

CONTRACT_SETTINGS: dict[str, object] = {"debias": ["pilot"], "rounds": 2, "images": 100}
REQUEST = Request(("dog face", "knife", "ink style"), ("goat", "", "style"), ("cook", "old man"))
JOINT = UCEUnified(
    debias=("judge", "pilot"), images=10_000, max_diff=0.01, erase_scale=1.5, preserve_scale=0.3, step_size=0.7
)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_joint_solve_is_the_normal_equations_of_all_sets(family) -> None:
    """Each layer with its own inverse: erased to goat and style, moderated to "", debiased to c + sum beta a."""
    view = tiny.view(family)
    edit = JOINT.erase(view, REQUEST, MethodServices(Planted(view, (1.2, 0.0))))
    c, v = view.embed(REQUEST.targets), view.embed(REQUEST.anchors)
    p, d, a = (view.embed(texts) for texts in (REQUEST.retain, JOINT.debias, JOINT.attributes))
    shares = [edit.solve_figures[f"{one} in {name}"] for name in JOINT.debias for one in JOINT.attributes]
    beta = torch.tensor(shares, dtype=torch.float64).view(2, 2)
    assert beta.abs().min() > 0.01
    keys, wanted = torch.cat([c, d]), torch.cat([v, d + beta @ a])
    for name, w in view.text_maps().items():
        left, right = JOINT.lamb * w, JOINT.lamb * torch.eye(w.shape[1], dtype=w.dtype)
        for key, value in zip(keys, wanted, strict=True):
            left = left + JOINT.erase_scale * torch.outer(w @ value, key)
            right = right + JOINT.erase_scale * torch.outer(key, key)
        for row in p:
            left = left + JOINT.preserve_scale * torch.outer(w @ row, row)
            right = right + JOINT.preserve_scale * torch.outer(row, row)
        assert torch.allclose(w + edit.delta(name, w), left @ torch.linalg.inv(right), atol=1e-9, rtol=0)


@pytest.mark.parametrize("tokens", ["last", "last+tail"])
def test_a_request_that_only_erases_gives_the_bytes_of_uce(tokens) -> None:
    view = tiny.view("sd1", torch.float32)
    alone = UCEUnified(debias=(), tokens=tokens).erase(view, REQUEST)
    assert alone.hash == UCE(tokens=tokens).erase(view, REQUEST).hash


@pytest.mark.parametrize("tokens", ["last", "last+tail"])
def test_shares_come_out_as_wanted_while_the_rest_is_erased(tokens) -> None:
    view, bias = tiny.view("sd1"), (1.5, 0.0)
    edit = replace(JOINT, tokens=tokens).erase(view, REQUEST, MethodServices(Planted(view, bias)))
    with edit.applied(view):
        for name in JOINT.debias:
            assert Planted(view, bias)(name, JOINT.attributes, 100_000, 0)[0] / 100_000 == pytest.approx(0.5, abs=0.02)
    c, v = view.embed(REQUEST.targets), view.embed(REQUEST.anchors)
    for name, w in view.text_maps().items():
        after = w + edit.delta(name, w)
        assert (c @ after.T - v @ w.T).norm() < ((c - v) @ w.T).norm()


def test_the_order_of_the_sets_does_not_matter() -> None:
    view = tiny.view("sd1")
    turned = Request(REQUEST.targets[::-1], REQUEST.anchors[::-1], REQUEST.retain[::-1])
    one, other = (JOINT.erase(view, each, MethodServices(Planted(view))) for each in (REQUEST, turned))
    for name, w in view.text_maps().items():
        assert torch.allclose(one.delta(name, w), other.delta(name, w), atol=1e-10)


def test_what_is_refused() -> None:
    view = tiny.view("sd1")
    with pytest.raises(RequestError, match=r"\['cook'\] is to be debiased and erased or retained"):
        UCEUnified(debias=("cook",)).erase(view, REQUEST, MethodServices(Planted(view)))
    with pytest.raises(RequestError, match="must judge the images it samples"):
        JOINT.erase(view, REQUEST)
    for wrong, said in (({"attributes": ("man",)}, "at least two"), ({"lamb": 0.0}, "lamb must be > 0")):
        with pytest.raises(SettingsError, match=said):
            UCEUnified(**wrong)
