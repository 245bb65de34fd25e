"""The whole course at toy size: every stage runs, goes on where it was cut off, and can be judged and shipped."""

import json
from io import BytesIO

import pytest
from PIL import Image

from world import autoencoder, course, pool, score, ship
from world.artwork import write
from world.drawing import Way
from world.place import Place


def artwork_file(path, artwork):
    pictures = []
    for pixels in artwork.pixels:
        out = BytesIO()
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(out, "WEBP", lossless=True, method=0)
        pictures.append(out.getvalue())
    write(path, list(artwork.index), pictures, artwork.words)


@pytest.mark.slow
def test_the_course_trains_everything_and_goes_on(artwork, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(course, "SIZES", {"cpu": course.Size(2, 4, 8, 4, 40)})
    monkeypatch.setattr(course, "LADDER", (0.5, 0.5))
    monkeypatch.setattr(course, "ASKED", 2)
    monkeypatch.setattr(autoencoder, "TEST_SIZE", 8)
    smallest = autoencoder.build((8, 8, 8, 8), 16)
    monkeypatch.setattr(autoencoder, "build", lambda: smallest)
    monkeypatch.setattr(pool, "PART", 20)
    monkeypatch.setattr(score, "SHOWN", 1000)
    monkeypatch.setattr(score, "SEEDS", 2)
    monkeypatch.setattr(score, "STEPS", (1, 2))
    artwork_file(tmp_path / "data.safetensors", artwork)
    call = ["--data", str(tmp_path / "data.safetensors"), "--state", str(tmp_path / "state"), "--top", "2", "--anew"]
    course.main([*call, "--minutes", "30", "--whole", "0.01"])
    told = {stage: tmp_path / f"state/course/{stage}.json" for stage in course.SHARES}
    told = {stage: json.loads(path.read_text(encoding="utf-8")) for stage, path in told.items()}
    assert tuple(stage for stage in told if told[stage]["complete"]) == course.ONCE
    assert {name: [part["rung"] for part in told[name]["slices"]] for name in ("diffusion", "flow")} == {
        "diffusion": [0, 1],
        "flow": [0, 1],
    }
    capsys.readouterr()
    course.main([*call, "--minutes", "30", "--whole", "0.01"])
    assert "goes on" not in capsys.readouterr().out
    place = Place(data=tmp_path / "data.safetensors", state=tmp_path / "state")
    for name, sampler in (("model", "dpm"), ("flow", "euler")):
        figures = score.score(place, tmp_path / "state" / name, 2, 2, Way(sampler, 2), tuning=False)
        assert figures["rates"]["count: count"]["n"] == 2
        assert figures["chance"]["distance of scenes"] > 0
        assert len(figures["steps"]) == 4
    assert ship.export(tmp_path / "state", tmp_path / "out") == []
    assert (tmp_path / "out/flow/transformer/diffusion_pytorch_model.safetensors").exists()
