"""SLUG: its gradient, front and search written out, and the properties of its paper."""

from dataclasses import dataclass, field, replace
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPVisionConfig, CLIPVisionModel

from tests import tiny
from tests.edits.test_edits import ORIGIN
from tests.methods.planted import PlantedSight, planted_services, sights
from tests.models.test_picture_files import SIDE
from tests.models.test_picture_files import drawn as picture
from unconcept.core import Request
from unconcept.core.errors import DataError, NumericsError, RequestError, SettingsError
from unconcept.core.seeds import picture_seeds
from unconcept.core.settings import build_settings
from unconcept.edits import DenseEdit
from unconcept.erasing.failure_checks import weight_failures
from unconcept.linalg.layer_search import bisect_ratio, pareto_front
from unconcept.methods import MethodServices
from unconcept.methods.slug import SLUG
from unconcept.models.module_view import ModuleView
from unconcept.models.text.parameters import encoder_parameters, layer_number
from unconcept.training import loss_gradient
from unconcept.training.images.training_images import generate_images

CONTRACT_SETTINGS = {"pictures": 2, "picture_steps": 2, "templates": ["a {}"]}

REQUEST = Request(("dog", "hound"), ("", ""), ("cat", "car", "sun"))
QUICK = {"pictures": 6, "picture_steps": 2, "templates": ("a {}", "{}")}


def erased(view, request=REQUEST, look=None, **settings):
    return SLUG(**{**QUICK, **settings}).erase(view, request, planted_services(view, look))


@cache
def own_edit(family: str) -> DenseEdit:
    """The edit under the settings that most tests share."""
    return erased(tiny.view(family))


def seen_of(view, part: str):
    """The unedited model's pictures of the targets, through the vision tower."""
    prompts = ["a dog", "a hound", "dog", "hound", "a dog", "a hound"]
    return sights(view)[part].embed_images(generate_images(view, prompts, picture_seeds(0, len(prompts)), 2, 7.5))


