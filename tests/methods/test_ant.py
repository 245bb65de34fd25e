"""ANT against its four terms, its gradient maps and a plain trainer written out, and the properties of its paper."""

import pytest
import torch

from tests import tiny
from tests.methods.plain_trainer import require_same_deltas, second_model
from unconcept.core import Request
from unconcept.core.errors import SettingsError
from unconcept.core.recipe import load_recipe
from unconcept.core.settings import build_settings
from unconcept.methods import ant
from unconcept.methods.ant import ANT
from unconcept.models.hooks.modules import denoiser_parameters
from unconcept.training import TrainingSession, training_session
from unconcept.training.goals import TextEncodings
from unconcept.training.parameter_groups import select_parameters
from unconcept.training.trajectories import GuidedSampler, PartialSampling, TrajectoryPool

CONTRACT_SETTINGS = {
    "iterations": 2,
    "ddim_steps": 2,
    "before_step": 1,
    "pool": 1,
    "lr": 0.001,
    "saliency_seeds": 1,
    "saliency_steps": 1,
    "saliency_share": 0.9,
}

FAST = ("sd1", "flux")
FAMILIES = [
    pytest.param(family, marks=() if family in FAST else pytest.mark.slow) for family in (*tiny.FAMILIES, *tiny.MMDITS)
]
REQUEST = Request(("hat",), ("red fox",))
QUICK = {"iterations": 3, "ddim_steps": 4, "before_step": 2, "pool": 2, "lr": 1e-3, "train_method": "xattn"}
POOLED = {**QUICK, "sampling": "reference"}
UNMASKED = {**POOLED, "saliency_seeds": 0}
STEPS, SPLIT = 4, 2


def erased(view, request=REQUEST, **settings):
    losses = []
    with training_session(
        TrainingSession(lambda progress: losses.append((progress.name, progress.loss, progress.done)))
    ):
        edit = ANT(**settings).erase(view, request)
    totals = [loss * done for name, loss, done in losses if name == "ant"]
    return edit, [now - before for now, before in zip(totals, [0.0, *totals], strict=False)]


def walk(view):
    return GuidedSampler(view, TextEncodings.of(view), STEPS, 3.0)


def pairs(view, count=3):
    """(late x_t, t), (early x_t, t) that a training of `count` steps sees."""
    pool, rng = TrajectoryPool(walk(view), ("hat",), 2, count, lowest=SPLIT), torch.Generator().manual_seed(0)
    found = []
    for step in range(count):
        late, early = pool.draw_pair(step, 1, rng)
        assert early.k[0] < SPLIT <= late.k[0]
        found.append(((late.x_t, late.t), (early.x_t, early.t)))
    return found


def literal_loss(view, student, late, early, method):
    """The four terms, a prediction at a time."""

    def told(net, point, text):
        return net.denoise(*point, [text])

    terms = []
    for point, sign in ((late, -1), (early, 1)):
        with torch.no_grad():
            e_0, e_c = told(view, point, ""), told(view, point, "hat")
            wanted = e_0 + sign * method.negative_guidance * method.loss_guidance * (e_c - e_0)
        said, empty = told(student, point, "hat"), told(student, point, "")
        guided = said if method.loss_guidance == 1 else empty + method.loss_guidance * (said - empty)
        terms.append((guided - wanted).square().mean() + method.a2 * (empty - e_0).square().mean())
    return terms[0] + method.a1 * terms[1]


def plainly(view, method, masks=None):
    """A whole second model, Adam by torch, gradients times masks: the deltas and losses."""
    student = second_model(view)
    own = denoiser_parameters(student)
    trained = [own[n] for n in select_parameters(own, "xattn")]
    before, rule, losses = [p.detach().clone() for p in trained], torch.optim.Adam(trained, lr=QUICK["lr"]), []
    for late, early in pairs(view):
        loss = literal_loss(view, student, late, early, method)
        rule.zero_grad()
        loss.backward()
        for p, mask in zip(trained, masks or [1] * len(trained), strict=True):
            p.grad *= mask
        rule.step()
        losses.append(loss.item())
    return [p.detach() - b for p, b in zip(trained, before, strict=True)], losses


