"""A file of an edit carries a checksum of its tensors, for every kind."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from unconcept.core.errors import EditError, OutputError
from unconcept.core.hashing import hash_tensors
from unconcept.edits import (
    AdapterEdit,
    BottleneckAdapter,
    DenseEdit,
    Edit,
    EditOrigin,
    GatedAdapter,
    GatedEdit,
    LatentSteeringEdit,
    LowRankEdit,
    ResidualGate,
    ResidualGateEdit,
    SteeringEdit,
    TextMapEdit,
    edit_kinds,
    load_edit,
)
from unconcept.edits.guidance import GuidanceEdit, NegativeText
from unconcept.edits.latent_steering import AttentionSteering
from unconcept.edits.steering_rules import Subtraction

NAME = "unet.a.attn2.to_k.weight"
UP, DOWN = torch.randn(4, 2), torch.randn(2, 3)
ORIGIN = EditOrigin("m", {}, ("fox",), ("",), (), "object", "sd1", "base", "0" * 64, "0.1.0")
EDITS: dict[str, Edit] = {
    "low_rank": LowRankEdit({NAME: (UP, DOWN)}),
    "dense": DenseEdit({NAME: UP.bfloat16(), "unet.b": DOWN.double()}),
    "text_map": TextMapEdit(DOWN, DOWN + 1, (NAME,)),
    "gated": GatedEdit((GatedAdapter(("fox",), {NAME: (UP, DOWN)}),)),
    "steering": SteeringEdit(Subtraction(DOWN, DOWN, 1.0, True), (NAME,)),
    "latent-steering": LatentSteeringEdit(("fox",), (NAME,), AttentionSteering(20.0, 1.0, 16, 0.5, 1.0, 1.0)),
    "residual-gate": ResidualGateEdit(
        (ResidualGate(("fox",), torch.randn(3, 2), torch.randn(3, 2), torch.randn(3), {NAME: (UP, DOWN)}),)
    ),
    "guidance": GuidanceEdit("fox", (NAME,), NegativeText()),
    "adapter": AdapterEdit({NAME: BottleneckAdapter(torch.randn(2, 4), torch.randn(2), UP, torch.randn(4))}),
}


def saved(kind: str, folder: Path) -> Path:
    EDITS[kind].stamped(ORIGIN).save(folder / "e.safetensors")
    return folder / "e.safetensors"


def header_of(path: Path) -> tuple[dict, int]:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), 8 + size


def test_every_kind_is_here() -> None:
    assert set(EDITS) >= set(edit_kinds) - {"planted"}


@pytest.mark.parametrize("kind", EDITS)
def test_a_flipped_byte_of_any_tensor_is_one_line(kind, tmp_path) -> None:
    path = saved(kind, tmp_path)
    assert load_edit(path).hash == EDITS[kind].hash
    header, start = header_of(path)
    data = bytearray(path.read_bytes())
    for name, place in header.items():
        if name != "__metadata__":
            flipped = bytearray(data)
            flipped[start + place["data_offsets"][0]] ^= 1  # the lowest bit of a number: no NaN
            path.write_bytes(flipped)
            with pytest.raises(EditError, match=r"their checksum differs; the file is damaged: make the edit again"):
                load_edit(path)


@pytest.mark.parametrize("kind", EDITS)
def test_a_file_of_version_0_1_has_no_checksum_and_is_read(kind, tmp_path) -> None:
    path = saved(kind, tmp_path)
    header, start = header_of(path)
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    assert header["__metadata__"].pop("tensors_sha256") == hash_tensors(tensors)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + path.read_bytes()[start:])
    assert load_edit(path).hash == EDITS[kind].hash


def test_a_folder_that_is_missing_is_one_line_and_a_former_file_stays(tmp_path, monkeypatch) -> None:
    edit = EDITS["dense"].stamped(ORIGIN)
    with pytest.raises(OutputError, match=r"gone is no folder: make it first"):
        edit.save(tmp_path / "gone/e.safetensors")
    path = saved("low_rank", tmp_path)
    former = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("unconcept.edits.edit_file.write_deferred_tensors", full)
    with pytest.raises(OutputError, match=r"e\.safetensors: No space left on device"):
        edit.save(path)
    assert path.read_bytes() == former
    assert list(tmp_path.iterdir()) == [path]
