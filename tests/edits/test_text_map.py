"""One map on the text: run as a hook, laid over the weights, baked; stored in two thin matrices."""

from dataclasses import replace

import pytest
import torch

from tests import tiny
from unconcept.core import Request
from unconcept.core.errors import EditError
from unconcept.edits import LowRankEdit, TextMapEdit
from unconcept.methods.uce import UCE

REQUEST = Request(("dog face", "red car"), ("goat", "bus"), ("cat", "wolf", "a moon"))


def predicted(view, prompts=("a dog face", "a cat")) -> torch.Tensor:
    latents = torch.randn(
        len(prompts), *view.latent_shape, dtype=view.dtype, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        return view.denoise(latents, torch.full((len(prompts),), 500), prompts)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_three_ways_are_one_edit(family) -> None:
    """On the text states, over the weights, and as low-rank pairs of each layer: equal to
    1e-12, and not the unedited.
    """
    view = tiny.view(family)
    edit = UCE().erase(view, REQUEST)
    pairs = LowRankEdit({name: (w.detach() @ edit.x.T, edit.y) for name, w in view.text_maps().items()})
    plain, found = predicted(view), []
    for way in (edit.applied_by_hooks, edit.applied, pairs.applied):
        with way(view):
            found.append(predicted(view))
    assert all(torch.allclose(one, found[0], atol=1e-12, rtol=0) for one in found)
    assert not torch.allclose(found[0], plain, atol=1e-6)
    assert torch.equal(predicted(view), plain)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_hook_draws_with_guidance(family) -> None:
    """The empty prompt's half of a guided batch passes through the same map."""
    view = tiny.view(family, torch.float32)
    edit = UCE().erase(view, REQUEST)
    noise = torch.randn(2, *view.latent_shape, generator=torch.Generator().manual_seed(0))
    drawn = []
    for way in (edit.applied_by_hooks, edit.applied):
        with way(view):
            drawn.append(view.sample(["a dog face", "a cat"], noise, 2, 3.0))
    assert torch.allclose(*drawn, atol=1e-5)


def test_more_rows_than_dimensions_become_as_many() -> None:
    x, y = torch.randn(2, 50, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    edit = TextMapEdit.thin(x, y, ("unet.b", "unet.a"))
    w = torch.eye(12, dtype=torch.float64)
    assert edit.x.shape == edit.y.shape == (12, 12)
    assert edit.names == ("unet.a", "unet.b")
    assert torch.allclose(edit.delta("unet.a", w), x.T @ y, atol=1e-12)


@pytest.mark.parametrize("rows", [5, 6, 7, 12])
def test_the_change_is_one_whichever_way_it_is_formed(rows) -> None:
    x, y = torch.randn(2, rows, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(rows))
    w = torch.randn(7, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    edit = TextMapEdit(x, y, ("unet.a",))
    assert torch.allclose(edit.delta("unet.a", w), w @ x.T @ y, atol=1e-12)
    assert torch.allclose(edit.scaled(0.5).delta("unet.a", w), w @ x.T @ y / 2, atol=1e-12)
    assert edit.delta("unet.a", w.to(torch.float16)).dtype == torch.float64


def test_maps_are_part_of_what_it_is() -> None:
    edit = UCE().erase(tiny.shared("sd1"), REQUEST)
    fewer = replace(edit, maps=edit.maps[:1])
    assert fewer.hash != edit.hash
    with pytest.raises(EditError, match="leaves alone"), fewer.applied_by_hooks(tiny.view("sd1")):
        pass


def test_factors_that_do_not_fit() -> None:
    with pytest.raises(EditError, match="one shape"):
        TextMapEdit(torch.ones(2, 3), torch.ones(3, 3), ("unet.a",))
    with pytest.raises(EditError, match="changes nothing"):
        TextMapEdit(torch.ones(2, 3), torch.ones(2, 3), ())
    with pytest.raises(EditError, match="width 3"):
        TextMapEdit(torch.ones(2, 3), torch.ones(2, 3), ("unet.a",)).delta("unet.a", torch.ones(4, 5))
