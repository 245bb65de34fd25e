"""A-STAR against its card: the losses, the gradient, the move, and what it leaves alone."""

import pytest
import torch

from tests import tiny
from unconcept.core import Request
from unconcept.core.errors import EditError, SettingsError
from unconcept.edits import LatentSteeringEdit, load_edit
from unconcept.edits.latent_steering import averaged_attention, concept_maps
from unconcept.linalg.attention_losses import retention_loss, segregation_loss, strongest_places
from unconcept.methods.a_star import AStar
from unconcept.models.diffusion.callbacks import SamplingCallbacks, callbacks_on
from unconcept.models.diffusion.sampler import LoopOptions, Sampler
from unconcept.models.hooks.attention_maps import record_attention, text_attentions

CONTRACT_SETTINGS: dict[str, object] = {}
PROMPTS = ["a dog by a cat", "a moon"]
REQUEST = Request(("dog", "cat"), ("", ""))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_losses_are_the_cards() -> None:
    """Disjoint maps 0, equal ones 1/2; retention 1/2 where nothing is lost, 1 where all is; the order is nothing."""
    a, b = torch.tensor([1.0, 2, 0, 0]), torch.tensor([0, 0, 1.0, 3])
    assert float(segregation_loss(torch.stack([a, b]))) == 0
    assert float(segregation_loss(torch.stack([a, a]))) == 0.5
    assert float(segregation_loss(a[None])) == 0
    places = strongest_places(a[None], 0.5)
    assert places.tolist() == [[1, 1, 0, 0]]
    assert float(retention_loss(places, places)) == 0.5
    assert float(retention_loss(b[None], places)) == 1
    maps = random(3, 16).exp()
    overlap = sum(torch.minimum(maps[m], maps[n]).sum() / (maps[m] + maps[n]).sum() for m in range(3) for n in range(m))
    assert torch.allclose(segregation_loss(maps), overlap)
    assert torch.allclose(segregation_loss(maps), segregation_loss(maps[[2, 0, 1]]))
    maps.requires_grad_()
    assert not strongest_places(maps, 0.2).requires_grad


def moves(view, edit, steps=4, seed=1):
    """Latents before and after each move, and the denoiser's calls; the sampler's own latents are not changed."""
    seen, sampler = [], Sampler(view, steps, "ddim")
    x = random(2, *view.latent_shape, seed=seed)
    watch = SamplingCallbacks(before=lambda at: seen.append(at.latents))
    with edit.applied(view):
        with torch.no_grad():
            guidance = view.guide(PROMPTS, 3.0)
        with callbacks_on(view.modules("denoiser"), watch):
            end = sampler.denoise(x, guidance)
    return x, seen, end


def loss_of(view, x, texts, t, before=None):
    """L_seg of the first prompt, and L_ret if there are places of the step before, written out."""
    with record_attention(view, text_attentions(view)) as kept:
        view.denoise(x, t, texts)
    found = averaged_attention([maps for (maps,) in kept.values()], (8, 8), 16)[0]
    maps = concept_maps(found, [[2, 3, 4], [8, 9, 10]])
    loss = segregation_loss(maps)
    return loss if before is None else loss + retention_loss(maps, before), strongest_places(maps, 0.2)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_step_moves_latents_down_the_gradient(family) -> None:
    """The first by L_seg alone, the second by L_ret too, at 20 and 20 sqrt(7/8) times the gradient; the finite
    difference agrees with it, and a small move lowers the loss.
    """
    view = tiny.view(family)
    edit = AStar(largest_move=1e9).erase(view, REQUEST)
    x, seen, _ = moves(view, edit)
    t = Sampler(view, 4, "ddim").timesteps
    with torch.no_grad():
        texts = view.guide(PROMPTS[:1], 1.0).texts
    places = None
    start = x[:1]
    for k in (0, 1):
        point = start.clone().requires_grad_()
        loss, after = loss_of(view, point, texts, t[k], places)
        (slope,) = torch.autograd.grad(loss, point)
        assert slope.abs().max() > 0
        assert torch.allclose(seen[k][:1], start - 20 * (1 - k / 8) ** 0.5 * slope, atol=1e-9)
        way = slope / slope.norm()
        with torch.no_grad():
            up, down = (float(loss_of(view, start + h * way, texts, t[k], places)[0]) for h in (1e-5, -1e-5))
            assert (up - down) / 2e-5 == pytest.approx(float(slope.norm()), rel=1e-3)
            assert float(loss_of(view, start - 1e-3 * way, texts, t[k], places)[0]) < float(loss)
        places = after
        if k == 0:
            start = step_after(view, seen[0], t)[:1]