def literal_masks(view, method, request=REQUEST):
    """For each seed the summed gradients of the loss at the unedited model; the larger half of each tensor, in all."""
    student, masks = second_model(view), None
    own = denoiser_parameters(student)
    trained = [own[n] for n in select_parameters(own, "xattn")]
    for number in range(method.saliency_seeds):
        rng, source = torch.Generator().manual_seed(number), PartialSampling(walk(view), ("hat",), SPLIT)
        sums = [torch.zeros_like(p) for p in trained]
        for step in range(method.saliency_steps):
            late, early = source.draw_pair(step, 1, rng)
            loss = literal_loss(view, student, (late.x_t, late.t), (early.x_t, early.t), method)
            for total, g in zip(sums, torch.autograd.grad(loss, trained), strict=True):
                total += g
        found = []
        for total in sums:
            order = total.abs().flatten().argsort(descending=True)
            mask = torch.zeros(total.numel(), dtype=torch.bool)
            mask[order[: int(method.saliency_share * total.numel())]] = True
            found.append(mask.view_as(total))
        masks = found if masks is None else [a & b for a, b in zip(masks, found, strict=True)]
    return masks


def require_close(edit, deltas):
    require_same_deltas(edit, deltas)


@pytest.mark.parametrize("family", FAMILIES)
def test_is_the_plain_trainer(family) -> None:
    view, method = tiny.view(family), ANT(**UNMASKED, a2=0.7, a1=0.6, negative_guidance=1.3)
    edit, losses = erased(view, **UNMASKED, a2=0.7, a1=0.6, negative_guidance=1.3)
    deltas, plain = plainly(view, method)
    assert losses == pytest.approx(plain, rel=1e-6)
    require_close(edit, deltas)


@pytest.mark.slow
def test_guided_predictions_are_compared() -> None:
    view = tiny.view("sd1")
    edit, losses = erased(view, **UNMASKED, loss_guidance=7.5)
    deltas, plain = plainly(view, ANT(**UNMASKED, loss_guidance=7.5))
    assert losses == pytest.approx(plain, rel=1e-6)
    require_close(edit, deltas)


def test_the_masks_are_what_all_maps_share() -> None:
    view, settings = tiny.view("sd1"), {**POOLED, "saliency_seeds": 2, "saliency_steps": 2, "saliency_share": 0.6}
    edit, losses = erased(view, **settings)
    masks = literal_masks(view, ANT(**settings))
    deltas, plain = plainly(view, ANT(**settings), masks)
    assert losses == pytest.approx(plain, rel=1e-6)
    require_close(edit, deltas)
    for delta, mask in zip(edit.deltas.values(), masks, strict=True):
        assert not delta[~mask].any()
        assert delta[mask].any() or not mask.any()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_loss(family) -> None:
    """L1 = L2 = L4 = 0 and L3 = 4 |d|^2 at eta 1."""
    view = tiny.view(family)
    _, losses = erased(view, **{**UNMASKED, "iterations": 1})
    ((late, _),) = pairs(view, 1)
    with torch.no_grad():
        d = view.denoise(*late, ["hat"]) - view.denoise(*late, [""])
    assert losses == [pytest.approx(4 * d.square().mean().item(), rel=1e-6)]


@pytest.mark.slow
def test_without_the_early_stage_it_is_esd() -> None:
    from unconcept.methods.esd import ESD

    view = tiny.view("sd1")
    ours, _ = erased(view, **{**UNMASKED, "before_step": 0, "a2": 0.0})
    theirs = ESD(train_method="x", iterations=3, ddim_steps=4, pool=2, lr=1e-3).erase(view, REQUEST)
    require_close(ours, list(theirs.deltas.values()))
    without, _ = erased(view, **{**UNMASKED, "a1": 0.0, "a2": 0.0})
    other, _ = erased(view, **{**UNMASKED, "a1": 0.0})
    assert without.hash != other.hash


@torch.no_grad()
def turned_and_moved(view, edit):
    """Of late points the cosine to the old guidance, of early ones the squared drift in the guidance's own size."""
    source, cosines, drift = PartialSampling(walk(view), ("hat",), SPLIT), [], []
    for number in range(4):
        late, early = source.draw_pair(number, 1, torch.Generator().manual_seed(100 + number))
        for point, found in ((late, cosines), (early, drift)):
            e_0, e_c = (view.denoise(point.x_t, point.t, [text]) for text in ("", "hat"))
            with edit.applied(view):
                said = view.denoise(point.x_t, point.t, ["hat"])
            if found is cosines:
                found.append(
                    float(torch.nn.functional.cosine_similarity((said - e_0).flatten(), (e_c - e_0).flatten(), 0))
                )
            else:
                found.append(float((said - e_c).square().mean() / (e_c - e_0).square().mean()))
    return cosines, drift


