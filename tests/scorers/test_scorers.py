"""The table of scorers, and packages that are not there."""

import subprocess
import sys

import pytest

from unconcept.core.errors import MissingExtra, UnknownName
from unconcept.core.optional_imports import import_optional
from unconcept.scorers import scorers

HEAVY = ("transformers", "open_clip", "onnxruntime", "nudenet", "lpips", "torchvision", "cv2", "diffusers")


def test_reading_the_table_imports_no_heavy_package() -> None:
    script = f"import sys\nimport unconcept.scorers\nprint(*[name for name in {HEAVY} if name in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split() == []
    )


def test_the_table() -> None:
    reads = {name: scorers[name].reads for name in scorers}
    assert reads == {
        "classifier": "picture",
        "clip-embedding": "set",
        "clip-score": "text",
        "diffusion-classifier": "text",
        "diffusion-probe": "picture",
        "face-recogniser": "picture",
        "lpips": "pair",
        "moji-clip": "text",
        "moji-judge": "picture",
        "moji-judge-embedding": "set",
        "moji-judge-features": "pair",
        "nudenet": "picture",
        "pixels": "pair",
        "vlm": "caption",
    }
    assert {name: scorers[name].extra for name in scorers if scorers[name].extra} == {
        "lpips": "eval",
        "nudenet": "nudity",
    }
    assert all(scorers[name].summary.endswith(".") for name in scorers)
    with pytest.raises(UnknownName, match="moji-judge"):
        _ = scorers["moji-juge"]


def test_a_missing_package_names_its_extra_and_what_it_blocks() -> None:
    with pytest.raises(
        MissingExtra,
        match=r"counting body parts needs no_such_package, which is not installed: pip install 'unconcept\[nudity\]'",
    ):
        import_optional("no_such_package", "nudity", "counting body parts")


def test_a_package_that_breaks_while_loading(tmp_path, monkeypatch) -> None:
    (tmp_path / "half_built.py").write_text("raise RuntimeError('operator half::built does not exist')")
    (tmp_path / "needs_more.py").write_text("import not_there_either")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingExtra, match="installed but cannot be loaded: operator half::built"):
        import_optional("half_built", "eval", "LPIPS")
    with pytest.raises(MissingExtra, match="which lacks not_there_either"):
        import_optional("needs_more", "eval", "LPIPS")


@pytest.mark.parametrize(("package", "build", "extra"), [("nudenet", "nudenet", "nudity"), ("lpips", "lpips", "eval")])
def test_scorers_say_what_they_lack(package, build, extra, monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"unconcept\[{extra}\]"):
        scorers[build].build(*([tmp_path / "trunk.safetensors"] if build == "lpips" else []))
