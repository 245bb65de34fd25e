"""What every registered method must do, whatever it is."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from tests import tiny
from tests.methods.planted import planted_services
from tests.methods.quick import QUICK, family_for, quick_settings
from tests.toml_text import toml_text
from unconcept.core.errors import RequestError, SettingsError
from unconcept.core.hashing import hash_tensors
from unconcept.core.request import RequestSpec
from unconcept.core.seeds import SEED_BOUND
from unconcept.core.settings import build_settings, settings_data
from unconcept.edits import load_edit
from unconcept.erasing.make_edit import make_edit
from unconcept.erasing.request_defaults import resolve_request
from unconcept.methods import methods
from unconcept.models.diffusion.sampler import Sampler
from unconcept.models.families import FAMILIES, families

PARTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
PROVEN_BY = ("uce", "esd")  # closed form and training, of families whose other methods are run with the slow tests


def marks(name: str, family: str) -> tuple[pytest.MarkDecorator, ...]:
    """Language models take long at any size."""
    is_llm = families[family].first_encoder.kind == "llm"
    return (pytest.mark.slow,) if is_llm and name not in PROVEN_BY else ()


CASES = [pytest.param(name, family, marks=marks(name, family)) for name in methods for family in methods[name].families]

SEEDED = [name for name in methods if "seed" in settings_data(methods[name].settings())]


def weights(view) -> str:
    parts = [part for part in PARTS if view.checkpoint.has(part)]
    return hash_tensors({f"{part}.{n}": p for part in parts for n, p in view.modules(part).named_parameters()})


def view_for(name, family):
    """A fresh model that the method can change."""
    return (tiny.guided_view if methods[name].needs_guidance else tiny.view)(family, torch.float32)


@torch.no_grad()
def predicted(view, name) -> torch.Tensor:
    """What two steps of the sampler, unguided if the method can do without, make of noise under the target."""
    noise = torch.randn(1, *view.latent_shape, generator=torch.Generator().manual_seed(0)).to(view.dtype)
    scale = 3.0 if methods[name].needs_guidance else 1.0
    return Sampler(view, 2).denoise(noise, view.guide(["a dog face"], scale))


@cache
def untouched(name, family):
    """The hash of a fresh model's weights, and what is predicted with them."""
    view = view_for(name, family)
    return weights(view), predicted(view, name)


def plain_view(name):
    return tiny.view(family_for(name), torch.float32)


def chosen(name):
    does = methods[name].does
    return resolve_request(RequestSpec(("dog face",), ("goat",) if does == "erase" else None, ("cat",)), "tiny", does)


def erased(name, view):
    """The edit under the method's defaults, trained for a moment; what it must see is planted."""
    method = methods[name].settings(**quick_settings(name, view.family))
    return method.erase(view, chosen(name).request, planted_services(view))


@cache
def made(name, family):
    """The edit as commands make it, once for the tests that do not ask how it came to be."""
    view = view_for(name, family)
    return make_edit(view, chosen(name), name, quick_settings(name, family), planted_services(view))


@pytest.mark.parametrize(("name", "family"), CASES)
def test_erase_leaves_the_model_alone_and_repeats(name, family) -> None:
    view = view_for(name, family)
    again = erased(name, view)
    assert weights(view) == untouched(name, family)[0]
    assert again.hash == made(name, family).hash


@pytest.mark.parametrize(("name", "family"), CASES)
def test_applied_then_left_is_bitwise_the_same(name, family) -> None:
    view, edit = view_for(name, family), made(name, family)
    before, said = untouched(name, family)
    with edit.applied(view):
        assert (weights(view) != before) == bool(edit.names)
        assert not torch.equal(predicted(view, name), said)
    assert weights(view) == before
    assert torch.equal(predicted(view, name), said)


@pytest.mark.parametrize(("name", "family"), CASES)
def test_save_and_load_is_the_same_edit(name, family, tmp_path) -> None:
    edit = made(name, family)
    edit.save(tmp_path / "edit.safetensors")
    loaded = load_edit(tmp_path / "edit.safetensors")
    assert loaded.hash == edit.hash
    assert loaded.origin == edit.origin
    with loaded.applied(view_for(name, family)):
        pass


@pytest.mark.parametrize(("name", "family"), CASES)
def test_no_strength_is_the_identity(name, family) -> None:
    view, edit = view_for(name, family), made(name, family)
    before, said = untouched(name, family)
    with edit.scaled(0.0).applied(view):
        assert weights(view) == before
        assert torch.equal(predicted(view, name), said)
    for strength in (float("nan"), 1e6):
        with pytest.raises(SettingsError, match="give a number from"):
            edit.scaled(strength)


@pytest.mark.parametrize("name", list(methods))
def test_settings_survive_toml(name) -> None:
    import tomllib

    settings = methods[name].settings()
    assert build_settings(methods[name].settings, tomllib.loads(toml_text(settings_data(settings)))) == settings


@pytest.mark.parametrize("name", SEEDED)
def test_a_seed_that_no_generator_holds_is_refused(name) -> None:
    for seed in (-1, SEED_BOUND, 10**25):
        with pytest.raises(SettingsError, match=f"{name}: seed must be .*got {seed}"):
            build_settings(methods[name].settings, {"seed": seed})


@pytest.mark.parametrize("name", list(methods))
def test_without_services_it_erases_or_names_the_one_it_needs(name) -> None:
    """Under the largest seed, which no spreading over pictures, trajectories and targets makes too large."""
    view, needed, settings = plain_view(name), None, QUICK.get(name, {})
    if name in SEEDED:
        settings = settings | {"seed": SEED_BOUND - 1}
    method = methods[name].settings(**settings)
    try:
        method.erase(view, chosen(name).request)
    except RequestError as error:
        needed = str(error)
        assert method.erase(view, chosen(name).request, planted_services(view))
    assert (needed is None) == (not methods[name].uses)
    assert needed is None or (needed.startswith(name) and "\n" not in needed)


@pytest.mark.parametrize("name", list(methods))
def test_other_families_are_refused_by_name(name) -> None:
    view = tiny.view("sd1", torch.float32)
    view.spec = replace(view.spec, name="other")
    with pytest.raises(SettingsError, match="not defined for other"):
        make_edit(view, chosen(name), name, {}, planted_services(view))


@pytest.mark.parametrize("name", list(methods))
def test_a_family_is_supported_or_refused_with_the_reason(name) -> None:
    """What is supported is what the tests above run over."""
    info = methods[name]
    refused = {family: info.refusal(family) for family in FAMILIES}
    assert {family for family, reason in refused.items() if reason is None} == set(info.families)
    assert all(reason is None or reason.strip() for reason in refused.values())
