"""ACE against a plain trainer written out, on noise, v and flow predictions, and the properties of its paper."""

import json

import pytest
import torch
from torch.nn.utils import parametrize

from tests import tiny
from tests.methods.plain_trainer import second_model
from tests.methods.test_spm import Beside
from unconcept.core import Request
from unconcept.core.errors import DataError, RequestError, SettingsError
from unconcept.core.settings import build_settings
from unconcept.edits import LowRankEdit
from unconcept.methods.ace import ACE
from unconcept.models import Conditioning
from unconcept.models.diffusion.sampler import Sampler
from unconcept.models.model_view import PromptGuidance
from unconcept.training import TrainingSession, training_session

CONTRACT_SETTINGS = {"iterations": 3, "ddim_steps": 2, "lr": 0.01}

EVERY = (*tiny.FAMILIES, *tiny.MMDITS)
REQUEST = Request(("dog",), ("hat",), ("cat", "sun"))
QUICK = {"iterations": 2, "ddim_steps": 3, "lr": 1e-2, "start_guidance": 2.0}
MORE = {"negative_guidance": 1.5, "surrogate_guidance": 2.0, "null_weight": 0.6, "pl_weight": 0.3, "rank": 2}


def erased(view, request=REQUEST, **settings):
    losses = []
    with training_session(TrainingSession(lambda progress: losses.append(progress.loss * progress.done))):
        edit = ACE(**{**QUICK, **settings}).erase(view, request)
    return edit, [now - before for now, before in zip(losses, [0.0, *losses], strict=False)]


@torch.no_grad()
def encoded(view, text):
    """One row; nothing is what the pipeline guides away from: SDXL's zeros, else the encoded empty text."""
    found = view.condition([text])
    if view.family != "sdxl" or text:
        return found
    return Conditioning(torch.zeros_like(found.states), torch.zeros_like(found.pooled), found.time_ids)


@torch.no_grad()
def trajectory(student, k, stop, seed):
    """The student's latents after `stop` of three steps under the target, and the timestep after k."""
    sampler = Sampler(student, 3, None if student.schedule.prediction_type == "flow" else "ddim")
    noise = torch.randn(1, *student.latent_shape, generator=torch.Generator().manual_seed(seed)).to(student.dtype)
    away = Conditioning.concatenate([encoded(student, ""), encoded(student, "dog")])
    distilled = student.family == "flux"  # dev's kind has no second prediction
    guidance = PromptGuidance(encoded(student, "dog")) if distilled else PromptGuidance(away, 2.0)
    return sampler.denoise(noise, guidance, 0, stop), sampler.timesteps[k].reshape(1)


def plainly(view, anchors, settings, scores=None, to_end=False):
    """Equations of the paper, each prediction asked for alone, of a whole second model whose weights are
    reparametrised; torch's Adam: changes and losses. `anchors` has the two of each step.
    """
    student = second_model(view)
    begun = ACE(**{**QUICK, **settings, "iterations": 0}).erase(view, REQUEST).pairs
    pairs = {}
    for full, (up, down) in begun.items():
        module = student.modules("denoiser").get_submodule(full.partition(".")[2].removesuffix(".weight"))
        pairs[full] = Beside(torch.zeros_like(up), down, 1 / settings["rank"])
        parametrize.register_parametrization(module, "weight", pairs[full], unsafe=True)
    rule = torch.optim.Adam([p for pair in pairs.values() for p in pair.parameters()], lr=QUICK["lr"])
    rng, losses = torch.Generator().manual_seed(0), []
    n, s, l_0, l_p = (settings[name] for name in list(MORE)[:4])
    for both in anchors:
        k = int(torch.randint(0, 3, (), generator=rng))
        x, t = trajectory(student, k, 3 if to_end else k, int(torch.randint(2**31, (1,), generator=rng)))
        with torch.no_grad():
            e_0, e_p, *e_j = (view.denoise(x, t, encoded(view, text)) for text in ("", "dog", *both))
        said_0, said_p, *said_j = (student.denoise(x, t, encoded(view, text)) for text in ("", "dog", *both))
        shares = [1.0 if scores is None else scores[text] / scores["dog"] for text in both]
        shared = sum(w * (e - e_0) for w, e in zip(shares, e_j, strict=True))
        conditional = (said_p - (e_0 - n * (e_p - e_0))).square().mean()
        unconditional = (said_0 - (e_0 + n * (e_p - e_0) - s * shared)).square().mean()
        prior = sum((a - b).square().mean() for a, b in zip(said_j, e_j, strict=True)) / 2
        loss = (1 - l_p) * (l_0 * unconditional + (1 - l_0) * conditional) + l_p * prior
        rule.zero_grad()
        loss.backward()
        rule.step()
        losses.append(loss.item())
    return {full: (pair.scale * pair.up @ pair.down).detach() for full, pair in pairs.items()}, losses