def parting(view, seen, number: int):
    """L_f written out: 1 - cosine of each picture and the bare name of what it was drawn as."""
    return (
        1 - torch.nn.functional.cosine_similarity(seen, view._encoders()[number].pooled(["dog", "hound"] * 3))
    ).mean()


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_one_layer_of_each_encoder_moves_along_its_gradient(family) -> None:
    view, edit = tiny.view(family), own_edit(family)
    assert {name.partition(".")[0] for name in edit.names} == {*encoder_parameters(view)}
    for number, (part, own) in enumerate(encoder_parameters(view).items()):
        names = [name for name in edit.names if name.startswith(f"{part}.")]
        assert len({layer_number(name) for name in names}) == 1
        assert len(names) in (1, 2, 3)
        g = dict(
            zip(
                names,
                loss_gradient(parting(view, seen_of(view, part), number), [own[name] for name in names]),
                strict=True,
            )
        )
        r = edit.solve_figures["ratio" if number == 0 else "ratio 2"]
        assert r > 0
        for name in names:
            assert torch.allclose(edit.deltas[name], r * g[name], rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_small_step_parts_them_as_much_as_the_gradient_says(family) -> None:
    """L_f grows by r |G|^2."""
    view, edit, step = tiny.view(family), own_edit(family), 1e-5
    for number, part in enumerate(encoder_parameters(view)):
        seen, r = seen_of(view, part), edit.solve_figures["ratio" if number == 0 else "ratio 2"]
        small = DenseEdit(
            {name: step / r * delta for name, delta in edit.deltas.items() if name.startswith(f"{part}.")}
        )
        size = sum(float((delta / step).square().sum()) for delta in small.deltas.values())
        with torch.no_grad():
            before = float(parting(view, seen, number))
            with small.applied(view):
                after = float(parting(view, seen, number))
        assert after - before == pytest.approx(step * size, rel=1e-2)


@pytest.mark.parametrize(
    ("layer", "names"),
    [
        ("layers.0.self_attn.out_proj", ["self_attn.out_proj"]),
        ("layers.1.self_attn.k_proj", ["self_attn.k_proj", "self_attn.q_proj", "self_attn.v_proj"]),
        ("layers.1.mlp.fc2", ["mlp.fc1", "mlp.fc2"]),
    ],
)
def test_a_layer_is_a_matrix_with_its_group(layer, names) -> None:
    edit = erased(tiny.view("sd1"), layer=layer, pictures=2)
    number = layer.split(".")[1]
    assert list(edit.names) == [f"text_encoder.encoder.layers.{number}.{name}.weight" for name in names]


def test_the_front_is_told() -> None:
    """Importance and alignment of every matrix, written out, and those that none beats in both."""
    view = tiny.view("sd1")
    edit = own_edit("sd1")
    own = {n: p for n, p in encoder_parameters(view)["text_encoder"].items() if p.ndim == 2 and layer_number(n) >= 0}
    seen = SLUG(**QUICK)._pairs(view, REQUEST).embed_with(sights(view)["text_encoder"])
    forget = loss_gradient(parting(view, seen_of(view, "text_encoder"), 0), list(own.values()))
    retain = loss_gradient(seen.contrastive_loss(4), list(own.values()))
    points = {}
    for (name, w), f, g in zip(own.items(), forget, retain, strict=True):
        align = float(((f * g).sum() / (f.norm() * g.norm())).abs())
        points[name.removeprefix("text_encoder.encoder.").removesuffix(".weight")] = (
            float(f.norm() / w.detach().norm()),
            align,
        )
    front = {
        name: point
        for name, point in points.items()
        if not any(m > point[0] and a < point[1] for m, a in points.values())
    }
    told = {name for name in edit.solve_figures if name.startswith("front:")}
    assert told == {f"front:{name}:{what}" for name in front for what in ("importance", "alignment")}
    for name, (importance, alignment) in front.items():
        assert edit.solve_figures[f"front:{name}:importance"] == pytest.approx(importance, rel=1e-5)
        assert edit.solve_figures[f"front:{name}:alignment"] == pytest.approx(alignment, rel=1e-5)


def test_several_concepts_add_up() -> None:
    """Each on its own layer, with the length that its own pictures ask for."""
    view = tiny.view("sd1")
    both = erased(view, concepts="each", layer="layers.0.mlp.fc1")
    seen = SLUG(**QUICK)._pairs(view, REQUEST).embed_with(sights(view)["text_encoder"])
    names = list(both.names)
    own = encoder_parameters(view)["text_encoder"]
    wanted = [torch.zeros_like(own[name]) for name in names]
    for number, target in enumerate(REQUEST.targets):
        shown = seen.rows[0][number::2]
        name = view._encoders()[0].pooled([target])
        loss = (1 - torch.nn.functional.cosine_similarity(shown, name)).mean()
        r = both.solve_figures[f"ratio:{target}"]
        g = loss_gradient(loss, [own[n] for n in names])
        for total, part in zip(wanted, g, strict=True):
            total += r * part
        size = sum(part.square().sum() for part in g) / sum(own[n].detach().square().sum() for n in names)
        assert both.solve_figures[f"relative_ratio:{target}"] == pytest.approx(r * float(size.sqrt()), rel=1e-5)
    for name, total in zip(names, wanted, strict=True):
        assert torch.allclose(both.deltas[name], total, rtol=1e-5, atol=1e-12)
    assert not torch.equal(both.deltas[names[0]], erased(view, layer="layers.0.mlp.fc1").deltas[names[0]])


@dataclass
class PlantedVision(PlantedSight):
    """A vision tower of two real layers."""

    def __post_init__(self) -> None:
        config = CLIPVisionConfig(
            hidden_size=self.view.widths[0],
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=16,
            patch_size=8,
        )
        torch.manual_seed(1)
        self.vision = CLIPVisionModel(config).double().eval().requires_grad_(False)

    def embed_images(self, pictures):
        small = torch.nn.functional.interpolate(pictures.double(), (16, 16))
        return torch.nn.functional.normalize(self.vision(pixel_values=small).pooler_output, dim=1)


def looking_through(tower) -> MethodServices:
    return MethodServices(vision_towers=lambda model, clips: {"text_encoder": tower})


def test_the_vision_tower_moves_along_its_gradient() -> None:
    """The same rule on its own matrices, which alone differ; the model is left as it was."""
    view = tiny.view("sd1")
    tower, settings = PlantedVision(view), SLUG(**QUICK)
    edit = settings.erase_vision(
        view, REQUEST, MethodServices(vision_towers=lambda model, clips: {"text_encoder": tower})
    )["text_encoder"]
    looking = ModuleView(tower.vision)
    pictures, own = settings._pairs(view, REQUEST).pictures[0], looking.parameters()
    for name in edit.names:
        own[name].requires_grad_(True)
    names = tower.embed_texts(REQUEST.targets).detach().repeat(3, 1)
    loss = (1 - (tower.embed_images(pictures) * names).sum(1)).mean()
    g = loss_gradient(loss, [own[name] for name in edit.names])
    tower.vision.requires_grad_(False)
    assert len({layer_number(name) for name in edit.names}) == 1
    for name, part in zip(edit.names, g, strict=True):
        assert torch.allclose(edit.deltas[name], edit.solve_figures["ratio"] * part, rtol=1e-5, atol=1e-12)
    assert any(name.startswith("front:layers.") for name in edit.solve_figures)
    seen, before = settings._pairs(view, REQUEST).embed_with(tower, is_live=True), tower.embed_images(pictures)
    with edit.scaled(0.01).applied(looking):
        assert seen.forget_loss() > loss
    assert torch.equal(tower.embed_images(pictures), before)


def test_a_vision_tower_without_layers_is_refused() -> None:
    view, tower = tiny.shared("sd1"), PlantedSight(tiny.shared("sd1"))
    tower.vision = torch.nn.Linear(2, 2)
    with pytest.raises(SettingsError, match="it is no CLIP's transformer"):
        SLUG(**QUICK).erase_vision(
            view, REQUEST, MethodServices(vision_towers=lambda model, clips: {"text_encoder": tower})
        )


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats_twice(points) -> None:
    matters, disturbs = ({str(i): float(point[side]) for i, point in enumerate(points)} for side in (0, 1))
    front = pareto_front(matters, disturbs)
    for i, (m, d) in enumerate(points):
        beaten = any(other > m and less < d for other, less in points)
        assert (str(i) in front) == (not beaten)


@given(st.floats(0.01, 100.0), st.integers(1, 12))
def test_the_search_halves_what_is_left(edge, evaluations) -> None:
    """It is gone from `edge` on: once an upper bound is there the bracket halves with every question."""
    asked = []

    def is_gone(r: float) -> bool:
        asked.append(r)
        return r >= edge

    found, suffices = bisect_ratio(is_gone, 1.0, evaluations)
    assert len(asked) == evaluations
    assert suffices == (max(asked) >= edge)
    if not suffices:
        assert found == max(asked)
        assert asked == [2.0**i for i in range(evaluations)]
        return
    first = next(i for i, r in enumerate(asked) if r >= edge)
    low = asked[first - 1] if first else 0.0
    assert found == min(r for r in asked if r >= edge)
    assert found - max([r for r in asked if r < edge], default=0.0) == pytest.approx(
        (asked[first] - low) / 2 ** (evaluations - 1 - first), rel=1e-9
    )


def test_shares_written_out() -> None:
    """A target is remembered while fewer than k retained names are nearer to its picture; a retained picture must be
    nearest to its own name.
    """
    view = tiny.view("sd1")
    settings = SLUG(**QUICK)
    seen = settings._pairs(view, REQUEST).embed_with(sights(view)["text_encoder"])
    read = sights(view)["text_encoder"].embed_texts
    names = [read([text])[0].detach() for text in ("dog", "hound", "cat", "car", "sun")]
    for k in (1, 2, 3, 9):
        remembered = []
        for i, row in enumerate(seen.rows[2]):
            nearer = sum(float(row @ name) > float(row @ names[i % 2]) for name in names[2:])
            remembered.append(nearer < min(k, 3))
        right = [
            max(range(5), key=lambda j, row=row: float(row @ names[j])) == 2 + i % 3
            for i, row in enumerate(seen.rows[3])
        ]
        assert seen.accuracies(k) == pytest.approx((sum(remembered) / 6, sum(right) / 6))


def test_the_search_sees_other_pictures_than_the_gradient() -> None:
    seen = SLUG(**QUICK)._pairs(tiny.view("sd1"), REQUEST)
    assert not torch.equal(seen.pictures[0], seen.pictures[2])
    assert not torch.equal(seen.pictures[1], seen.pictures[3])
    assert seen.captions == ("a cat", "a car", "a sun", "cat", "car", "sun")


def test_the_authors_captions_are_the_targets_name() -> None:
    """They say which layer, never the way it moves."""
    view = tiny.view("sd1")
    ours, theirs = (SLUG(**QUICK, compat=compat)._pairs(view, REQUEST) for compat in ("", "authors"))
    assert (theirs.captions, set(ours.captions) & {"dog", "hound"}) == (("dog",) * 6, set())
    assert all(map(torch.equal, ours.pictures, theirs.pictures))
    front, other = (sights(view)["text_encoder"] for _ in range(2))
    assert ours.embed_with(front).contrastive_loss(4) != theirs.embed_with(other).contrastive_loss(4)
    named = [erased(view, compat=compat, layer="layers.0.mlp.fc1") for compat in ("", "authors")]
    assert all(map(torch.equal, named[0].deltas.values(), named[1].deltas.values()))


def test_a_folder_of_pictures_is_what_is_seen(tmp_path) -> None:
    for i in range(3):
        picture(tmp_path / f"{i}.png", SIDE, SIDE, i)
    view = tiny.view("sd1")
    data = SLUG(**QUICK, images=str(tmp_path))._pairs(view, REQUEST)
    assert torch.equal(data.pictures[0], data.pictures[2])
    assert len(data.pictures[0]) == 3
    assert erased(view, images=str(tmp_path)).names
    (tmp_path / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1\.png"):
        erased(view, images=str(tmp_path))


def test_what_is_refused() -> None:
    view = tiny.view("sd1")
    with pytest.raises(RequestError, match="no retained texts to tell the target from"):
        erased(view, Request(("dog",), ("",)))
    with pytest.raises(SettingsError, match="write it as layers"):
        erased(view, layer="layers.7.mlp.fc1")
    with pytest.raises(RequestError, match="shorten it"):
        erased(view, templates=("a very long sentence around the {} indeed",))


@pytest.mark.parametrize(
    "setting", ["batch_size", "initial_ratio_divisor", "max_search_iterations", "top_k", "pictures", "picture_steps"]
)
def test_settings_out_of_range(setting) -> None:
    with pytest.raises(SettingsError, match=setting):
        build_settings(SLUG, {setting: 0})


@dataclass
class Planted:
    """Sees the target until the encoders have moved so many times as far as the rule alone moves them."""

    view: object
    rule: DenseEdit
    edge: float
    asked: list[float] = field(default_factory=list)

    def __call__(self, pictures: int) -> float:
        name, delta = next(iter(self.rule.deltas.items()))
        part, _, rest = name.partition(".")
        moved = self.view.modules(part).get_parameter(rest).detach() - self.view.reference([name])[name]
        self.asked.append(float((moved * delta).sum() / delta.square().sum()))
        return 0.0 if self.asked[-1] >= self.edge * (1 - 1e-9) else 0.5


@pytest.mark.parametrize("family", ["sd1", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sd2", "sdxl"))])
@pytest.mark.parametrize("edge", [0.5, 1.0, 3.3])
def test_the_search_goes_on_until_nothing_is_drawn(family, edge) -> None:
    """All encoders together, by one factor, which is the least that was asked for at which it is gone."""
    view, rule = tiny.view(family), own_edit(family)
    look = Planted(view, rule, edge)
    edit = erased(view, look=look, look_pictures=4)
    further = edit.solve_figures["further"]
    assert all(torch.allclose(edit.deltas[name], further * delta, rtol=1e-9) for name, delta in rule.deltas.items())
    assert look.asked[0] == pytest.approx(1.0)
    assert len(look.asked) == (1 if edge <= 1 else 10)
    assert further == pytest.approx(min(asked for asked in look.asked if asked >= edge * (1 - 1e-9)))
    assert further < max(1.0, edge) * 1.02


def test_who_is_not_asked_does_not_look() -> None:
    view = tiny.view("sd1")
    look = Planted(view, own_edit("sd1"), 1.0)
    assert erased(view, look=look).hash == own_edit("sd1").hash
    assert look.asked == []
    with pytest.raises(RequestError, match="asks a judge that does not grade"):
        erased(view, look_pictures=4)


def test_where_no_step_suffices() -> None:
    view = tiny.view("sd1")
    look = Planted(view, own_edit("sd1"), 1e9)
    with pytest.raises(
        NumericsError,
        match=r"50% of the drawn pictures still show the target at 1 times the step .* name another with --set layer=",
    ):
        erased(view, look=look, look_pictures=4)


def test_a_rule_that_is_never_met_is_told() -> None:
    """Steps too small for it, by either encoder of SDXL; where drawn pictures were looked at they have the word."""
    edit = erased(tiny.view("sd1"), initial_ratio_divisor=1000.0, max_search_iterations=2)
    left = edit.solve_figures["forget_accuracy"]
    for of in ("forget_accuracy", "forget_accuracy 2"):
        figures = {"forget_accuracy": 0.0, of: left}
        (said,) = weight_failures(edit.stamped(replace(ORIGIN, method="slug", report=figures)), 1.0)
        assert said.startswith(
            f"no step size was enough: the vision tower still recognises the target in {left:.0%} of its pictures:"
            " choose another layer"
        )
        assert (
            weight_failures(edit.stamped(replace(ORIGIN, method="slug", report=figures | {"further": 1.0})), 1.0) == []
        )


def test_narrow_weights_are_sent_where_slug_can_go() -> None:
    with pytest.raises(SettingsError, match=r"--dtype float32; to compute in lower precision"):
        erased(tiny.view("sd1", torch.bfloat16))


def test_golden_figures() -> None:
    """A change of these numbers is a change of behaviour."""
    edit = own_edit("sd1")
    told = {name: value for name, value in edit.solve_figures.items() if not name.startswith("front:")}
    assert told == pytest.approx(FIGURES, rel=1e-4)
    assert sum(float(delta.square().sum()) for delta in edit.deltas.values()) ** 0.5 == pytest.approx(NORM, rel=1e-4)


FIGURES = {"layer": 1, "ratio": 95.810957, "relative_ratio": 19.2, "forget_accuracy": 0, "retain_accuracy": 0.33333334}
NORM = 93.486478
