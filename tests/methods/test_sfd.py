"""SFD: a distillation in which the teacher reads the anchor where the student draws a target."""

import dataclasses

import pytest
import torch

from tests import tiny
from tests.cli.test_bad_models import refused
from unconcept.core import Request
from unconcept.core.errors import RequestError, SettingsError
from unconcept.jobs.proofs import proof_of
from unconcept.methods import MethodServices
from unconcept.methods.sfd import SFD
from unconcept.models.diffusion.few_step import FewStepRecord
from unconcept.models.hooks.modules import denoiser_parameters
from unconcept.training import TrainableWeights
from unconcept.training.distillation import distill
from unconcept.training.distillation.rollout import distilled_record
from unconcept.training.goals import TextEncodings

CONTRACT_SETTINGS = {"iterations": 2, "batch_size": 2, "lr": 1e-3, "parameter_group": "kv", "guidance": 1.5}
REQUEST = Request(("dog", "hound"), ("cat", "car"), ("moon",))
QUICK = SFD(**CONTRACT_SETTINGS, templates=("a {}",))


def turbo(step="renoise", teacher="tiny-teacher"):
    """A model of few steps whose record names a teacher."""
    view = tiny.view("sd1")
    view.few_step = dataclasses.replace(distilled_record(625, teacher=teacher), step=step)
    return view


def parts(settings, view, request=REQUEST, teacher=None):
    """The loss that a training would minimise."""
    found = {}

    def keep(trained, loss, plan, about, name):
        found.update(trained=trained, loss=loss, about=about)
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unconcept.methods.sfd.distil", keep)
        settings.erase(view, request, MethodServices(teacher=teacher))
    return found


def test_each_network_reads_its_own_text() -> None:
    view, other, asked = turbo(), tiny.view("sd1"), []
    loss = parts(QUICK, view, teacher=lambda model, name: asked.append((model, name)) or other)["loss"]
    assert asked == [(view, "tiny-teacher")]
    assert loss.nets.teacher is other
    assert loss.nets.rollout.timesteps == (625, 468, 312, 156)
    remain, forget = loss.contexts(0, torch.Generator().manual_seed(0))
    assert {*remain.captions} <= {"a moon", "a cat", "a car"}
    assert remain.captions == remain.teacher == remain.fake
    assert (remain.weight, forget.weight) == (1.0, 0.01)
    assert sorted(forget.captions) == ["a dog", "a hound"]
    assert forget.teacher == [{"a dog": "a cat", "a hound": "a car"}[text] for text in forget.captions]
    assert forget.fake == forget.captions
    overriding = dataclasses.replace(QUICK, overrides_fake=True)
    _, forget = parts(overriding, view, teacher=lambda *given: other)["loss"].contexts(0, torch.Generator())
    assert forget.fake == forget.teacher != forget.captions


def test_a_target_that_is_its_own_anchor_is_plain_distillation() -> None:
    """SFD with c_o = c_f gives SiD's loss on c_f."""
    view, other = turbo(), tiny.view("sd1")
    found = parts(dataclasses.replace(QUICK, forget_weight=1.0), view, REQUEST, lambda *given: other)
    nets, objective = found["loss"].nets, found["loss"].objective
    forget = found["loss"].contexts.forgotten(["a dog"] * 2, ["a dog"] * 2)
    assert forget.captions == forget.teacher == forget.fake
    plain = distill.TextContext.of(["a dog"] * 2)
    with found["trained"].student():
        losses = []
        for context in (forget, plain):
            x = objective.draw(nets, context, torch.Generator().manual_seed(2))
            losses.append(objective.loss(nets, context, x, 0, torch.Generator().manual_seed(3)).item())
    assert losses[0] == losses[1]


def test_without_a_record_the_model_is_its_own_teacher() -> None:
    """Inside the training the scores are the unedited model's, whatever the student is."""
    view, plain = tiny.view("sd1"), tiny.shared("sd1")
    found = parts(dataclasses.replace(QUICK, generation_steps=2), view)
    nets, trained = found["loss"].nets, found["trained"]
    assert nets.rollout.timesteps == (625, 312)
    assert isinstance(trained, TrainableWeights)
    with torch.no_grad():
        for tensor in trained.tensors.values():
            tensor *= 1.5
    x, t = (
        torch.randn(2, *view.latent_shape, generator=torch.Generator().manual_seed(0)).double(),
        torch.tensor([9, 500]),
    )
    context = distill.TextContext.of(["a dog", "a cat"])
    texts = TextEncodings.of(plain)(context.captions)
    with trained.student(), torch.no_grad():
        wanted = plain.schedule.x0(plain.denoise(x, t, texts), x, t)
        assert torch.equal(nets.teacher_clean(context, x, t, 1.0), wanted)
        assert torch.equal(nets.fake_clean(context, x, t, 1.0), wanted)
        assert not torch.allclose(view.denoise(x, t, texts), plain.denoise(x, t, texts))


def test_what_it_cannot_distil_is_one_line() -> None:
    for view, kind, said in (
        (turbo("integrate"), SettingsError, "give a model whose record says renoise"),
        (turbo(teacher=""), SettingsError, "names no teacher"),
        (turbo(), RequestError, "sfd needs tiny-teacher, the teacher of tiny-sd1: give MethodServices.teacher"),
    ):
        with pytest.raises(kind, match=said):
            QUICK.erase(view, REQUEST)
    with pytest.raises(SettingsError, match="batch_size must be > 0"):
        SFD(batch_size=0)
    with pytest.raises(SettingsError, match="steps from timestep"):
        SFD(generation_steps=0)
    assert FewStepRecord({1: (5,)}, "renoise", "none").teacher == ""


def test_models_of_many_steps_are_refused_by_commands(tmp_path) -> None:
    words = ("erase", "guitar", "--method", "sfd", "--model", "moji", "--quiet")
    said = (
        "sfd erases inside the distillation to few steps, and moji has no such record: give a folder with few_step.json"
    )
    refused(tmp_path / "o", *words, said=said)
    assert proof_of("sfd", "sd1") == "algebra tested only"


def test_only_the_chosen_weights_change() -> None:
    view = turbo()
    edit = QUICK.erase(view, REQUEST, MethodServices(teacher=lambda *given: tiny.view("sd1")))
    assert set(edit.names) == {
        name for name in denoiser_parameters(view) if ".attn2.to_k" in name or ".attn2.to_v" in name
    }
