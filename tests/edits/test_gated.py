"""Edits that weigh themselves by the prompt: the sum written out, rows that know nothing of each other, several at
once, refusals.
"""

import json
from contextlib import ExitStack
from dataclasses import replace
from functools import cache

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.fast_cases import fast_among
from unconcept.core.errors import EditError, UnconceptError
from unconcept.core.request import Request, RequestSpec
from unconcept.edits import GatedAdapter, GatedEdit, LowRankEdit, load_edit
from unconcept.edits.export.bake import bake
from unconcept.edits.export.export import EXPORT_TARGETS, export_edit
from unconcept.edits.gating import PromptLikeness
from unconcept.erasing.make_edit import make_edit
from unconcept.erasing.request_defaults import resolve_request
from unconcept.models import Conditioning

EVERY = (*tiny.FAMILIES, *tiny.MMDITS)
CHOSEN = resolve_request(RequestSpec(("dog face", "sun"), ("", ""), ("cat",)), "tiny")
TEXTS = ("a dog face", "", "fade cod", "by a sun", "quick")


@cache
def edit_of(family: str, dtype: torch.dtype, rank: int) -> GatedEdit:
    """Two adapters with random numbers everywhere, for every model of a family: all have the same weights."""
    rng = torch.Generator().manual_seed(2)
    plain = make_edit(tiny.view(family, dtype), CHOSEN, "spm", {"iterations": 0, "adapters": "each", "rank": rank})
    parts = tuple(
        replace(
            part,
            pairs={n: tuple(0.2 * torch.randn(t.shape, generator=rng) for t in pair) for n, pair in part.pairs.items()},
        )
        for part in plain.parts
    )
    return replace(plain, parts=parts)


def made(view, rank=1, **changes) -> GatedEdit:
    return replace(edit_of(view.family, view.dtype, rank), **changes)


@torch.no_grad()
def said(view, texts):
    given = texts if isinstance(texts, Conditioning) else view.condition(texts)
    noise = torch.randn(1, *view.latent_shape, generator=torch.Generator().manual_seed(0)).to(view.dtype)
    return view.denoise(noise.expand(len(given.states), -1, -1, -1), torch.tensor([500]), given)


def weighed(edit, gammas) -> LowRankEdit:
    """What the edit is to one text, as a change of weights."""
    one, other = (part.pairs for part in edit.parts)
    if edit.combine == "authors":
        mixed = {
            n: tuple(
                sum(float(g) * part.pairs[n][side] for g, part in zip(gammas, edit.parts, strict=True))
                for side in (0, 1)
            )
            for n in one
        }
        return LowRankEdit(mixed)
    a, b = map(float, gammas)
    return LowRankEdit(
        {n: (torch.cat([a * one[n][0], b * other[n][0]], 1), torch.cat([one[n][1], other[n][1]])) for n in one}
    )


@pytest.mark.parametrize(
    ("combine", "rank", "family"),
    [
        *fast_among((("sum", 1, family) for family in EVERY), (("sum", 1, name) for name in ("sd1", *tiny.MMDITS))),
        *fast_among((("authors", 2, family) for family in EVERY), [("authors", 2, "sd1")]),
    ],
)
def test_each_row_computes_with_its_own_weights(family, combine, rank) -> None:
    """In one batch, whatever the neighbours, as the change of weights that its gammas
    say; maps and 1x1 convolutions.
    """
    view = tiny.view(family)
    edit = made(view, rank, combine=combine)
    gammas = edit.gammas(view, TEXTS)
    wanted = []
    for text, own in zip(TEXTS, gammas, strict=True):
        with weighed(edit, own).applied(view):
            wanted.append(said(view, [text]))
    with edit.applied(view):
        found = said(view, TEXTS)
        turned = said(view, TEXTS[::-1])
    assert torch.allclose(found, torch.cat(wanted), atol=1e-5)
    assert torch.allclose(found, turned.flip(0), atol=1e-5)
    assert len(set(gammas[:, 0].tolist())) > 2
    assert (said(view, TEXTS) - found).abs().max() > 1e-4