def require_plain(view, edit, losses, changes, plain):
    assert losses == pytest.approx(plain, rel=1e-4 if view.family in tiny.MMDITS else 1e-6)
    assert edit.pairs.keys() == changes.keys()
    apart = sum((up @ down - changes[name]).square().sum() for name, (up, down) in edit.pairs.items())
    assert apart < 1e-5 * sum(change.square().sum() for change in changes.values())


@pytest.mark.parametrize("family", EVERY)
def test_is_the_plain_trainer(family) -> None:
    """With two retained texts each step has both."""
    view = tiny.view(family)
    require_plain(view, *erased(view, **MORE), *plainly(view, [("cat", "sun")] * 2, MORE))


def test_as_the_authors_train_latents_are_finished_whatever_the_timestep() -> None:
    view = tiny.view("sd1")
    edit, losses = erased(view, **MORE, compat="authors")
    require_plain(view, edit, losses, *plainly(view, [("cat", "sun")] * 2, MORE, to_end=True))


def test_relevance_weighs_the_correction(tmp_path) -> None:
    """The authors' form of file: two objects, of which the first has the scores."""
    view, scores = tiny.view("sd1"), {"dog": 0.3, "cat": 0.24, "sun": 0.06}
    path = tmp_path / "clip.json"
    path.write_text(json.dumps([scores, {"cat": 9.0}]))
    edit, losses = erased(view, **MORE, sc_clip_path=str(path))
    require_plain(view, edit, losses, *plainly(view, [("cat", "sun")] * 2, MORE, scores))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ('{"dog": 1}', "begin with an object"),
        ('[{"dog": 0.3, "cat": 0.1}]', "no score of 'sun'"),
        ('[{"dog": 0.3, "cat": "x", "sun": 0.1}]', "'cat' is 'x'"),
        ('[{"dog": 0, "cat": 0.1, "sun": 0.1}]', "'dog' is 0"),
    ],
)
def test_scores_that_cannot_be_read(tmp_path, text, message) -> None:
    path = tmp_path / "clip.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        erased(tiny.shared("sd1"), sc_clip_path=str(path))
    with pytest.raises(DataError, match="absent"):
        erased(tiny.shared("sd1"), sc_clip_path=str(tmp_path / "absent.json"))


@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd3"])
def test_first_losses(family) -> None:
    """(n + 1)^2 MSE(e_p, e_0) for the conditional side, n^2 of it for the other if uncorrected, 0 for the rest."""
    view = tiny.view(family)
    bare = {"surrogate_guidance": 0.0, "iterations": 1}
    conditional = erased(view, null_weight=0.0, pl_weight=0.0, negative_guidance=3.0, **bare)[1][0]
    unconditional = erased(view, null_weight=1.0, pl_weight=0.0, negative_guidance=3.0, **bare)[1][0]
    assert conditional == pytest.approx(16 / 9 * unconditional, rel=1e-4)
    assert erased(view, pl_weight=1.0, **bare)[1] == pytest.approx([0.0], abs=1e-9)


def test_a_correction_by_the_target_itself_leaves_nothing_to_do() -> None:
    """c_j = c_p with w = 1 and equal guidances: the unconditional side is wanted as it is."""
    goal = ACE(negative_guidance=2.0, surrogate_guidance=2.0).null_goal("dog", "", {"dog": 1.0})
    assert {text: weight for text, weight in goal.weights.items() if weight} == {"": 1.0}


