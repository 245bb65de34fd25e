"""`benchmarks.classifiers`: its figures, and a page of whatever is measured."""

import json

import pytest
import torch
from torch import nn

from benchmarks import classifier_claims, classifier_figures, classifier_page, classifiers
from unconcept.core.errors import DataError
from unconcept.training.forgetting.examples import LabelledImages


def images(x, y):
    return LabelledImages(torch.tensor(x), torch.tensor(y))


def test_membership_counts_pairs() -> None:
    network = nn.Identity()
    inside, outside = images([[3.0, 0.0], [1.0, 0.0]], [0, 0]), images([[2.0, 0.0], [1.0, 0.0]], [0, 0])
    assert classifier_figures.membership_auc(network, inside, outside) == pytest.approx((1 + 1 + 0 + 0.5) / 4)


def test_what_is_known_needs_no_relearning_and_the_network_is_left_alone() -> None:
    torch.manual_seed(0)
    network = nn.Linear(2, 2)
    own = images([[1.0, 0.0], [0.0, 1.0]] * 8, [0, 1] * 8)
    before = network.weight.clone()
    with torch.no_grad():
        wrong = nn.Linear(2, 2)
        wrong.weight.copy_(torch.tensor([[0.0, 0.1], [0.1, 0.0]]))
        wrong.bias.zero_()
    assert 0 < classifier_figures.relearning_steps(wrong, own, own, own) <= classifier_figures.MOST_RELEARNING_STEPS
    classifier_figures.relearning_steps(network, own, own, own)
    assert torch.equal(network.weight, before)


def test_adversarial_images_stay_within_eps_and_raise_the_loss() -> None:
    torch.manual_seed(0)
    network, own = nn.Linear(4, 3), images([[0.5] * 4] * 6, [0, 1, 2] * 2)
    moved = classifier_figures.adversarial(network, own, 0.1, 5)
    assert float((moved - own.x).abs().max()) == pytest.approx(0.1, abs=1e-6)
    losses = [classifier_figures.sample_losses(network, x, own.y) for x in (own.x, moved)]
    assert bool((losses[1] > losses[0]).all())


def test_a_page_says_what_is_missing_and_which_claims_are_met() -> None:
    tasks = [
        {"forgotten": f, "earlier": e, "remaining": r, "all": 0.5} for f, e, r in ((0.0, None, 1.0), (0.2, 0.0, 0.9))
    ]
    found = {f"sequence/gs-lora/digits/vit/{seed}": {"tasks": tasks} for seed in range(2)}
    found["sequence/gs-lora/digits/cnn/0"] = {"refused": "has no feed-forward layers"}
    page = classifier_page.page(found, 1.0, 7)
    assert "Not measured yet: 7 of 10 trials" in page
    assert "| gs-lora, digits, vit: forgotten at most 5 % at the last request | 20.0%, 20.0% | 0 of 2 |" in page
    assert "| gs-lora, digits, vit: earlier ones at most 5 % then | 0.0%, 0.0% | 2 of 2 |" in page
    assert "n/a: has no feed-forward layers" in page
    assert classifier_claims.of(found, "sequence/gs-lora/digits/cnn/") == [{"refused": "has no feed-forward layers"}]


def test_a_trial_is_kept_until_its_code_changes(tmp_path, monkeypatch) -> None:
    path, runs = tmp_path / "a" / "b.json", []

    def run():
        runs.append(1)
        return {"figure": len(runs)}

    assert classifiers.measured(path, run, False) is None
    assert classifiers.measured(path, run, True)[0] == {"figure": 1}
    assert classifiers.measured(path, run, False)[0] == {"figure": 1}
    kept = json.loads(path.read_text())
    path.write_text(json.dumps(kept | {"source": "of other code"}))
    assert classifiers.measured(path, run, True)[0] == {"figure": 2}

    def without_data():
        raise DataError("the digits need scikit-learn")

    assert classifiers.measured(tmp_path / "c.json", without_data, True) is None
    names = [name for name, _ in classifiers.trials(tmp_path)]
    assert len(names) == len(set(names)) > 80
