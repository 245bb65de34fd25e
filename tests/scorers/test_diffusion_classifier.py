"""The denoiser as a judge: brute force, a toy whose posterior is known, and an edited model that it refuses."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests import tiny
from unconcept.core import Request
from unconcept.core.errors import ModelError, SettingsError
from unconcept.methods.adavd import AdaVD
from unconcept.methods.uce import UCE
from unconcept.models import Conditioning
from unconcept.models.diffusion.noise_schedule import NoiseSchedule
from unconcept.models.diffusion.vae import picture_size
from unconcept.models.families import FAMILIES
from unconcept.prompts.checks import Check, Prompt
from unconcept.scorers import NOTHING_LABEL, scorers
from unconcept.scorers.diffusion_classifier import ClassifierSettings, DiffusionClassifier, ask_classifier

FEW = ClassifierSettings(draws=(1, 3), keep=1, neighbours=2)
LABELS = ("dog", "cat", "fox", "bird")
MEANS = {"a dog": 3.0, "a cat": -3.0, "a fox": 6.0, "a bird": -6.0, "a object": 0.0, "": 0.0}  # of the toy's pixels


def check(text: str, concept: str, by: str = "object", among: tuple[str, ...] = ()) -> Check:
    return Check(Prompt(text, 0), "direct", concept, by, (concept,), among)


def picture(seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_judges_by_its_own_prediction(family) -> None:
    model = tiny.shared(family)
    judge = DiffusionClassifier(model, "key", LABELS, targets=("dog",), settings=FEW)
    seen = torch.rand(2, 3, *picture_size(model), generator=torch.Generator().manual_seed(0))
    question = ask_classifier(check("a cat", "cat"))
    rows = judge.score(seen, [question] * 2)
    assert rows == judge.score(seen, [question] * 2), "an image's score depends on it alone"
    assert rows[1:] == judge.score(seen[1:], [question])
    assert {*rows[0]["errors"]} == {"cat", "dog", *judge.candidates(question)[1]}
    assert json.loads(json.dumps(rows)) == rows


def test_errors_are_the_card_written_out() -> None:
    """Equation: the mean over draws of |eps - eps_hat|^2 at z_t = sqrt(abar) z_0 + sqrt(1 - abar) eps, no guidance."""
    model = tiny.shared("sd1")
    judge = DiffusionClassifier(model, "key", LABELS, settings=replace(FEW, draws=(3,)))
    clean = torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(1)).to(model.dtype)
    noises = torch.randn(3, *model.latent_shape, generator=torch.Generator().manual_seed(2)).to(model.dtype)
    (found,) = judge.errors(clean, noises, judge.steps, ["a dog"])
    bars = model.modules("scheduler").alphas_cumprod
    for error, noise, t in zip(found, noises, judge.steps.tolist(), strict=True):
        z_t = bars[t].sqrt() * clean[0] + (1 - bars[t]).sqrt() * noise
        with torch.no_grad():
            said = model.denoise(z_t[None].to(model.dtype), torch.tensor([t]), ["a dog"])[0]
        assert error == pytest.approx(float((said - noise).square().mean()), rel=1e-4)


class Toy:
    """A model whose clean latents under a text are N(mean, 1): its best noise prediction is known."""

    def __init__(self, kind: str) -> None:
        bars = torch.linspace(0.999, 0.01, 1000, dtype=torch.float64)
        alpha, sigma = bars.sqrt(), (1 - bars).sqrt()
        if kind == "flow":
            sigma = torch.linspace(0, 1, 1001, dtype=torch.float64)
            alpha = 1 - sigma
        self.schedule, self.dtype, self.device = NoiseSchedule(alpha, sigma, kind), torch.float64, torch.device("cpu")
        self.latent_shape, self.original_weights, self.tokenizers, self.calls = (1, 4, 4), {}, (), 0
        self.vae = SimpleNamespace(config=SimpleNamespace(block_out_channels=(1,)))

    def condition(self, texts):
        return Conditioning(torch.tensor([[[MEANS[text]]] for text in texts], dtype=torch.float64))

    def embed(self, texts, at="last_subject"):
        return torch.tensor([[MEANS[f"a {text}"], 1.0] for text in texts], dtype=torch.float64)

    def denoise(self, x_t, t, given):
        self.calls += len(x_t)
        a, s = (level[t.round().long()].view(-1, 1, 1, 1) for level in (self.schedule.alpha, self.schedule.sigma))
        mean = given.states.view(-1, 1, 1, 1)
        epsilon = s * (x_t - a * mean) / (a * a + s * s)
        return self.schedule.prediction_of(epsilon, x_t, t)


def toy_rows(kind: str, settings: ClassifierSettings, latents: torch.Tensor, monkeypatch):
    """The rows of latents, asked about a cat, with the toy and the judge."""
    model = Toy(kind)
    monkeypatch.setattr("unconcept.scorers.diffusion_classifier.encode_images", lambda model, pictures: pictures)
    judge = DiffusionClassifier(model, "key", LABELS, targets=("dog",), settings=settings)
    model.calls = 0
    question = ask_classifier(check("a cat", "cat"))
    return judge.score(latents, [question] * len(latents)), model, judge


def toy_latents(mean: float, count: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(7)
    return mean + torch.randn(count, 1, 4, 4, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
def test_the_nearest_mean_wins_and_what_is_none_of_them_is_none(kind, monkeypatch) -> None:
    settings = ClassifierSettings(draws=(5, 45))
    for mean, answer in ((3.0, "dog"), (-3.0, "cat"), (0.0, NOTHING_LABEL)):
        rows, _, judge = toy_rows(kind, settings, toy_latents(mean, 20), monkeypatch)
        read = scorers["diffusion-classifier"].reader.read
        answers = [read(judge, row, None) for row in rows]
        assert answers.count(answer) >= 18


def test_all_prediction_types_have_the_same_errors(monkeypatch) -> None:
    """v and noise are forms of one prediction, so the errors of noise agree (a flow has another schedule)."""
    latents = toy_latents(3.0, 2)
    one, two = (toy_rows(kind, ClassifierSettings(), latents, monkeypatch)[0] for kind in ("epsilon", "v_prediction"))
    assert one == two


def test_calls_are_counted_and_losers_are_dropped(monkeypatch) -> None:
    settings = ClassifierSettings(draws=(3, 9), keep=1, neighbours=3)
    (row,), model, _ = toy_rows("epsilon", settings, toy_latents(-3.0, 1), monkeypatch)
    names = list(row["errors"])
    assert model.calls == settings.calls(len(names)) + 1, "and one that shows that the model is unedited"
    brute, _, _ = toy_rows("epsilon", replace(settings, draws=(9,)), toy_latents(-3.0, 1), monkeypatch)
    assert (row["best"], row["z"]) == (brute[0]["best"], brute[0]["z"]), "the winner saw every draw"


def test_staged_and_brute_force_agree(monkeypatch) -> None:
    latents = torch.cat([toy_latents(mean, 25) for mean in (3.0, -3.0, 6.0, -6.0)])
    staged, _, _ = toy_rows("epsilon", ClassifierSettings(draws=(5, 15)), latents, monkeypatch)
    brute, _, _ = toy_rows("epsilon", ClassifierSettings(draws=(15,)), latents, monkeypatch)
    assert sum(one["best"] == two["best"] for one, two in zip(staged, brute, strict=True)) >= 97


def test_the_grids_are_nested_and_centred() -> None:
    settings = ClassifierSettings(draws=(1, 3, 9))
    assert settings.stages == [[4], [1, 7], [0, 2, 3, 5, 6, 8]]
    assert settings.calls(6) == 8 * 1 + 4 * 8


def test_one_text_twice_has_no_lead(monkeypatch) -> None:
    monkeypatch.setitem(MEANS, "a cat", 0.0)
    (row,), _, _ = toy_rows("epsilon", ClassifierSettings(neighbours=0), toy_latents(0.0, 1), monkeypatch)
    assert row["errors"]["cat"] == row["general"]["empty"] == row["general"]["general"]


def test_a_prompt_lends_its_words_to_every_candidate() -> None:
    judge = DiffusionClassifier(tiny.shared("sd1"), "key", LABELS, ("ink", "flat"), ("dog",), FEW)
    asked, texts = judge.candidates(ask_classifier(check("a cat in ink style", "cat")))
    assert asked == ["cat"]
    assert texts["cat"] == "a cat in ink style"
    assert texts["dog"] == "a dog in ink style", "a target is a candidate for every picture"
    _, styles = judge.candidates(ask_classifier(check("a cat in ink style", "ink", "style")))
    assert styles == {"ink": "a cat in ink style", "flat": "a cat in flat style"}, "a style's rivals are styles"
    _, unnamed = judge.candidates(ask_classifier(check("it purrs", "cat")))
    assert unnamed["cat"] == "a cat"
    other_word = replace(check("a kitty in ink style", "cat"), wording="kitty")
    _, worded = judge.candidates(ask_classifier(other_word))
    assert worded["dog"] == "a dog in ink style", "a prompt that says it otherwise lends its words too"
    _, among = judge.candidates(ask_classifier(check("a cat", "cat", among=("cat", "fox"))))
    assert set(among) == {"cat", "fox"}


def test_a_prompt_that_fills_the_encoder_is_asked_plainly() -> None:
    """The pipeline cuts such a prompt; a longer label in it must not end a run."""
    judge = DiffusionClassifier(tiny.shared("sd1"), "key", LABELS, settings=FEW)
    question = ask_classifier(check("a cat " + "that sleeps " * 12, "cat"))
    assert judge.candidates(question)[1]["cat"] == "a cat"
    assert len(judge.score(picture(), [question])) == 1


@pytest.mark.parametrize("method", [UCE(), AdaVD(token_sim=False, eps=-1.0)])
def test_it_never_judges_by_the_edited_model(method) -> None:
    model = tiny.shared("sd1")
    judge = DiffusionClassifier(model, "key", LABELS, settings=FEW)
    question = ask_classifier(check("a cat", "cat"))
    edit = method.erase(model, Request(("dog",), ("cat",)))
    with edit.applied(model), pytest.raises(ModelError, match="use the unedited model"):
        judge.score(picture(), [question])
    if edit.names:
        with edit.applied(model), pytest.raises(ModelError, match="leave its `applied` first"):
            DiffusionClassifier(model, "key", LABELS, settings=FEW)
    assert len(judge.score(picture(), [question])) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"draws": (5, 10)}, "odd factors"),
        ({"draws": (1,)}, "at least 2"),
        ({"draws": ()}, "odd factors"),
        ({"keep": 0}, "keep must be"),
        ({"earliest": 0.9, "latest": 0.5}, "give shares"),
    ],
)
def test_settings_that_make_no_sense(settings, message) -> None:
    with pytest.raises(SettingsError, match=message):
        ClassifierSettings(**settings)