def test_without_correction_null_and_prior_it_is_esd_on_adapters() -> None:
    """The same first gradient step as the conditional loss alone."""
    view = tiny.view("sd1")
    alone = {"null_weight": 0.0, "pl_weight": 0.0, "surrogate_guidance": 0.0, "negative_guidance": 1.5, "rank": 2}
    edit, losses = erased(view, Request(("dog",), ("",)), **alone)
    require_plain(view, edit, losses, *plainly(view, [("cat", "sun")] * 2, alone))


def test_what_cannot_do_without_retained_texts() -> None:
    view = tiny.shared("sd1")
    with pytest.raises(RequestError, match=r"ace: no retained text .* --retain"):
        erased(view, Request(("dog",), ("",)))
    with pytest.raises(RequestError, match=r"ace: no retained text"):
        erased(view, Request(("dog",), ("",), ("",)))


def test_a_style_is_told_from_what_its_texts_depict() -> None:
    """About its anchor, both sides learn of what the two texts do not share."""
    goal = ACE(reference="anchor", negative_guidance=2.0).null_goal("ink wolf", "flat wolf", {"cat": 0.5})
    assert dict(goal.weights) == {"": 2.5, "ink wolf": 2.0, "flat wolf": -2.0, "cat": -1.5}


def test_calls_of_the_denoiser() -> None:
    """After guided steps of the student, one call of the teacher and one of the student: null, target, two anchors."""
    view = tiny.view("sd1", torch.float32)
    rows = []
    view.modules("denoiser").register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    erased(view, iterations=1, compat="authors", batch_size=2)
    assert rows == [4, 4, 4, 8, 8]


def test_sdxls_unconditional_side_is_the_pipelines_zeros() -> None:
    view, seen = tiny.view("sdxl", torch.float32), []
    view.modules("denoiser").register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(
            (kwargs["encoder_hidden_states"] == 0).all((1, 2))
            & (kwargs["added_cond_kwargs"]["text_embeds"] == 0).all(1)
        ),
        with_kwargs=True,
    )
    erased(view, iterations=1, compat="authors")
    assert [call.tolist().count(True) for call in seen] == [1] * 5


@pytest.mark.slow
def test_guidance_of_others_no_longer_leads_to_the_target() -> None:
    """The inner product of an unrelated text's guidance with the target's falls, as the empty text moves to it."""
    view = tiny.view("sd1")
    edit, _ = erased(view, iterations=40, lr=5e-3, surrogate_guidance=0.0)
    x = torch.randn(1, 4, 8, 8, dtype=view.dtype, generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def guided(text):
        said, empty = (view.denoise(x, torch.tensor([500]), [each]) for each in (text, ""))
        return said - empty

    towards, before = guided("dog"), guided("sky")
    with edit.applied(view):
        after = guided("sky")
    assert float((after * towards).sum()) < float((before * towards).sum())


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("iterations", -1),
        ("lr", -1.0),
        ("rank", 0),
        ("alpha", 0.0),
        ("batch_size", 0),
        ("ddim_steps", 0),
        ("anchor_batch_size", 0),
        ("null_weight", 1.5),
        ("pl_weight", -0.1),
        ("surrogate_guidance", -1.0),
        ("negative_guidance", -1.5),
        ("start_guidance", -1.0),
        ("compat", "theirs"),
        ("reference", "nothing"),
    ],
)
def test_settings_out_of_range(setting, value) -> None:
    with pytest.raises(SettingsError, match=setting):
        build_settings(ACE, {setting: value})


def test_golden_losses() -> None:
    """A change of these numbers is a change of behaviour."""
    edit, losses = erased(tiny.view("sd1"), iterations=5)
    assert isinstance(edit, LowRankEdit)
    assert losses == pytest.approx(LOSSES, rel=1e-4)
    assert sum(float((up @ down).square().sum()) for up, down in edit.pairs.values()) ** 0.5 == pytest.approx(
        NORM, rel=1e-4
    )


LOSSES = [0.0005789008, 0.0019227954, 0.00075073441, 0.002327306, 0.0019420198]
NORM = 0.2385655
