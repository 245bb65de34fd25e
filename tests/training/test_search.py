"""Tokens, rows and layouts: the checks of UnlearnDiffAtk and P4D, and the denoising loss written out."""

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from unconcept.models import Conditioning
from unconcept.models.text.vocabulary import pad_ids, special_ids, text_of_ids, word_ids
from unconcept.training import loss_gradient
from unconcept.training.token_search import (
    FreeTokenSlots,
    TokenVocabulary,
    all_vocabularies,
    denoising_error,
    insert_free_tokens,
    join_prompts,
    project_to_simplex,
    sample_tokens,
    spread_free_tokens,
    straight_through_nearest,
    training_timesteps,
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_projection_onto_the_simplex(scale) -> None:
    rows = scale * torch.randn(2, 3, 500, generator=rng())
    found = project_to_simplex(rows)
    assert (found >= 0).all()
    assert torch.allclose(found.sum(-1), torch.ones(2, 3), atol=1e-5)
    assert torch.allclose(project_to_simplex(found), found, atol=1e-6)


def test_projection_is_the_nearest_point() -> None:
    """Against the sorting algorithm (Held, Wolfe and Crowder 1974)."""
    row = torch.randn(50, generator=rng(), dtype=torch.float64)
    falling = row.sort(descending=True).values
    excess = (falling.cumsum(0) - 1) / torch.arange(1, 51)
    theta = excess[(falling > excess).nonzero().max()]
    assert torch.allclose(project_to_simplex(row), (row - theta).clamp_min(0), atol=1e-12)


def test_projection_leaves_out_what_is_not_allowed() -> None:
    allowed = torch.tensor([True, False, True, True])
    assert torch.allclose(
        project_to_simplex(torch.zeros(1, 4), allowed), torch.tensor([[1 / 3, 0, 1 / 3, 1 / 3]]), atol=1e-6
    )


def test_sampled_tokens_are_one_hot_and_their_gradient_is_clamped() -> None:
    weights = project_to_simplex(torch.randn(2, 3, 20, generator=rng())).requires_grad_()
    upstream = 3 * torch.randn(2, 3, 20, generator=rng(1))
    one_hot = sample_tokens(weights, [rng(0), rng(1)])
    assert set(one_hot.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(one_hot.sum(-1), torch.ones(2, 3))
    assert (weights.detach()[one_hot.bool()] > 0).all()
    assert torch.equal(loss_gradient((one_hot * upstream).sum(), [weights])[0], upstream.clamp(-1, 1))


def test_a_token_does_not_know_its_neighbours() -> None:
    weights = project_to_simplex(torch.randn(2, 3, 20, generator=rng()))
    both, alone = sample_tokens(weights, [rng(0), rng(1)]), sample_tokens(weights[1:], [rng(1)])
    assert torch.equal(both[1:], alone)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_nearest_row_of_a_row_is_itself(family) -> None:
    vocabulary = TokenVocabulary.of(tiny.shared(family))
    ids = vocabulary.is_typable.nonzero()[:, 0]
    assert torch.equal(vocabulary.nearest(vocabulary.vectors(ids)), ids)
    assert torch.equal(vocabulary.nearest(3.5 * vocabulary.vectors(ids)), ids)
    specials = torch.tensor(special_ids(vocabulary.tokenizer))
    assert not set(vocabulary.nearest(vocabulary.vectors(specials)).tolist()) & set(specials.tolist())


def test_the_gradient_goes_through_the_nearest_row_as_it_is() -> None:
    vocabulary = TokenVocabulary.of(tiny.shared("sd1"))
    vectors = torch.randn(2, 3, 32, generator=rng(), dtype=torch.float64).requires_grad_()
    upstream = torch.randn(2, 3, 32, generator=rng(1), dtype=torch.float64)
    found = straight_through_nearest(vectors, vocabulary)
    assert torch.equal(found, vocabulary.vectors(vocabulary.nearest(vectors)))
    assert torch.equal(loss_gradient((found * upstream).sum(), [vectors])[0], upstream)


@pytest.mark.parametrize(
    ("place", "ids", "at"),
    [
        ("prefix", (0, 0, 7, 8, 9, 5), (0, 1)),
        ("suffix", (7, 8, 9, 5, 0, 0), (4, 5)),
        ("mid", (7, 8, 0, 0, 9, 5), (2, 3)),
        ("insert", (0, 7, 8, 0, 9, 5), (0, 3)),
        ("spread", (0, 7, 8, 9, 0, 5), (0, 4)),
    ],
)
def test_layouts(place, ids, at) -> None:
    assert insert_free_tokens((7, 8, 9, 5), 2, place, 20) == FreeTokenSlots(ids, at)


@given(st.integers(0, 40), st.integers(1, 6), st.integers(4, 30))
def test_spread_puts_one_in_front_of_every_few(n, every, room) -> None:
    found = spread_free_tokens(range(1, n + 1), every, room)
    kept = [token for i, token in enumerate(found.ids) if i not in found.free_positions]
    assert len(found.free_positions) == len(kept) // every + 1
    assert kept == list(range(1, len(kept) + 1))
    assert len(found.ids) <= room
    assert len(kept) == n or len(spread_free_tokens(range(1, len(kept) + 2), every, 99).ids) > room
    assert all(place % (every + 1) == 0 for place in found.free_positions)


@given(st.integers(0, 40), st.integers(1, 4), st.sampled_from(["prefix", "suffix", "mid", "insert"]))
def test_a_layout_keeps_the_prompt_in_order_and_fits(n, count, place) -> None:
    found = insert_free_tokens(range(1, n + 1), count, place, 22)
    assert len(found.free_positions) == count
    assert [token for i, token in enumerate(found.ids) if i not in found.free_positions] == list(
        range(1, min(n, 22 - count) + 1)
    )
    tokens = found.fill([91, 92, 93, 94])
    assert [tokens[i] for i in found.free_positions] == [91, 92, 93, 94][:count]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_rows_of_tokens_read_like_the_tokens(family) -> None:
    """Also where a text has fewer free tokens than its neighbour."""
    view = tiny.shared(family)
    vocabulary, ids = TokenVocabulary.of(view), word_ids(view.tokenizer, "a big dog")
    texts = [spread_free_tokens(ids, 3, 22), insert_free_tokens(ids[:2], 1, "prefix", 22)]
    tokens = torch.tensor([[3, 40, 5, 6], [9, 0, 0, 0]])[:, : len(texts[0].free_positions)]
    asked = vocabulary.prompts(texts, vocabulary.rows(tokens))
    given = view.condition(asked)
    for i, text in enumerate(texts):
        filled = text.fill(tokens[i].tolist())
        typed_ids = pad_ids(view.tokenizer, [filled])
        plain = view.condition(vocabulary.prompts([FreeTokenSlots(filled, (0,))], vocabulary.rows(typed_ids[:, 1:2])))
        assert torch.allclose(given.states[i], plain.states[0], atol=1e-12)
        if given.pooled is not None:
            assert torch.allclose(given.pooled[i], plain.pooled[0], atol=1e-12)


@pytest.mark.parametrize("family", tiny.MMDITS)
@pytest.mark.parametrize("kind", ["clip", "t5"])
def test_rows_of_tokens_of_one_kind_read_like_the_tokens(family, kind) -> None:
    """The other kind reads the text; also where a text has fewer free tokens than its neighbour."""
    view = tiny.shared(family)
    own, vocabularies = TokenVocabulary.of(view, kind), all_vocabularies(view)
    ids, typed = word_ids(own.tokenizer, "a big dog"), ["a dog", "sun"]
    texts = [spread_free_tokens(ids, 3, 20), insert_free_tokens(ids[:2], 1, "prefix", 20)]
    tokens = torch.tensor([[4, 14, 5, 6], [9, 0, 0, 0]])[:, : len(texts[0].free_positions)]
    given = view.condition(join_prompts(vocabularies, {kind: own.prompts(texts, own.rows(tokens))}, typed))
    for i, text in enumerate(texts):
        filled = FreeTokenSlots(text.fill(tokens[i].tolist()), ())
        none = [table.new_zeros(1, 0, table.shape[1]) for table in own.tables]
        alone = join_prompts(vocabularies, {kind: own.prompts([filled], none)}, typed[i : i + 1])
        plain = view.condition(alone)
        assert torch.allclose(given.states[i], plain.states[0], atol=1e-12)
        assert torch.allclose(given.pooled[i], plain.pooled[0], atol=1e-12)


def test_t5s_typing_is_the_inverse_of_reading() -> None:
    tokenizer = TokenVocabulary.of(tiny.shared("flux")).tokenizer
    for text in ("a dog", "red car 7", ""):
        assert text_of_ids(tokenizer, word_ids(tokenizer, text)) == text


def test_a_text_fits_into_every_encoder_that_reads_it() -> None:
    view = tiny.shared("flux")
    tokenizer = TokenVocabulary.of(view).tokenizer
    ids = word_ids(tokenizer, "a dog " * 12)
    assert text_of_ids(tokenizer, ids) == ("a dog " * 12).strip()
    assert text_of_ids(tokenizer, ids, view.tokenizers) == ("a dog " * 5).strip() + " a"


def test_t5_types_neither_padding_nor_what_it_does_not_know() -> None:
    vocabulary = TokenVocabulary.of(tiny.shared("flux"))
    assert (~vocabulary.is_typable).nonzero()[:, 0].tolist() == [0, 1, 2]


def test_typing_is_the_inverse_of_reading() -> None:
    tokenizer = tiny.shared("sd1").tokenizer
    for text in ("a dog", "red car 7", ""):
        assert text_of_ids(tokenizer, word_ids(tokenizer, text)) == text
    assert (
        len(tokenizer([text_of_ids(tokenizer, [*[30] * 60, *word_ids(tokenizer, "a") * 60])]).ids[0])
        <= tokenizer.length
    )


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_denoising_error_is_the_training_loss(family) -> None:
    """Noise for sd1 and sdxl, v = alpha noise - sigma x0 for sd2."""
    view = tiny.shared(family)
    x0, noise = (torch.randn(2, 4, 8, 8, generator=rng(i), dtype=torch.float64) for i in (0, 1))
    t, given = torch.tensor([10, 900]), view.condition(["a dog", "cat"])
    found = denoising_error(view, given, x0, noise, t)
    signal = view.pipeline.scheduler.alphas_cumprod.double()
    for i in range(2):
        a, s = signal[t[i]].sqrt(), (1 - signal[t[i]]).sqrt()
        wanted = a * noise[i] - s * x0[i] if family == "sd2" else noise[i]
        row = Conditioning(
            *(None if part is None else part[i : i + 1] for part in (given.states, given.pooled, given.time_ids))
        )
        said = view.denoise((a * x0[i] + s * noise[i])[None], t[i : i + 1], row)[0]
        assert found[i].item() == pytest.approx((said - wanted).square().mean().item(), rel=1e-5)


@pytest.mark.parametrize("family", tiny.MMDITS)
def test_the_denoising_error_of_a_flow_is_its_training_loss(family) -> None:
    """x_t = (1 - s) x0 + s noise, and the flow is noise - x0."""
    view = tiny.shared(family)
    x0, noise = (torch.randn(2, 4, 8, 8, generator=rng(i), dtype=torch.float64) for i in (0, 1))
    t, given = torch.tensor([10.0, 912.5], dtype=torch.float64), view.condition(["a dog", "cat"])
    found = denoising_error(view, given, x0, noise, t)
    for i in range(2):
        s = t[i] / 1000
        x_t = (1 - s) * x0[i] + s * noise[i]
        said = view.denoise(x_t[None], t[i : i + 1], given.rows(slice(i, i + 1)))[0]
        assert found[i].item() == pytest.approx((said - noise[i] + x0[i]).square().mean().item(), rel=1e-5)


def test_a_flow_is_trained_where_its_scheduler_stands() -> None:
    """SD3's shift of 3 moves even levels to the noise; FLUX's depends on the number of a picture's tokens."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(1000)
    assert torch.equal(training_timesteps(tiny.shared("sd3")), scheduler.timesteps.flip(0))
    even = torch.arange(1, 1001, dtype=torch.float64) / 1000
    slope = (1.15 - 0.5) / (4096 - 256)
    shift = math.exp(0.5 + slope * (16 - 256))
    wanted = 1000 * shift / (shift + (1 / even - 1))
    assert torch.allclose(training_timesteps(tiny.shared("flux")).double(), wanted, atol=0.1)
    assert training_timesteps(tiny.shared("sd1")).tolist() == list(range(1000))
