"""UCE's debiasing against the 2025 script's loop written out, and against planted eyes that must see it converge."""

import pytest
import torch

from tests import tiny
from tests.methods.planted import Planted
from unconcept.core import Request
from unconcept.core.errors import EditError, RequestError, SettingsError
from unconcept.core.request import RequestSpec
from unconcept.core.settings import build_settings
from unconcept.edits import DenseEdit, load_edit
from unconcept.erasing.make_edit import make_edit
from unconcept.erasing.request_defaults import resolve_request
from unconcept.methods import MethodServices, methods
from unconcept.methods.uce_debias import UCEDebias

TARGETS, RETAIN, ATTRIBUTES = ("judge", "pilot"), ("cook", "old man"), ("woman", "man")
REQUEST = Request(TARGETS, (), RETAIN, "person")
EXACT = UCEDebias(images=10_000, max_diff=0.01, rounds=30)


def shares(view, edit, texts=TARGETS, attributes=ATTRIBUTES, **more) -> list[float]:
    """The first attribute's share of each text under an edit."""
    with edit.applied(view):
        return [Planted(view, **more)(text, attributes, 100_000, 0)[0] / 100_000 for text in texts]


def literal(view, see, method: UCEDebias) -> dict[str, torch.Tensor]:
    """Values add up in place, every round is solved from the original weights, each layer with its own inverse."""
    own = {name: w.detach().clone() for name, w in view.text_maps().items()}
    c, a, p = (view.embed(texts) for texts in (TARGETS, method.attributes, RETAIN))
    values = {name: [w @ row for row in c] for name, w in own.items()}
    edited, done = dict(own), set()
    for turn in range(method.rounds):
        for i, target in enumerate(TARGETS):
            if i in done:
                continue
            with DenseEdit({name: edited[name] - own[name] for name in own}).applied(view):
                seen = see(target, method.attributes, method.images, turn)
            gaps = [1 / len(a) - count / sum(seen) for count in seen]
            if all(abs(gap) < method.max_diff for gap in gaps):
                done.add(i)
                continue
            for name, w in own.items():
                values[name][i] = values[name][i] + sum(
                    method.step_size * gap * (w @ row) for gap, row in zip(gaps, a, strict=True)
                )
        if len(done) == len(TARGETS):
            break
        for name, w in own.items():
            left, right = method.lamb * w, method.lamb * torch.eye(w.shape[1], dtype=w.dtype)
            for value, row in zip(values[name], c, strict=True):
                left, right = (
                    left + method.erase_scale * torch.outer(value, row),
                    right + method.erase_scale * torch.outer(row, row),
                )
            for row in p:
                left, right = (
                    left + method.preserve_scale * torch.outer(w @ row, row),
                    right + method.preserve_scale * torch.outer(row, row),
                )
            edited[name] = left @ torch.linalg.inv(right)
    return edited


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_is_the_scripts_loop(family) -> None:
    view, method = tiny.view(family), UCEDebias(images=1000, erase_scale=1.5, preserve_scale=0.3, step_size=0.7)
    bias = (1.2, 0.0)
    wanted, edit = (
        literal(view, Planted(view, bias), method),
        method.erase(view, REQUEST, MethodServices(Planted(view, bias))),
    )
    assert edit.solve_figures["rounds"] > 2
    for name, w in view.text_maps().items():
        assert torch.allclose(w.detach() + edit.delta(name, w), wanted[name], atol=1e-10, rtol=0)


@pytest.mark.parametrize("bias", [(1.5, 0.0), (0.0, 1.5)])
def test_shares_come_out_as_wanted(bias) -> None:
    """A step of the wrong sign drives them to 0 or 1 instead."""
    view = tiny.view("sd1")
    before = shares(
        view, UCEDebias(images=1000, max_diff=0.99).erase(view, REQUEST, MethodServices(Planted(view, bias))), bias=bias
    )
    assert all(abs(share - 0.5) > 0.3 for share in before)
    edit = EXACT.erase(view, REQUEST, MethodServices(Planted(view, bias)))
    assert shares(view, edit, bias=bias) == pytest.approx([0.5, 0.5], abs=0.02)
    assert edit.solve_figures["rounds"] < 30
    assert edit.solve_figures["largest_gap"] < 0.01
    assert (edit.solve_figures["woman in judge"] < 0) == (bias[0] > 0)