@pytest.mark.parametrize("family", EVERY)
def test_gammas(family) -> None:
    """1 for the concept by both metrics; the share of its tokens; the cosine of all states."""
    view = tiny.shared(family)
    edit = made(view)
    by = {
        metric: (
            replace(edit, likeness=PromptLikeness(metric)).gammas(view, ("dog face", "sun", "a sun dial", "zzz", "do"))
        )
        for metric in ("both", "clipcos", "tokenuni")
    }
    assert all(torch.allclose(found[[0, 1], [0, 1]], torch.ones(2).to(found), atol=1e-6) for found in by.values())
    assert by["tokenuni"][2, 1] == 1
    assert by["tokenuni"][3].tolist() == ([1 / 8, 1 / 4] if family == "flux" else [0, 0])  # T5's token before a word
    assert torch.allclose(by["both"], torch.maximum(by["clipcos"], by["tokenuni"]), atol=1e-6)
    states = view.condition(["dog face", "a sun dial"]).states.detach().flatten(1)
    cosine = float(torch.dot(states[0], states[1]) / states[0].norm() / states[1].norm())
    assert float(by["clipcos"][2, 0]) == pytest.approx(max(cosine, 0.0), abs=1e-6)
    if family == "sd1":  # One token a letter, the last of a word its own: of d o g f a c e, "do" has the d.
        assert float(by["tokenuni"][4, 0]) == pytest.approx(1 / 7)
    floored = replace(edit, likeness=PromptLikeness("tokenuni", 0.2)).gammas(view, ("do", "zzz", "dog face"))
    assert floored[1:, 0].tolist() == [0, 1]
    full = replace(edit, likeness=PromptLikeness("clipcos", 0.1, 0.5)).gammas(view, ("dog face", "a sun dial", "zzz"))
    assert torch.allclose(full[:, 0], ((by["clipcos"][[0, 2, 3], 0] - 0.1) / 0.4).clamp(0, 1), atol=1e-6)


def test_states_that_no_text_gave_are_judged_by_their_cosine() -> None:
    view = tiny.view("sd1")
    edit = made(view, likeness=PromptLikeness("tokenuni"))
    given = view.condition(["dog face"])
    bent = Conditioning(
        (given.states + 0.3 * torch.randn(given.states.shape, generator=torch.Generator().manual_seed(0)))
        .detach()
        .requires_grad_()
    )
    cosine = torch.cosine_similarity(given.states.detach().flatten(), bent.states.flatten(), dim=0)
    with edit.applied(view):
        found = said(view, bent)
        (slope,) = torch.autograd.grad(
            view.denoise(torch.randn(1, 4, 8, 8, dtype=view.dtype), torch.tensor([500]), bent).square().sum(),
            [bent.states],
        )
    other = torch.cosine_similarity(view.condition(["sun"]).states.flatten(), bent.states.flatten(), dim=0)
    with weighed(edit, (cosine.detach(), other.detach())).applied(view):
        assert torch.allclose(said(view, bent), found, atol=1e-5)
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize("family", ["sd1", "sdxl", "flux"])
def test_several_edits_at_once_are_one_of_several_parts(family) -> None:
    view = tiny.view(family)
    both = made(view)
    with both.applied(view):
        wanted = said(view, TEXTS)
    for order in (both.parts, both.parts[::-1]):
        with ExitStack() as stack:
            for part in order:
                stack.enter_context(replace(both, parts=(part,)).applied(view))
            assert torch.allclose(said(view, TEXTS), wanted, atol=1e-6)


def test_pictures_are_drawn_with_each_prompts_own_weight() -> None:
    """Through the pipeline: the prompt as a text and as states, alone and with a neighbour."""
    view = tiny.view("sd1")
    edit, noise = (
        made(view, likeness=PromptLikeness("tokenuni")),
        torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
    )
    with edit.applied(view):
        both = view.sample(["a dog face", "zzz"], noise, 2, 3.0)
        assert torch.allclose(view.sample(["a dog face"], noise[:1], 2, 3.0), both[:1], atol=1e-5)
        assert torch.allclose(view.sample(view.condition(["a dog face", "zzz"]), noise, 2, 3.0), both, atol=1e-5)
    plain = view.sample(["a dog face", "zzz"], noise, 2, 3.0)
    assert not torch.allclose(both[0], plain[0], atol=1e-4)
    assert torch.allclose(both[1], plain[1], atol=1e-6)  # no token in common, and the empty side has none