@pytest.mark.slow
def test_late_predictions_turn_and_early_ones_only_where_nothing_keeps_them() -> None:
    """So small a network tells timesteps apart so little that it gives in to one stage or to the other."""
    view = tiny.view("sd1")
    cosines, drift = turned_and_moved(view, erased(view, **{**UNMASKED, "iterations": 100, "a1": 0.0})[0])
    assert max(cosines) < -0.9
    assert min(drift) > 2
    cosines, drift = turned_and_moved(view, erased(view, **{**UNMASKED, "iterations": 100, "a1": 0.5})[0])
    assert max(drift) < 0.5
    assert max(cosines) < 0.9


def test_calls_of_the_denoiser() -> None:
    """Three calls of the pool's walk, then one of the teacher and one of the student, each of both texts and stages."""
    view = tiny.view("sd1", torch.float32)
    rows = []
    view.modules("denoiser").register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    erased(view, **UNMASKED)
    assert rows == [4, 4, 4, *[4, 4] * 3]


@pytest.mark.slow
def test_the_student_walks_on_from_the_early_point_to_the_late_one() -> None:
    view = tiny.view("sd1", torch.float32)
    rows = []
    view.modules("denoiser").register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    late, early = PartialSampling(walk(view), ("hat",), SPLIT).draw_pair(0, 1, torch.Generator().manual_seed(1))
    assert len(rows) == late.k[0] >= SPLIT > early.k[0]
    del rows[:]
    _, student = erased(view, **{**UNMASKED, "sampling": "student", "lr": 0.1})
    _, pooled = erased(view, **{**UNMASKED, "lr": 0.1})
    assert student != pytest.approx(pooled, rel=1e-3)


def test_authors_train_nothing_by_the_empty_text() -> None:
    """However much its terms weigh: they have no gradient."""
    view = tiny.view("sd1")
    light, heavy = (erased(view, **{**UNMASKED, "a2": a2}, compat="authors")[0] for a2 in (0.5, 1e6))
    require_close(heavy, list(light.deltas.values()))


@pytest.mark.parametrize("sampling", ["student", "reference"])
def test_authors_without_a_kept_stage_reverse_every_step(sampling) -> None:
    _, losses = erased(
        tiny.view("sd1", torch.float32), **{**UNMASKED, "before_step": 0, "sampling": sampling}, compat="authors"
    )
    assert len(losses) == 3
    assert min(losses) > 0


@pytest.mark.slow
def test_authors_swap_the_stages_and_keep_the_small_gradients() -> None:
    """The last steps are kept."""
    view = tiny.view("sd1")
    _, losses = erased(view, **{**UNMASKED, "before_step": 1})
    _, swapped = erased(view, **{**UNMASKED, "before_step": 1}, compat="authors")
    assert losses != pytest.approx(swapped)
    settings = {**POOLED, "saliency_seeds": 1, "saliency_steps": 1, "saliency_share": 0.3}
    masked = [erased(view, **settings, compat=compat)[0] for compat in ("", "authors")]
    moved = [{n: d != 0 for n, d in edit.deltas.items()} for edit in masked]
    shared = sum(int((moved[0][name] & moved[1][name]).sum()) for name in moved[0])
    assert shared < 0.1 * sum(int(mask.sum()) for mask in moved[0].values())


FUSED = {**QUICK, "variant": "fusion", "iterations": 4, "rank": 4, "lr": 1e-2, "start_guidance": 7.5}
SAID = ("a {}", "{} in fog", "old {}")


def test_one_adapter_is_fused_to_what_it_does_on_its_sentences(monkeypatch) -> None:
    """Without a prior and for lamb to 0, W* = W + scale dW on all rows of its sentences."""
    fused, parts = ant.fuse_edits, []
    monkeypatch.setattr(
        ant, "fuse_edits", lambda model, given, *rest: parts.extend(given) or fused(model, given, *rest)
    )
    view = tiny.view("sd1")
    edit, _ = erased(view, **FUSED, preserve_scale=0.0, templates=SAID, lamb=1e-9, lora_scale=4.3)
    ((adapter, said),) = parts
    assert said == [form.format("hat") for form in SAID]
    rows = view.embed(said, at="all").flatten(0, 1).detach()
    for name, w in view.text_maps().items():
        up, down = adapter.pairs[name]
        wanted = rows @ (up @ down).double().T
        assert wanted.norm() > 1e-3
        assert (rows @ edit.delta(name, w.detach()).T - wanted).norm() < 1e-4 * wanted.norm()