def test_other_ratios_and_more_attributes() -> None:
    view, bias = tiny.view("sd1"), (1.0, 0.0, -0.5)
    method = UCEDebias(("red", "green", "blue"), (0.2, 0.5, 0.3), images=10_000, max_diff=0.01)
    edit = method.erase(view, REQUEST, MethodServices(Planted(view, bias)))
    with edit.applied(view):
        seen = Planted(view, bias)("judge", method.attributes, 100_000, 0)
    assert [count / 100_000 for count in seen] == pytest.approx(method.ratios, abs=0.02)


def test_what_is_balanced_is_left_alone() -> None:
    """It is looked at once and no more; with nothing else to do the edit is none."""
    view = tiny.view("sd1")

    class Both(Planted):
        def logits(self, text, attributes):
            return super().logits(text, attributes) * (text == "judge")

    see = Both(view)
    edit = EXACT.erase(view, REQUEST, MethodServices(see))
    assert [turn for text, turn in see.asked if text == "pilot"] == [0]
    assert (edit.solve_figures["woman in pilot"], edit.solve_figures["man in pilot"]) == (0.0, 0.0)
    nothing = EXACT.erase(view, REQUEST, MethodServices(Planted(view, (0.0, 0.0))))
    assert nothing.solve_figures["rounds"] == 1
    assert all(not nothing.delta(name, w).any() for name, w in view.text_maps().items())


def test_every_wording_moves_alike_and_none_moves_another() -> None:
    """Each target's wordings by its own value, which the other target's leaves alone; no wording of a retained text
    moves.
    """
    view = tiny.view("sd1")
    method = UCEDebias(images=1000, lamb=1e-9, preserve_scale=1.0, templates=("{}", "a {}"))
    edit = method.erase(view, REQUEST, MethodServices(Planted(view, (1.5, 0.0))))
    (w,) = [w for name, w in view.text_maps().items() if name == edit.names[0]]
    delta = edit.delta(edit.names[0], w)
    for target in TARGETS:
        for form in method.templates:
            a = view.embed([form.replace("{}", one) for one in method.attributes])
            value = (
                sum(
                    edit.solve_figures[f"{one} in {target}"] * row
                    for one, row in zip(method.attributes, a, strict=True)
                )
                @ w.detach().T
            )
            assert torch.allclose(view.embed([form.replace("{}", target)])[0] @ delta.T, value, atol=1e-5)
    for form in method.templates:
        assert (view.embed([form.replace("{}", text) for text in RETAIN]) @ delta.T).abs().max() < 1e-5


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_with_the_tail_every_row_behind_a_target_is_pushed(family) -> None:
    """By the row that stands as far behind the attribute in the same wording; every row of what is retained, and of "",
    is held.
    """
    view = tiny.view(family)
    method = UCEDebias(
        images=1000, rounds=1, erase_scale=1.5, preserve_scale=0.3, templates=("{}", "a {}"), tokens="last+tail"
    )
    edit = method.erase(view, REQUEST, MethodServices(Planted(view, (1.2, 0.0))))

    def tail(text: str) -> torch.Tensor:
        (last,) = view.tokenizer([text]).index("last_subject")
        return view.embed([text], at="all")[0, last:]

    width = view.embed(()).shape[1]
    left, right = torch.zeros(width, width).double(), method.lamb * torch.eye(width).double()
    for target in TARGETS:
        for form in method.templates:
            tails = [tail(form.replace("{}", text)) for text in (target, *method.attributes)]
            c, *beside = (rows[: min(map(len, tails))] for rows in tails)
            x = sum(
                edit.solve_figures[f"{one} in {target}"] * rows
                for one, rows in zip(method.attributes, beside, strict=True)
            )
            left, right = left + 1.5 * x.T @ c, right + 1.5 * c.T @ c
    for text in ("", *(form.replace("{}", text) for text in RETAIN for form in method.templates)):
        rows = view.embed([text], at="all")[0]
        right = right + 0.3 * rows.T @ rows
    for name, w in view.text_maps().items():
        assert torch.allclose(edit.delta(name, w), w @ left @ torch.linalg.inv(right), atol=1e-9, rtol=0)