@torch.no_grad()
def step_after(view, x, t):
    return Sampler(view, 4, "ddim").denoise(x, view.guide(PROMPTS, 3.0), 0, 1)


def test_it_leaves_alone_what_names_nothing_and_everything_without_strength() -> None:
    view = tiny.view("sd1")
    edit = AStar().erase(view, REQUEST)
    x, seen, end = moves(view, edit)
    with torch.no_grad():
        guidance = view.guide(PROMPTS, 3.0)
    plain = Sampler(view, 4, "ddim").denoise(x, guidance)
    assert not torch.allclose(end[0], plain[0], atol=1e-4)
    assert torch.allclose(end[1], plain[1], atol=1e-10)
    assert torch.equal(seen[0][1], x[1])
    for idle in (edit.scaled(0.0), AStar(step_size=0).erase(view, REQUEST)):
        assert torch.equal(moves(view, idle)[2], plain)


def test_a_move_is_bounded_and_one_concept_is_kept_in_its_place() -> None:
    """One concept has no overlap: its first step moves nothing, its second one does."""
    view = tiny.view("sd1")
    x, seen, _ = moves(view, AStar(step_size=1e9, largest_move=0.01).erase(view, REQUEST))
    assert float((seen[0] - x).abs().max()) == pytest.approx(0.01)
    one = AStar().erase(view, Request(("dog",), ("",)))
    x, seen, _ = moves(view, one)
    assert torch.equal(seen[0], x)
    after = step_after(view, x, Sampler(view, 4, "ddim").timesteps)
    assert not torch.allclose(seen[1][0], after[0], atol=1e-6)
    assert torch.allclose(seen[1][1], after[1], atol=1e-10)


def test_the_longest_of_overlapping_names_is_meant() -> None:
    """ "dog face" and its short form "dog" are one concept where both stand, and nothing is pushed off itself."""
    view = tiny.view("sd1")
    prompts = ["a dog face", "a moon"]
    for request in (Request(("dog face",), ("",)), Request(("dog", "dog face"), ("", ""))):
        seen = []
        with AStar().erase(view, request).applied(view), torch.no_grad():
            watch = SamplingCallbacks(before=lambda at, seen=seen: seen.append(at.latents))
            x, guidance = random(2, *view.latent_shape), view.guide(prompts, 1.0)
            Sampler(view, 2, "ddim").denoise(x, guidance, options=LoopOptions(callbacks=watch))
        assert torch.equal(seen[0], x)


def test_it_steers_beside_another_edit_and_survives_a_file(tmp_path) -> None:
    from unconcept.methods import methods

    view = tiny.view("sd1", torch.float32)
    erasing = methods["uce"].settings().erase(view, Request(("sun",), ("",), ("dog",)))
    edit = AStar().erase(view, REQUEST)
    noise = random(2, *view.latent_shape).float()
    with erasing.applied(view):
        plain = view.sample(PROMPTS, noise, 4, 3.0)
        with edit.applied(view):
            both = view.sample(PROMPTS, noise, 4, 3.0)
    assert not torch.allclose(both[0], plain[0], atol=1e-4)
    assert torch.allclose(both[1], plain[1], atol=1e-5)
    edit.save(tmp_path / "e.safetensors")
    loaded = load_edit(tmp_path / "e.safetensors")
    assert isinstance(loaded, LatentSteeringEdit)
    assert (loaded.hash, loaded.steering, loaded.concepts) == (edit.hash, edit.steering, ("dog", "cat"))
    with pytest.raises(EditError, match="there is no delta"):
        edit.delta("unet.x", noise)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"step_size": -1.0}, "step_size must be >= 0"),
        ({"largest_move": 0.0}, "largest_move must be > 0"),
        ({"share": 1.0}, "share must be above 0 and below 1"),
        ({"attention_size": 0}, "attention_size must be >= 1"),
    ],
)
def test_settings_out_of_range(wrong, said) -> None:
    with pytest.raises(SettingsError, match=said):
        AStar(**wrong)
