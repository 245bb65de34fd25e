"""Whether an edit holds on derivatives of its base: figures written out, verdicts, one table, and what is refused."""

import json
import shutil

import pytest
import torch

import unconcept
from tests import tiny
from tests.cli.test_bad_models import refused
from unconcept.core.errors import EditError, ModelError, SettingsError, UsageError
from unconcept.core.request import RequestSpec
from unconcept.edits import load_edit
from unconcept.erasing.make_edit import make_edit
from unconcept.erasing.request_defaults import resolve_request
from unconcept.jobs.command_options import RecheckOptions
from unconcept.jobs.derivatives.recheck import drawn_concepts, recheck
from unconcept.jobs.edit_base import record_base
from unconcept.jobs.plans import plan_command
from unconcept.models import open_model

ASK = RequestSpec(("dog", "moon"), ("cat",), ("sun",))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An edit beside its base, and derivatives: tuned a little, edited, half merged with the edited one, unrelated."""
    place = tmp_path_factory.mktemp("derived")
    own = tiny.pipeline("sd1")
    own.save_pretrained(place / "own")
    view = open_model(str(place / "own"), "cpu", "float32")
    edit = make_edit(view, resolve_request(ASK, "tiny"), "uce", {"lamb": 1e-4})
    edit.save(place / "uce.safetensors")
    record_base(place, str(place / "own"))

    def derive(name, change) -> None:
        pipe = tiny.pipeline("sd1")
        with torch.no_grad():
            change(pipe)
        pipe.save_pretrained(place / "all" / name)

    def move(pipe, share) -> None:
        for name in edit.names:
            w = pipe.unet.get_parameter(name.removeprefix("unet."))
            w += share * edit.delta(name, w).to(w)

    def tune(pipe) -> None:
        generator = torch.Generator().manual_seed(0)
        for w in pipe.unet.parameters():
            w += 0.02 * w.std() * torch.randn(w.shape, generator=generator) if w.numel() > 1 else 0

    derive("edited", lambda pipe: move(pipe, 1))
    derive("merged", lambda pipe: move(pipe, 0.5))
    derive("tuned", tune)
    derive(
        "unrelated", lambda pipe: pipe.text_encoder.load_state_dict(tiny.pipeline("sd1", 1).text_encoder.state_dict())
    )
    tiny.folder("sdxl", place / "sdxl")
    return place


def test_one_table_for_a_folder_of_derivatives(place) -> None:
    found = recheck(RecheckOptions(edit=place / "uce.safetensors", folder=place / "all"))
    told = {(check.model.rpartition("/")[2], check.concept): check for check in found.checks}
    assert len(told) == 8
    for concept in ASK.targets:
        assert told["edited", concept].as_it_is < 0.05
        assert told["edited", concept].verdict == "in its weights"
        assert told["merged", concept].as_it_is == pytest.approx(0.5, abs=0.05)
        assert told["tuned", concept].as_it_is == pytest.approx(1, abs=0.1)
        assert told["tuned", concept].residual < 0.1
        assert told["tuned", concept].verdict == "holds"
        assert told["unrelated", concept].verdict == "lost"
        assert told["tuned", concept].drift > 0
    assert not found.holds
    assert recheck(RecheckOptions(edit=place / "uce.safetensors", models=str(place / "all/tuned"))).holds


@torch.no_grad()
def test_figures_are_distances_of_what_text_maps_make(place) -> None:
    """Written out for one concept on the tuned derivative."""
    view, base = (open_model(str(place / name), "cpu", "float32") for name in ("all/tuned", "own"))
    edit = load_edit(place / "uce.safetensors")

    def read(model, text, edited=False):
        (row,) = model.embed([text])
        maps = model.text_maps().items()
        return torch.cat([row @ (w + edit.delta(n, w) if edited else w).T for n, w in maps])

    (check, _) = recheck(RecheckOptions(edit=place / "uce.safetensors", models=[str(place / "all/tuned")])).checks
    way = read(base, "cat") - read(base, "dog")
    gone = way @ (read(view, "dog") - read(base, "dog")) / way.square().sum()
    assert check.as_it_is == pytest.approx(1 - float(gone), rel=1e-4)
    gap = (read(view, "dog") - read(view, "cat")).norm()
    left = (read(view, "cat") - read(view, "dog", edited=True)).norm()
    assert check.residual == pytest.approx(float(left / gap), abs=1e-6)  # 1e-5 is left, in float32


def test_the_command_and_the_verb(place, capsys) -> None:
    from typer.testing import CliRunner

    from unconcept.cli import app

    words = ["recheck", str(place / "uce.safetensors"), "--model", str(place / "all/tuned")]
    done = CliRunner().invoke(app, [*words, "--json", "--quiet"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["holds"] is True
    assert [check["verdict"] for check in told["checks"]] == ["holds", "holds"]
    done = CliRunner().invoke(app, [*words, "--model", str(place / "all/unrelated"), "--quiet"])
    assert done.exit_code == 1
    assert "lost" in done.output
    found = unconcept.recheck(load_edit(place / "uce.safetensors"), models=tiny.pipeline("sd1"))
    assert found.holds


def test_without_its_base_nothing_tells_whether_it_is_in_the_weights(place, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("UNCONCEPT_STORE", str(tmp_path / "store"))  # which may remember a base with the same weights
    shutil.copy(place / "uce.safetensors", tmp_path)
    found = recheck(RecheckOptions(edit=tmp_path / "uce.safetensors", models=str(place / "all/edited")))
    assert {check.as_it_is for check in found.checks} == {None}
    assert "own base is not found" in found.notes[0]


def test_what_is_refused(place, tmp_path) -> None:
    """Alone in one line; in a collection it is a row, and the others are checked."""
    edit = place / "uce.safetensors"
    (tmp_path / "both").mkdir()
    shutil.copytree(place / "sdxl", tmp_path / "both/sister")
    shutil.copytree(place / "all/tuned", tmp_path / "both/tuned")
    shutil.copytree(place / "all/tuned", tmp_path / "both/torn")
    (tmp_path / "both/torn/unet/diffusion_pytorch_model.safetensors").unlink()
    packed = tmp_path / "both/packed"
    shutil.copytree(place / "all/tuned", packed)
    config = packed / "unet/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": {"quant_method": "gguf"}}))
    found = recheck(RecheckOptions(edit=edit, folder=tmp_path / "both"))
    assert sorted(name.rpartition("/")[2] for name in found.failed) == ["packed", "sister", "torn"]
    assert {check.verdict for check in found.checks} == {"holds"}
    assert not found.holds
    plan = plan_command(RecheckOptions(edit=edit, folder=tmp_path / "both"))
    assert [step.what.rpartition("/")[2] for step in plan.steps[2:]] == ["tuned"]
    assert all(name in plan.facts["not checked"] for name in found.failed)
    faults = [
        ({"models": str(place / "sdxl")}, EditError, "was made for a sd1 model, and .* is one of sdxl"),
        ({"models": str(packed)}, ModelError, "names quantised weights"),
        ({"models": str(tmp_path / "both/torn")}, UsageError, "unet"),
        ({"models": str(tmp_path / "none")}, ModelError, "nor an existing path"),
        ({}, SettingsError, "no model: name a derivative"),
        ({"folder": tmp_path / "none"}, ModelError, "is no folder"),
        ({"models": str(place / "own"), "pictures": 1}, SettingsError, "--pictures and --out go together"),
        ({"models": str(place / "own"), "judge": "nudenet"}, SettingsError, "--judge goes with --pictures"),
    ]
    for given, kind, said in faults:
        with pytest.raises(kind, match=said) as error:
            recheck(RecheckOptions(edit=edit, **given))
        assert len(str(error.value).splitlines()) == 1
    refused(tmp_path / "o", "recheck", edit, "--model", place / "sdxl", "--pictures", 1, said="is one of sdxl")


def test_pictures_are_asked_of_concepts_and_not_of_their_synonyms() -> None:
    """A request of an embedded model erases synonyms too, which its table has no questions of."""
    texts = ("dog face", "puppy face", "doggy")
    assert drawn_concepts("moji", texts) == ["dog face"]
    assert drawn_concepts("some/folder", texts) == list(texts)
    with pytest.raises(SettingsError, match="knows none of puppy face, doggy"):
        drawn_concepts("moji", texts[1:])