def test_retained_texts_move_less_than_targets() -> None:
    view = tiny.view("sd1")
    method = UCEDebias(images=1000, preserve_scale=100.0)
    edit = method.erase(view, REQUEST, MethodServices(Planted(view)))
    c, p = view.embed(TARGETS), view.embed(RETAIN)
    for name, w in view.text_maps().items():
        delta = edit.delta(name, w)
        assert (p @ delta.T).norm(dim=1).max() < 0.1 * (c @ delta.T).norm(dim=1).min()


def test_two_attributes_move_along_one_direction() -> None:
    """Woman minus man, whatever the number of targets."""
    view = tiny.view("sd1")
    edit = EXACT.erase(view, Request(("judge", "pilot", "cook"), ()), MethodServices(Planted(view)))
    assert all(torch.linalg.matrix_rank(edit.delta(name, w), rtol=1e-9) == 1 for name, w in view.text_maps().items())


def test_pictures_that_show_no_attribute() -> None:
    with pytest.raises(SettingsError, match=r"none of 10 pictures of 'judge' in round 1 shows woman or man: "):
        UCEDebias().erase(tiny.view("sd1"), REQUEST, MethodServices(lambda *asked: (0, 0)))


def test_needs_eyes_and_no_anchors() -> None:
    view = tiny.view("sd1")
    chosen = resolve_request(asked(), "tiny", "debias")
    assert chosen.request == Request(("judge",), (), ("cook",), "person")
    with pytest.raises(RequestError, match="name one, --method-judge clip-score=FOLDER"):
        make_edit(view, chosen, "uce-debias", {})
    with pytest.raises(RequestError, match="uce-debias must judge the images it samples"):
        UCEDebias().erase(view, chosen.request)
    with pytest.raises(RequestError, match="leave anchors out"):
        resolve_request(asked(("person",)), "tiny", "debias")
    with pytest.raises(RequestError, match="uce needs an anchor"):
        make_edit(view, chosen, "uce", {})
    edit = make_edit(view, chosen, "uce-debias", {}, MethodServices(Planted(view)))
    assert edit.origin is not None
    assert "residual" not in edit.origin.report
    assert {"drift", "relative_norm", "rounds", "largest_gap", "woman in judge"} <= set(edit.origin.report)


def asked(anchors=None) -> RequestSpec:
    return RequestSpec(("judge",), anchors, ("cook",), "person")


def test_edit_survives_its_file(tmp_path) -> None:
    view = tiny.view("sd1")
    edit = make_edit(view, resolve_request(asked(), "tiny", "debias"), "uce-debias", {}, MethodServices(Planted(view)))
    edit.save(tmp_path / "e.safetensors")
    assert load_edit(tmp_path / "e.safetensors").origin == edit.origin
    with pytest.raises(EditError), load_edit(tmp_path / "e.safetensors").applied(tiny.view("sd1", seed=1)):
        pass


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"attributes": []}, "attributes are"),
        ({"attributes": ["woman"]}, "name at least two"),
        ({"attributes": ["woman", "man", "man"]}, "named twice"),
        ({"attributes": ["woman", " "]}, "at least one word"),
        ({"ratios": [0.5, 0.6]}, "sum to 1"),
        ({"ratios": [1.5, -0.5]}, "sum to 1"),
        ({"ratios": [1.0]}, "2 attributes but 1 ratios"),
        ({"max_diff": 0.0}, "max_diff"),
        ({"rounds": 0}, "rounds"),
        ({"images": 0}, "images"),
        ({"step_size": 0.0}, "step_size"),
        ({"lamb": 0.0}, "lamb"),
        ({"preserve_scale": -1.0}, "preserve_scale"),
        ({"ratios": [float("nan"), 0.5]}, "ratios"),
        ({"attribute": ["woman"]}, "did you mean 'attributes'"),
    ],
)
def test_settings_out_of_range(settings, said) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        build_settings(UCEDebias, settings)
    assert "\n" not in str(caught.value)


def test_is_known_as_what_it_does() -> None:
    assert {name for name in methods if methods[name].does == "debias"} == {"uce-debias"}


def test_golden_norm() -> None:
    """A change of this number is a change of behaviour."""
    view = tiny.view("sd1")
    edit = UCEDebias().erase(view, REQUEST, MethodServices(Planted(view)))
    norm = sum(float(edit.delta(name, w).square().sum()) for name, w in view.text_maps().items()) ** 0.5
    assert norm == pytest.approx(GOLDEN, rel=1e-4)


GOLDEN = 0.48492727
