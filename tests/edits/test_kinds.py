"""A new kind of edit is one class: it registers itself, answers for itself, and commands take it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests import tiny
from tests.cli.test_cli import run
from unconcept import open_model
from unconcept.core.errors import EditError
from unconcept.core.request import Request
from unconcept.edits import Edit, EditHandle, EditOrigin, edit_kind, edit_kinds, load_edit, origin_of
from unconcept.edits.base import validate_strength
from unconcept.edits.edit_file import StoredEdit, write_edit_file
from unconcept.edits.origin import origin_for
from unconcept.edits.weights import add_to_weights

NAME = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"


@edit_kind("planted")
@dataclass(frozen=True)
class PlantedEdit:
    """W' = (1 + share) W of one weight."""

    share: float
    baked: bool = True
    origin: EditOrigin | None = None
    maker: Callable[[Edit], EditOrigin] | None = None
    solve_figures: Mapping[str, float] = field(default_factory=dict)
    parameters = 1
    names = bound_names = (NAME,)
    hash = "planted"

    def stamped(self, origin: EditOrigin) -> "PlantedEdit":
        return replace(self, origin=origin)

    def tensors(self) -> Mapping[str, Tensor]:
        return {"share": torch.tensor([self.share])}

    def delta(self, name: str, weight: Tensor) -> Tensor:
        return self.share * weight.float()

    def scaled(self, strength: float, amplify: bool = False) -> "PlantedEdit":
        return replace(self, share=validate_strength(strength, amplify) * self.share)

    @contextmanager
    def applied(self, model) -> Iterator[None]:
        with add_to_weights(self, model):
            yield

    def apply_to(self, target) -> EditHandle:
        return EditHandle(self, target)

    def can_bake(self) -> bool:
        return self.baked

    def static(self) -> "PlantedEdit":
        return self

    def thin_factors(self, name: str, weight: Tensor) -> None:
        return None

    def effect(self, model, request: Request) -> dict[str, float]:
        return {"share": self.share}

    def describe(self) -> str:
        return "was planted"

    def save(self, path: Path) -> None:
        write_edit_file(path, StoredEdit("planted", self.tensors(), origin_of(self), {"baked": self.baked}))

    @classmethod
    def from_stored(cls, stored: StoredEdit) -> "PlantedEdit":
        return cls(float(stored.tensors["share"]), stored.details["baked"], stored.origin)


def planted(folder: Path, path: Path, baked: bool = True) -> Path:
    """A planted edit of a tiny model, on disk."""
    model = open_model(str(folder))
    edit = PlantedEdit(0.5, baked)
    edit.stamped(origin_for(edit, model, Request(("dog",), ("cat",)), "planted", {})).save(path)
    return path


def weight(folder: Path) -> Tensor:
    """The weight that a planted edit changes, as a folder holds it."""
    return load_file(folder / "unet/diffusion_pytorch_model.safetensors")[NAME.removeprefix("unet.")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.folder("sd1", tmp_path_factory.mktemp("base") / "sd1")


def test_every_command_takes_a_planted_kind(folder, tmp_path) -> None:
    """Loaded, drawn with, baked and exported, with no line about it outside its class."""
    path = planted(folder, tmp_path / "edit.safetensors")
    edit = load_edit(path)
    assert isinstance(edit, PlantedEdit)
    assert edit.origin is not None
    assert edit.origin.report["share"] == 0.5
    result = run("apply", path, "--model", folder, "--out", tmp_path / "baked")
    assert result.exit_code == 0, result.stderr
    before, after = (weight(place) for place in (folder, tmp_path / "baked"))
    assert torch.allclose(after, 1.5 * before, rtol=1e-6)
    result = run("sample", "a dog", "--edit", path, "--model", folder, "--steps", 1, "--out", tmp_path / "drawn")
    assert result.exit_code == 0, result.stderr
    result = run("export", path, "--to", "kohya", "--model", folder, "--out", tmp_path / "lora.safetensors")
    assert result.exit_code == 0, result.stderr


def test_what_cannot_be_baked_says_what_it_is(folder, tmp_path) -> None:
    path = planted(folder, tmp_path / "edit.safetensors", baked=False)
    result = run("apply", path, "--model", folder, "--out", tmp_path / "baked")
    assert result.exit_code == 2
    assert "the edit was planted, so it cannot be baked or exported" in result.stderr


def test_a_kind_is_registered_once() -> None:
    assert {"adapter", "dense", "gated", "low_rank", "steering", "text_map"} <= {*edit_kinds}
    with pytest.raises(ValueError, match="'planted' is registered twice"):
        edit_kind("planted")(type("Other", (), {}))


def test_an_edit_that_nobody_made_cannot_be_saved(tmp_path) -> None:
    with pytest.raises(EditError, match="no origin"):
        PlantedEdit(0.5).save(tmp_path / "edit.safetensors")
