"""MACE's refinement against its equation written out, and the exact properties of its paper."""

from dataclasses import replace

import pytest
import torch

from tests import tiny, toy_text
from unconcept.core import Request
from unconcept.core.errors import RequestError, SettingsError
from unconcept.core.settings import build_settings
from unconcept.methods.mace import MACE
from unconcept.prompts.templates import OBJECT_SENTENCES, STYLE_SENTENCES

CONTRACT_SETTINGS = {"max_train_steps": 2, "pictures": 2, "picture_steps": 2, "learning_rate": 0.01}

REFINEMENT = MACE(max_train_steps=0)
REQUEST = Request(("dog face", "red car"), ("goat", "bus"), ("cat", "a moon"))
ENCODERS = {"sd3": ("clip", "t5"), "flux": ("t5",), "chroma": ("t5",)}  # whose rows follow each other
FORMS = ("a {}", "{} in fog", "old {} at sea", "{}")
CAPTIONS = [
    f"{a} {b}" for a in ("cat", "wolf", "tall moon", "x ray", "bus") for b in ("by night", "in june", "q", "for 3")
]


def context(view, target, anchor, form):
    """Rows around the concept, found by hand: before it, after it, the end token, pads; of each encoder in turn."""
    first, rows, words = 0, ([], []), ((target, anchor), (anchor, target))
    for kind in ENCODERS.get(view.family, ("clip",)):
        mark = int(kind == "t5")  # T5 has no start token, and a token for what stands before a word.
        length = view.spec.encoders[-1].length if mark else toy_text.LENGTH
        before, after, *own = (tokens(text, mark) for text in (*form.split("{}"), target, anchor))
        before += mark or 1
        for found, (word, _) in zip(rows, words, strict=True):
            states = view.embed([form.format(word)], at="all")[0, first : first + length]
            end = before + tokens(word, mark) - mark
            pads = length - (before + max(own) - mark + after + 1)
            found += [states[:before], states[end : end + after + 1 + pads]]
        first += length
    return [torch.cat(found) for found in rows]


def tokens(text, mark):
    """One a letter, and a mark before each word."""
    return len(text.replace(" ", "")) + mark * len(text.split())


def literal(view, w, method: MACE, request: Request, texts=()):
    """The paper's equation: sums of outer products over every template, one inverse for each layer."""
    d = w.shape[1]
    left, right = method.lamb * w, method.lamb * torch.eye(d, dtype=w.dtype)
    for target, anchor in zip(request.targets, request.anchors, strict=True):
        for form in method.templates:
            for f, g in zip(*context(view, target, anchor, form), strict=True):
                left, right = left + torch.outer(w @ g, f), right + torch.outer(f, f)
    prior = torch.zeros(d, d, dtype=w.dtype)
    for row in view.embed(list(texts), at="all").flatten(0, 1) if texts else ():
        prior = prior + (method.prior_size / len(texts) if method.prior_size else 1) * torch.outer(row, row)
    for row in view.embed(request.retain, at="all").flatten(0, 1):
        prior = prior + method.preserve_weight * torch.outer(row, row)
    beta = method.train_preserve_scale
    return (left + beta * w @ prior) @ torch.linalg.inv(right + beta * prior)


@pytest.mark.parametrize(
    ("family", "size"), [*((f, s) for f in tiny.FAMILIES for s in (0, 500)), *((f, 500) for f in ENCODERS)]
)
def test_is_the_papers_equation(family, size, tmp_path) -> None:
    view, path = tiny.shared(family), tmp_path / "captions.txt"
    path.write_text("\n".join(CAPTIONS))
    method = replace(
        REFINEMENT,
        lamb=0.5,
        train_preserve_scale=1e-2,
        preserve_weight=30.0,
        prior=str(path),
        prior_size=size,
        templates=FORMS,
    )
    edit = method.erase(view, REQUEST)
    for name, w in view.text_maps().items():
        assert torch.allclose(
            w.detach() + edit.delta(name, w), literal(view, w.detach(), method, REQUEST, CAPTIONS), atol=1e-10, rtol=0
        )