@pytest.mark.parametrize(
    ("family", "negative"),
    [
        ("sd1", ""),
        ("sd1", "quick sun"),
        pytest.param("sdxl", "", marks=pytest.mark.slow),
        ("sd3", "quick sun"),
        ("flux", "quick sun"),
    ],
)
def test_both_sides_of_guidance_have_the_prompts_weight(family, negative) -> None:
    """A picture is the one that the change of weights at its prompt's gammas draws, in the stock pipeline too."""
    view = tiny.view(family)
    edit, prompts = made(view), ["a dog face", "by a sun"]
    noise = torch.randn(2, *view.latent_shape, dtype=view.dtype, generator=torch.Generator().manual_seed(0))
    pipe = view.checkpoint.built_pipeline

    def drawn(texts, start):
        if not negative:
            return view.sample(texts, start, 2, 3.0)
        given, against = view.condition(texts), view.condition([negative] * len(texts))
        words = {"prompt_embeds": given.states, "negative_prompt_embeds": against.states}
        if given.pooled is not None:
            words |= {"pooled_prompt_embeds": given.pooled, "negative_pooled_prompt_embeds": against.pooled}
        scale = {"true_cfg_scale": 3.0} if family == "flux" else {"guidance_scale": 3.0}
        seeds = [torch.Generator().manual_seed(seed) for seed in range(len(texts))]
        side = view.latent_shape[-1] * pipe.vae_scale_factor
        asked = {"num_inference_steps": 2, "output_type": "pt", "height": side, "width": side}
        return pipe(**words, **scale, **asked, generator=seeds).images.float()

    wanted = []
    for text, own in zip(prompts, edit.gammas(view, tuple(prompts)), strict=True):
        with weighed(edit, own).applied(view):
            wanted.append(drawn([text], noise[:1]))
    noise[1] = noise[0]
    with edit.applied(view):
        found = [drawn([text], noise[:1]) for text in prompts]
        both = view.sample(prompts, noise, 2, 3.0) if not negative else None
    for own, alone in zip(wanted, found, strict=True):
        assert torch.allclose(own, alone, atol=1e-5)
    if both is not None:
        assert torch.allclose(both, torch.cat(wanted), atol=1e-5)
    assert "progress_bar" not in vars(pipe)


def test_guidance_is_watched_by_each_of_several_edits() -> None:
    """Removed in any order, they leave the pipeline as it was; a loop that ends in an error counts as ended."""
    view = tiny.view("sd1")
    pipe, both = view.checkpoint.built_pipeline, made(view)
    noise = torch.zeros(1, *view.latent_shape, dtype=view.dtype)
    with both.applied(view):
        wanted = view.sample(["a dog face"], noise, 2, 3.0)
    first, second = (replace(both, parts=(part,)).apply_to(view) for part in both.parts)
    assert torch.allclose(view.sample(["a dog face"], noise, 2, 3.0), wanted, atol=1e-5)
    with pytest.raises(ZeroDivisionError), pipe.progress_bar(total=2):
        _ = 1 / 0
    assert list(pipe.progress_bar([1, 2])) == [1, 2]
    own = both.gammas(view, TEXTS)
    outside = [said(view, TEXTS)]
    first.remove()
    second.remove()
    assert "progress_bar" not in vars(pipe)
    with weighed(both, own[1]).applied(view):  # the empty text, outside of a pipeline's loop
        assert torch.allclose(said(view, TEXTS)[1], outside[0][1], atol=1e-5)


@pytest.mark.parametrize("family", EVERY)
def test_save_and_load(family, tmp_path) -> None:
    view = tiny.shared(family)
    edit = made(view, likeness=PromptLikeness("both", 0.25, 0.75), combine="authors").scaled(0.5)
    edit.save(tmp_path / "e.safetensors")
    loaded = load_edit(tmp_path / "e.safetensors")
    assert isinstance(loaded, GatedEdit)
    assert (loaded.hash, loaded.origin, loaded.names, loaded.parameters, loaded.bound_names) == (
        edit.hash,
        edit.origin,
        (),
        edit.parameters,
        edit.bound_names,
    )
    assert (loaded.likeness, loaded.combine, [part.texts for part in loaded.parts]) == (
        edit.likeness,
        "authors",
        [("dog face",), ("sun",)],
    )
    assert (
        len(
            {
                edit.hash,
                edit.scaled(2.0).hash,
                replace(edit, combine="sum").hash,
                replace(edit, likeness=PromptLikeness()).hash,
            }
        )
        == 4
    )


def test_a_file_without_a_ceiling_is_read_as_before(tmp_path) -> None:
    """As 0.1 wrote it: the details have no ceiling, and neither has the file of an edit whose ceiling is 1."""
    edit = made(tiny.shared("sd1"), likeness=PromptLikeness("both", 0.25))
    edit.save(tmp_path / "e.safetensors")
    with safe_open(tmp_path / "e.safetensors", "pt") as file:
        assert json.loads(file.metadata()["details"]).keys() == {"texts", "combine", "metric", "floor"}
    assert load_edit(tmp_path / "e.safetensors").hash == edit.hash


