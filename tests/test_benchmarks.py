"""What is measured is the same edit: the papers' loops agree with our solvers, and the yardsticks are what they say."""

import pytest
import torch

from benchmarks.growth import exponent
from benchmarks.names import names
from benchmarks.papers import LOOPS
from benchmarks.shapes import SHARD, drawn, write_weights
from tests import tiny
from unconcept.core.request import Request
from unconcept.methods import methods
from unconcept.models.checkpoint.safetensors_io import TensorLocation, read_tensors
from unconcept.models.checkpoint.weight_files import weight_files

SETTINGS = {
    "uce": {"lamb": 0.3, "preserve_scale": 0.7},
    "speed": {"aug_num": 0, "disable_filter": True, "threshold": 0.02, "retain_scale": 0.5},
    "rece": {"epochs": 2, "start": "none", "lamb": 0.3},
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_papers_loop_finds_our_edit(name) -> None:
    view = tiny.view("sd1", torch.float32)
    method = methods[name].settings(**SETTINGS[name])
    request = Request(("dog face",), ("cat",), ("",) if name == "rece" else ("red car", "a moon"))
    edit = method.erase(view, request)
    with torch.no_grad():
        found = LOOPS[name](view, request, method)
    assert found.keys() == set(edit.names)
    for key, w in view.text_maps().items():
        if key in found:
            assert torch.allclose(edit.delta(key, w), found[key], atol=2e-3 * float(found[key].abs().max()))


def test_exponents_are_of_what_is_added() -> None:
    assert exponent([(0, 3.0), (10, 3.0 + 2 * 10**1.5), (1000, 3.0 + 2 * 1000**1.5)]) == pytest.approx(1.5)


def test_names_are_the_same_every_time(tmp_path) -> None:
    assert len(set(names(500))) == 500
    assert names(500)[:20] == names(20)
    file = tmp_path / "names"
    file.write_text("A\nB\n\nA\n")
    assert names(2, file) == ("A", "B")
    with pytest.raises(SystemExit, match="2 names, 3 are needed"):
        names(3, file)


def test_shapes_are_written_in_shards(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("benchmarks.shapes.SHARD", 4 * 40)
    assert SHARD > 2**30
    shapes = {"a.weight": (5, 6), "b.bias": (5,), "norm.weight": (7,), "c.weight": (4, 4)}
    write_weights(
        tmp_path, "model", {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, torch.float32
    )
    files = weight_files(tmp_path)
    assert len(set(files.values())) == 2
    found = read_tensors({name: TensorLocation(file, name) for name, file in files.items()}, files)
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == shapes
    assert found["b.bias"].eq(0).all()
    assert found["norm.weight"].eq(1).all()
    assert not torch.equal(*(drawn(name, torch.Size((4, 4)), torch.randn(97)) for name in ("a", "b")))
