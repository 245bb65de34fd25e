"""Which rows hold a text's own tokens, and which text a denoiser's states came from."""

import pytest
import torch

from tests import tiny
from unconcept.models import Conditioning
from unconcept.models.hooks.forward import watch_text_states
from unconcept.models.text.prompt_tracking import MOST_TRACKED_TEXTS, track_prompts
from unconcept.models.text.state_rows import content_positions, positions_after

EVERY = (*tiny.FAMILIES, *tiny.MMDITS)


@pytest.mark.parametrize(
    ("family", "own", "behind"),
    [
        ("sd1", [range(1, 4)], [4, 5]),
        ("sdxl", [range(1, 4)], [4, 5]),
        # T5 has a token for what stands before a word, and none at the start.
        ("sd3", [range(1, 4), range(24, 28)], [4, 5, 28, 29]),
        ("flux", [range(4)], [4, 5]),
    ],
)
def test_own_rows(family, own, behind) -> None:
    view = tiny.shared(family)
    assert list(content_positions(view, "dog")) == own
    assert positions_after(view, "dog", 2) == behind
    states = view.embed(["dog", "dox"], at="all")
    assert (states[0, own[0][-1]] - states[1, own[0][-1]]).abs().max() > 1e-6


def test_rows_behind_end_with_the_encoder() -> None:
    assert positions_after(tiny.shared("sd1"), "a" * 20, 16) == [21, 22, 23]


@pytest.mark.parametrize("family", EVERY)
def test_states_know_their_text(family) -> None:
    """As given to the denoiser, in any order, beside states that no text gave."""
    view, texts = tiny.shared(family), ["a dog", "", "red car"]
    wanted = [tuple(row) for row in view.tokenizer(texts).padded()]
    with torch.no_grad():
        outside = view.condition(["a fox"])
        with track_prompts(view) as ids_of:
            assert ids_of(outside.states) == [None]
            given = view.condition(texts)
            assert ids_of(given.states) == wanted
            assert ids_of(given.states[[2, 0, 0]]) == [wanted[2], wanted[0], wanted[0]]
            assert ids_of(torch.cat([outside.states, given.states[:1] + 1e-3, given.states[1:2]])) == [
                None,
                None,
                wanted[1],
            ]


@pytest.mark.parametrize("family", EVERY)
def test_the_samplers_prompts_are_known_too(family) -> None:
    view, seen = tiny.shared(family), []
    with (
        track_prompts(view) as ids_of,
        watch_text_states(view.modules("denoiser"), lambda states: seen.append(ids_of(states))),
    ):
        view.sample(["a dog"], torch.randn(1, *view.latent_shape), 2, 3.0)
    dog, empty = (tuple(row) for row in view.tokenizer(["a dog", ""]).padded())
    assert len(seen) >= 2
    # SDXL's empty side is zeros, which no text gave; a distilled FLUX has none.
    assert all(set(rows) <= {dog, empty, None} and dog in rows for rows in seen)


def test_old_texts_are_forgotten() -> None:
    view = tiny.shared("sd1")
    with torch.no_grad(), track_prompts(view) as ids_of:
        first = view.condition(["a dog"])
        for start in range(0, MOST_TRACKED_TEXTS, 512):
            view.condition([f"{i}" for i in range(start, start + 512)])
        assert ids_of(first.states) == [None]
        assert isinstance(first, Conditioning)