def test_the_static_form_is_the_edit_at_full_weight(tmp_path) -> None:
    view, base = tiny.view("sd1", torch.float32), tiny.folder("sd1", tmp_path / "base")
    edit = made(view)
    flat = edit.static()
    assert isinstance(flat, LowRankEdit)
    full = weighed(edit, (1.0, 1.0))
    own = view.reference(flat.names)
    assert all(torch.allclose(flat.delta(n, w), full.delta(n, w), atol=1e-6) for n, w in own.items())
    assert bake(flat, base, tmp_path / "baked") == ()
    assert export_edit(flat, base, "kohya", tmp_path / "lora.safetensors").ranks == (2, 2)


def test_gating_is_not_lost_in_silence(tmp_path) -> None:
    view, base = tiny.view("sd1", torch.float32), tiny.folder("sd1", tmp_path / "base")
    edit = made(view)
    with pytest.raises(EditError, match="gating is lost"):
        bake(edit, base, tmp_path / "baked")
    for target in EXPORT_TARGETS:
        with pytest.raises(EditError, match="gating is lost"):
            export_edit(edit, base, target, tmp_path / "out.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base"]
    with pytest.raises(EditError, match="use `applied`, or `static`"):
        edit.delta("unet.conv_in.weight", torch.zeros(1))


def test_another_base_is_refused() -> None:
    edit = made(tiny.view("sd1"))
    with (
        pytest.raises(EditError, match=rf"made for tiny-sd1 \({edit.origin.base_hash[:12]}\), not for tiny-sd1"),
        edit.applied(tiny.view("sd1", seed=1)),
    ):
        pass
    with pytest.raises(UnconceptError), edit.applied(tiny.shared("sdxl")):
        pass


def test_figures_without_a_picture() -> None:
    view = tiny.view("sd1")
    assert make_edit(view, CHOSEN, "spm", {"iterations": 0}).origin.report["relative_norm"] == 0
    figures = made(view).effect(view, Request(("dog face", "sun"), (), ("cat",)))
    assert figures["least_gate"] == pytest.approx(1)
    assert 0 < figures["gate_of_retained"] < 1
    assert figures["relative_norm"] > 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"texts": "dog"}, "not lists of texts"),
        ({"texts": [["dog"], []]}, "not lists of texts"),
        ({"texts": [["dog"], [1]]}, "not lists of texts"),
        ({"texts": [["dog"]]}, "parts for which it names no texts"),
        ({"texts": [["dog"], ["sun"], ["cat"]]}, "changes nothing"),
        ({"combine": "loud"}, "its combine is 'loud'"),
        ({"metric": "taste"}, "its metric is 'taste'"),
        ({"floor": 1.0}, "its floor and ceiling are 1.0 and 1.0"),
        ({"floor": 0.5, "ceiling": 0.5}, "the floor below the ceiling"),
        ({"floor": None}, "its metric, floor and ceiling"),
        ({"ceiling": "high"}, "its metric, floor and ceiling"),
        ({"drop": ".down"}, "no up and down factor"),
    ],
)
def test_damaged_files_are_refused(change, told, tmp_path) -> None:
    path = tmp_path / "e.safetensors"
    edit = made(tiny.shared("sd1"))
    edit.save(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors, details = load_file(path), json.loads(metadata["details"])
    if "drop" in change:
        del tensors[f"0.{edit.bound_names[0]}.down"]
    else:
        details |= change
    del metadata["tensors_sha256"]  # As in a file of another program, which has none.
    save_file(tensors, path, metadata={**metadata, "details": json.dumps(details)})
    with pytest.raises(UnconceptError, match=told):
        load_edit(path)


def test_parts_that_do_not_fit_are_refused() -> None:
    one = {"unet.a.weight": (torch.zeros(2, 1), torch.zeros(1, 2))}
    two = {"unet.a.weight": (torch.zeros(2, 2), torch.zeros(2, 2))}
    with pytest.raises(EditError, match="different maps"):
        GatedEdit((GatedAdapter(("a",), one), GatedAdapter(("b",), {"unet.b.weight": one["unet.a.weight"]})))
    with pytest.raises(EditError, match="of one rank"):
        GatedEdit((GatedAdapter(("a",), one), GatedAdapter(("b",), two)), combine="authors")
    with pytest.raises(EditError, match="different ranks"):
        GatedEdit((GatedAdapter(("a",), {**one, "unet.b.weight": two["unet.a.weight"]}),))
    with pytest.raises(EditError, match="no concept"):
        GatedEdit((GatedAdapter((), one),))
