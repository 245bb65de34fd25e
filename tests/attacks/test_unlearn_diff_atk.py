"""UnlearnDiffAtk against its card, on tiny models."""

from dataclasses import replace

from tests.attacks.cases import case
from unconcept.attacks.unlearn_diff_atk import UnlearnDiffAtk, attack_timesteps

CONTRACT_SETTINGS = {"tokens": 2, "timesteps": 2, "iterations": 2, "batch_size": 2}


def test_timesteps_are_the_papers() -> None:
    assert attack_timesteps(50, 1000)[:3] == [10, 30, 50]
    assert attack_timesteps(50, 1000)[-1] == 990


def test_prefix_keeps_the_prompt_behind_the_tokens() -> None:
    attempts = list(UnlearnDiffAtk(tokens=2, timesteps=1, iterations=1).search(case("sd1")))
    assert attempts[0].inputs[0].text == "a dog in ink"
    assert attempts[1].inputs[0].text.replace(" ", "").endswith("adoginink")
    assert attempts[1].inputs[0].text != "a dog in ink"


def test_a_search_does_not_know_its_neighbours() -> None:
    settings = UnlearnDiffAtk(tokens=2, timesteps=1, iterations=3)
    together = list(settings.search(case("sd1")))[1]
    one_by_one = list(replace(settings, batch_size=1).search(case("sd1")))[1:]
    assert [together.inputs[i].text for i in range(3)] == [
        attempt.inputs[i].text for i, attempt in enumerate(one_by_one)
    ]
