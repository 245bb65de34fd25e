"""What a library user expects: open what is in memory, erase, apply until removed, save, evaluate."""

import subprocess
import sys
import textwrap

import pytest
import torch

import unconcept
from tests import tiny
from unconcept import Request, load_edit, open_model
from unconcept.core.errors import EditError, ModelError, SettingsError
from unconcept.methods.uce import UCE

REQUEST = Request(("dog",), ("cat",))
pytestmark = pytest.mark.usefixtures("few_steps")


def weights(pipe) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in pipe.unet.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(weight, second[name]) for name, weight in first.items())


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "sd3", "flux"])
def test_a_pipeline_in_memory_is_opened_as_it_is(family) -> None:
    pipe = tiny.pipeline(family)
    model = open_model(pipe)
    assert model.family == family
    assert model.pipeline is pipe
    assert open_model(pipe) is model


def test_an_edit_stays_on_until_it_is_removed() -> None:
    """Edits go in any order, and with the last every weight is bitwise what it was."""
    pipe = tiny.pipeline("sd1")
    own = weights(pipe)
    first, second = (UCE().erase(open_model(pipe), Request((word,), ("cat",))) for word in ("dog", "sun"))
    handle = first.apply_to(pipe)
    alone = weights(pipe)
    other = second.apply_to(pipe)
    assert not same(own, alone)
    assert not same(alone, weights(pipe))
    assert handle.is_applied
    handle.remove()
    handle.remove()
    only_second = weights(pipe)
    other.remove()
    assert same(own, weights(pipe))
    again = second.apply_to(pipe)
    assert same(only_second, weights(pipe))
    again.remove()
    assert same(own, weights(pipe))


def test_an_edit_straight_from_a_method_is_saved(tmp_path) -> None:
    """Its origin says what the method was asked, scaled or not."""
    pipe = tiny.pipeline("sd1")
    edit = UCE(lamb=0.3).erase(open_model(pipe), REQUEST)
    assert edit.origin is None
    edit.scaled(0.5).save(tmp_path / "edit.safetensors")
    saved = load_edit(tmp_path / "edit.safetensors")
    assert (saved.origin.method, saved.origin.settings["lamb"], saved.origin.targets) == ("uce", 0.3, ("dog",))
    with saved.applied(open_model(pipe)):
        pass
    other = tiny.pipeline("sd1", seed=1)
    with pytest.raises(EditError, match="apply it to its own base"):
        saved.apply_to(other)
    assert same(weights(other), weights(tiny.pipeline("sd1", seed=1)))


def test_methods_are_at_the_root_by_the_names_of_their_classes() -> None:
    from unconcept.methods import methods

    for name in methods:
        kind = methods[name].settings
        assert getattr(unconcept, kind.__name__) is kind


def test_another_pipeline_is_refused() -> None:
    with pytest.raises(ModelError, match="a object in memory is not a supported model"):
        open_model(object())


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: unconcept.erase("dog", limit="x"), "erase keyword limit = 'x': input should be a valid integer"),
        (lambda: unconcept.erase(3), "erase keyword concepts = 3: input should be"),
        (lambda: unconcept.evaluate("dog", edits=3, out="o"), "a int is no edit: give a file of one"),
        (lambda: UCE().erase("moji", REQUEST), "uce erases from a model that open_model opened, not from a str"),
        (lambda: Request("dog", "cat"), "targets = 'dog' is one text: write \\('dog',\\)"),
        (lambda: Request(("dog",), ("cat",), "sun"), "retain = 'sun' is one text"),
        (lambda: open_model(""), "model '' is not a diffusers folder"),
    ],
)
def test_what_is_of_the_wrong_type_is_refused(call, told) -> None:
    with pytest.raises(unconcept.UnconceptError, match=told) as error:
        call()
    assert len(str(error.value).splitlines()) == 1


def test_a_missing_keyword_is_named() -> None:
    with pytest.raises(SettingsError, match="attack: missing a required argument: 'name'"):
        unconcept.attack("dog", edits="edit.safetensors", out="o")


def test_a_folder_is_no_edit(tmp_path) -> None:
    with pytest.raises(EditError, match=r"is a folder: give the edit\.safetensors in it"):
        load_edit(tmp_path)


def test_jobs_take_a_pipeline_and_edits_in_memory(tmp_path) -> None:
    pipe = tiny.pipeline("sd1")
    own, clip = weights(pipe), tiny.clip_folder(tmp_path / "clip")
    made = unconcept.erase("dog", anchors="cat", model=pipe, report=False, out=tmp_path / "dog", strength=0.5)
    assert made.edit.origin.targets == ("dog",)
    assert (made.out / "edit.safetensors").exists()
    told = {"model": pipe, "judge": f"clip-score={clip}", "limit": 1, "workers": 1, "store": tmp_path / "store"}
    report = unconcept.evaluate("dog", edits=made.edit, suite="smoke", out=tmp_path / "e", **told)
    assert report.status == "ok"
    report = unconcept.attack("dog", name="wordings", edits=[made.edit], out=tmp_path / "a", **told)
    assert [row["attack"] for row in report.data()["trials"][0]["attacks"]] == ["wordings"]
    assert same(own, weights(pipe))


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_so(tmp_path) -> None:
    """In one line, where workers would import the script and run it again."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import os
            os.environ["UNCONCEPT_STORE"] = {str(tmp_path / "store")!r}
            import unconcept
            made = unconcept.erase("dog face", report=False, out={str(tmp_path / "dog")!r})
            edit = made.out / "edit.safetensors"
            unconcept.evaluate("dog face", edits=edit, suite="smoke", limit=1, workers=2, out={str(tmp_path / "e")!r})
            """
        ),
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "RequestError" in line]
    assert "draws in worker processes" in line
    assert "pass workers=1" in line


def test_moji_is_a_plain_diffusers_folder() -> None:
    """The stock pipeline draws from it without any argument, in float32."""
    from diffusers import StableDiffusionPipeline

    from unconcept.models import find_model

    pipe = StableDiffusionPipeline.from_pretrained(find_model("moji"))
    pipe.set_progress_bar_config(disable=True)
    assert {part.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.float32}
    pictures = pipe("a dog face", num_inference_steps=2, guidance_scale=4.0, output_type="pt").images
    assert bool(torch.isfinite(pictures).all())
