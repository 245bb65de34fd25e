"""What every registered method must do, whatever it is."""

import pytest
import torch

from tests import tiny
from unconcept.core import Request
from unconcept.core.errors import SettingsError
from unconcept.core.hashing import hash_tensors
from unconcept.core.request import Ask
from unconcept.core.settings import build, dump, to_toml
from unconcept.edits import load_edit
from unconcept.evaluation.erasure import make_edit
from unconcept.evaluation.requests import choose
from unconcept.methods import methods

REQUEST = Request(("dog face",), ("goat",), ("cat",))
CASES = [(name, family) for name in methods for family in methods[name].families]


def weights(view) -> str:
    parts = ("unet", "text_encoder", *(("text_encoder_2",) if view.family == "sdxl" else ()))
    return hash_tensors({f"{part}.{n}": p for part in parts for n, p in view.modules(part).named_parameters()})


def chosen():
    return choose(Ask(("dog face",), ("goat",), ("cat",)), "tiny")


@pytest.mark.parametrize(("name", "family"), CASES)
def test_erase_leaves_the_model_alone_and_repeats(name, family) -> None:
    view = tiny.view(family)
    before = weights(view)
    first, second = (methods[name].settings().erase(view, REQUEST) for _ in range(2))
    assert weights(view) == before
    assert first.hash == second.hash


@pytest.mark.parametrize(("name", "family"), CASES)
def test_applied_then_left_is_bitwise_the_same(name, family) -> None:
    view = tiny.view(family, torch.float32)
    edit = methods[name].settings().erase(view, REQUEST)
    before = weights(view)
    with edit.applied(view):
        assert weights(view) != before
    assert weights(view) == before


@pytest.mark.parametrize(("name", "family"), CASES)
def test_save_and_load_is_the_same_edit(name, family, tmp_path) -> None:
    view = tiny.view(family, torch.float32)
    edit = make_edit(view, chosen(), name, {})
    edit.save(tmp_path / "edit.safetensors")
    loaded = load_edit(tmp_path / "edit.safetensors")
    assert loaded.hash == edit.hash
    assert loaded.origin == edit.origin
    with loaded.applied(view):
        pass


@pytest.mark.parametrize(("name", "family"), CASES)
def test_no_strength_is_the_identity(name, family) -> None:
    view = tiny.view(family, torch.float32)
    before = weights(view)
    with methods[name].settings().erase(view, REQUEST).scaled(0.0).applied(view):
        assert weights(view) == before


@pytest.mark.parametrize("name", list(methods))
def test_settings_survive_toml(name) -> None:
    import tomllib

    settings = methods[name].settings()
    assert build(methods[name].settings, tomllib.loads(to_toml(dump(settings)))) == settings


@pytest.mark.parametrize("name", list(methods))
def test_other_families_are_refused_by_name(name) -> None:
    view = tiny.view("sd1", torch.float32)
    view.family = "flux"
    with pytest.raises(SettingsError, match="not defined for flux"):
        make_edit(view, chosen(), name, {})