def test_an_adapter_is_scaled_by_its_alpha_and_by_the_fusion(monkeypatch) -> None:
    """AdamW's first step moves every entry of up by lr; what is fused is 4.3 / rank of it."""
    fused, parts = ant.fuse_edits, []
    monkeypatch.setattr(
        ant, "fuse_edits", lambda model, given, *rest: parts.extend(given) or fused(model, given, *rest)
    )
    erased(tiny.view("sd1", torch.float32), **{**FUSED, "iterations": 1}, lora_scale=4.3)
    up, _ = next(iter(parts[0][0].pairs.values()))
    assert float(up.abs().max()) == pytest.approx(4.3 / FUSED["rank"] * FUSED["lr"], rel=0.05)


def test_adapters_that_learn_nothing_are_fused_to_nothing() -> None:
    view = tiny.view("sd1")
    edit, _ = erased(view, Request(("hat", "red fox"), ("cat", "cat"), ("car",)), **{**FUSED, "lr": 0.0})
    assert not any(edit.delta(name, w.detach()).abs().max() > 1e-12 for name, w in view.text_maps().items())


@pytest.mark.slow
def test_fusion_keeps_retained_texts_and_refuses_joint_transformers() -> None:
    view, request = tiny.view("sd1"), Request(("hat",), ("cat",), ("car",))
    kept = view.embed(["car"], at="all").flatten(0, 1).detach()
    sizes = []
    for weight in (0.0, 1e12):
        edit, _ = erased(view, request, **{**FUSED, "preserve_weight": weight})
        deltas = [edit.delta(name, w.detach()) for name, w in view.text_maps().items()]
        sizes.append(sum(float((kept @ delta.T).square().sum()) for delta in deltas))
    assert sizes[1] < 1e-3 * sizes[0]
    with pytest.raises(SettingsError, match="ant: the variant fusion needs maps that read the text alone"):
        erased(tiny.view("flux"), **FUSED)


@pytest.mark.slow
def test_authors_adapt_every_map_and_fuse_some() -> None:
    view = tiny.view("sd1", torch.float32)
    ours, theirs = (erased(view, **FUSED, compat=compat)[0] for compat in ("", "authors"))
    assert ours.names == theirs.names == tuple(sorted(view.text_maps()))
    assert ours.hash != theirs.hash


@pytest.mark.parametrize("name", ["ant-celebrity-100", "ant-style-100"])
def test_the_recipes_for_many_have_the_weights_of_their_code(name) -> None:
    """It minimises L3 + alpha_1 L4 + alpha_2 (L1 + alpha_1 L2): its alpha_1 is a2 here, and its alpha_2 is a1."""
    own = ANT(**load_recipe(name).settings)
    assert (own.a2, own.a1) == (2.5, 0.5)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("before_step", 50),
        ("before_step", -1),
        ("negative_guidance", -2.0),
        ("loss_guidance", 0.0),
        ("a1", -1.0),
        ("a2", -1.0),
        ("saliency_share", 0.0),
        ("saliency_share", 1.1),
        ("saliency_steps", 0),
        ("saliency_seeds", -1),
        ("rank", 0),
        ("pool", 0),
        ("iterations", -1),
        ("variant", "both"),
        ("compat", "theirs"),
    ],
)
def test_settings_out_of_range(setting, value) -> None:
    with pytest.raises(SettingsError, match=setting):
        build_settings(ANT, {setting: value})


def test_golden_losses() -> None:
    """A change of these numbers is a change of behaviour."""
    view, settings = tiny.view("sd1"), {**POOLED, "iterations": 5, "saliency_seeds": 2, "saliency_steps": 2}
    edit, losses = erased(view, **settings)
    assert losses == pytest.approx(LOSSES, rel=1e-4)
    assert sum(float(delta.square().sum()) for delta in edit.deltas.values()) ** 0.5 == pytest.approx(NORM, rel=1e-4)


LOSSES = [0.00029912192, 0.00021755749, 0.00020856998, 0.0003437055, 0.00021257032]
NORM = 0.08183105833