@pytest.mark.parametrize("family", [*tiny.FAMILIES, *ENCODERS])
def test_mapping_to_the_same_words_changes_nothing(family) -> None:
    edit = replace(REFINEMENT, templates=FORMS).erase(
        tiny.shared(family), Request(("dog face",), ("dog  face",), ("cat",))
    )
    assert not edit.y.any()


def test_words_around_are_read_as_beside_the_anchor_and_the_concept_stays_free() -> None:
    """With fewer rows than dimensions and lamb -> 0: context rows hit their values, and what is orthogonal to them is
    untouched.
    """
    view = tiny.shared("sdxl")
    request, method = Request(("dog face",), ("goat",)), replace(REFINEMENT, lamb=1e-9, templates=("a {}", "{} in fog"))
    edit = method.erase(view, request)
    f, g = (
        torch.cat(rows)
        for rows in zip(*(context(view, "dog face", "goat", form) for form in method.templates), strict=True)
    )
    assert len(f) < f.shape[1]
    concept = view.embed(["a dog face"])[0]
    basis = torch.linalg.svd(f, full_matrices=False).Vh
    free = concept - basis.T @ (basis @ concept)
    for name, w in view.text_maps().items():
        edited = w.detach() + edit.delta(name, w)
        assert torch.allclose(f @ edited.T, g @ w.T, atol=1e-5)
        assert torch.allclose(edited @ free, w @ free, atol=1e-6)
        assert not torch.allclose(edited @ concept, w @ concept, atol=1e-3)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_limits_of_the_weights(family) -> None:
    view = tiny.shared(family)
    quick = replace(REFINEMENT, templates=FORMS)
    for stiff in (
        replace(quick, lamb=1e14),
        replace(quick, train_preserve_scale=1e12),
        replace(quick, preserve_weight=1e16),
    ):
        request = Request(REQUEST.targets, REQUEST.anchors, tuple(CAPTIONS))
        assert all(stiff.erase(view, request).delta(name, w).abs().max() < 1e-6 for name, w in view.text_maps().items())


@pytest.mark.parametrize("family", [*tiny.FAMILIES, "sd3"])
def test_order_of_targets_does_not_matter(family) -> None:
    view = tiny.shared(family)
    turned = Request(REQUEST.targets[::-1], REQUEST.anchors[::-1], REQUEST.retain[::-1])
    one, two = REFINEMENT.erase(view, REQUEST), REFINEMENT.erase(view, turned)
    assert torch.allclose(one.y, two.y, atol=1e-12)


def test_thirty_sentences_a_kind() -> None:
    assert len({*OBJECT_SENTENCES}) == len({*STYLE_SENTENCES}) == 30
    assert all(text.count("{}") == 1 for text in (*OBJECT_SENTENCES, *STYLE_SENTENCES))
    view = tiny.shared("sd1")
    hashes = {
        REFINEMENT.erase(view, Request(("dog",), ("goat",), kind=kind)).hash for kind in ("style", "object", "person")
    }
    assert len(hashes) == 2


def test_without_lamb_the_priors_must_span() -> None:
    view, request = tiny.shared("sd1"), Request(("dog face",), ("goat",))
    with pytest.raises(SettingsError, match="lamb = 0"):
        replace(REFINEMENT, lamb=0.0).erase(view, request)
    with pytest.raises(RequestError, match="shorten it"):
        REFINEMENT.erase(view, Request(("an extraordinarily long dog face",), ("goat",)))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("lamb", -1.0),
        ("train_preserve_scale", -1.0),
        ("preserve_weight", float("nan")),
        ("prior_size", -1),
        ("templates", ["a dog"]),
    ],
)
def test_settings_out_of_range(setting, value) -> None:
    with pytest.raises(SettingsError, match="template" if setting == "templates" else setting):
        build_settings(MACE, {setting: value})


def test_golden_norm() -> None:
    """A change of this number is a change of behaviour."""
    view = tiny.shared("sd1")
    edit = REFINEMENT.erase(view, REQUEST)
    norm = sum(float(edit.delta(name, w).square().sum()) for name, w in view.text_maps().items()) ** 0.5
    assert norm == pytest.approx(GOLDEN, rel=1e-4)


GOLDEN = 3.2697551
