"""CPE against a plain trainer written out, layer by layer, and the properties of its paper."""

import copy

import pytest
import torch
from safetensors.torch import save_file

from tests import tiny
from unconcept.core import Request
from unconcept.core.errors import EditError, NumericsError, RequestError, SettingsError
from unconcept.core.seeds import numbered_seed
from unconcept.core.settings import build_settings
from unconcept.edits import ResidualGate, ResidualGateEdit, load_edit
from unconcept.edits.export.foreign import read_foreign_edit
from unconcept.methods.cpe import CPE
from unconcept.training import TrainableGate, TrainingSession, training_session

CONTRACT_SETTINGS = {"iterations": 2, "stages": 2, "lr": 0.01, "pal": 0.1, "num_add_prompts": 2, "templates": ["a {}"]}

EVERY = (*tiny.FAMILIES, *tiny.MMDITS)
REQUEST = Request(("dog", "hound"), ("hat", "cap"), ("cat", "sun", "car"))
QUICK = {
    "iterations": 3,
    "stages": 2,
    "first_stage_factor": 1,
    "lr": 1e-2,
    "lr_warmup_steps": 0,
    "gate_rank": 3,
    "rank": 2,
    "alpha": 3.0,
    "num_add_prompts": 3,
    "retain_batch": 2,
    "pal": 0.5,
    "adv_coef": 0.7,
    "templates": ("a {}",),
}


def erased(view, request=REQUEST, **settings):
    losses = []
    with training_session(TrainingSession(lambda progress: losses.append(progress.loss * progress.done))):
        edit = CPE(**{**QUICK, **settings}).erase(view, request)
    return edit, [now - before for now, before in zip(losses, [0.0, *losses], strict=False)]


def states(view, texts):
    """Each text alone, as the maps read it."""
    with torch.no_grad():
        return torch.cat([view.condition([text]).states for text in texts])


def gated(x, gate, name):
    """What one map adds, token by token and text by text."""
    up, down = gate.pairs[name]
    rows = []
    for text in x:
        seen = torch.softmax((text @ gate.query.to(text)) @ (text @ gate.key.to(text)).T, 1) @ text
        opened = 1 / (1 + torch.exp(-(seen * gate.score.to(text)).sum(1)))
        rows.append(1.5 * torch.stack([up.to(t) @ (down.to(t) @ t) for t in opened[:, None] * seen]))
    return torch.stack(rows)


def sizes(view, l):
    """lambda of each map: singular values by eigenvalues of the squares."""
    net = view.modules("denoiser")

    def largest(matrix):
        return torch.linalg.eigvalsh(matrix.T @ matrix).max().sqrt()

    found = {}
    for name in view.text_maps():
        place = name.partition(".")[2].removesuffix(".weight")
        if not place.endswith(("to_k", "to_v")):
            found[name] = 1.0
            continue
        attention = net.get_submodule(place.rpartition(".")[0])
        q, v, o = attention.to_q.weight, attention.to_v.weight, attention.to_out[0].weight
        found[name] = (largest(o) if place.endswith("to_v") else largest(o @ v) * largest(q) / l).item()
    return found


def mixed_rows(kept, noise, rng):
    """Two mixtures of retained rows, with noise in proportion to each token's size."""
    drawn = torch.randint(3, (4,), generator=rng)
    share = torch.rand(2, 1, 1, generator=rng).to(kept)
    mixed = share * kept[drawn[:2]] + (1 - share) * kept[drawn[2:]]
    size = mixed.square().sum(-1, keepdim=True).sqrt()
    return mixed + noise * size * torch.randn(mixed.shape, generator=rng).to(mixed)


def rate(own, step):
    """The learning rate of six steps in two trainings: the second has a restart at its middle."""
    share = step % 3 / 3 * (2 if step < 3 else 1) % 1
    first = own.first_lr_factor if step < 3 else 1
    return own.lr * first * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * share)).item())


def searched(own, rows, loss):
    """What, added to the rows, brings the target back, found in three steps."""
    generator = torch.Generator().manual_seed(numbered_seed(own.seed, 0))
    p = (0.01 * torch.randn(rows.shape, generator=generator)).to(rows).requires_grad_()
    rule = torch.optim.AdamW([p], lr=own.lr_adv, weight_decay=1e-2)
    for _ in range(3):
        rule.zero_grad()
        p.grad = torch.autograd.grad(loss(rows + p), p)[0]
        rule.step()
    return p.detach()


def plainly(view, settings):
    """Two trainings with a search in between, each map by itself, torch's AdamW: the gate and the losses."""
    own = CPE(**{**QUICK, **settings})
    begun = TrainableGate(view, REQUEST.targets, {n: tuple(w.shape) for n, w in view.text_maps().items()}, 3, 2, 2024)
    gate, maps = copy.deepcopy(begun.gate), {name: w.detach() for name, w in view.text_maps().items()}
    leaves = [gate.query, gate.key, gate.score, *(t for pair in gate.pairs.values() for t in pair)]
    c, neutral = states(view, ["a dog", "a hound"]), states(view, ["a hat", "a cap"])
    kept, scale = states(view, ["a cat", "a sun", "a car"]), sizes(view, c.shape[1])
    rule = torch.optim.AdamW(leaves, lr=own.lr, weight_decay=1e-2)
    rng, losses, p = torch.Generator().manual_seed(own.seed), [], None

    def mean(errors):
        return sum(scale[name] * error.square().mean() for name, error in errors.items()) / len(errors)

    def erasing(rows, x):
        n = own.guidance_scale
        return mean(
            {
                name: w_n + n * (w_n - w_c) - w_x - gated(x, gate, name)
                for name, w in maps.items()
                for w_n, w_c, w_x in [(neutral[rows] @ w.T, c[rows] @ w.T, x @ w.T)]
            }
        )

    def coming_back(x):
        return mean({name: x @ w.T + gated(x, gate, name) - c[[0, 1, 0]] @ w.T for name, w in maps.items()})

    for step in range(6):
        if step == 3:
            p = searched(own, c[[0, 1, 0]], coming_back)
        torch.randint(1, (), generator=rng)  # of the sentence
        loss = erasing([0, 1], c)
        if p is not None:
            loss = loss + own.adv_coef * erasing([0, 1, 0], c[[0, 1, 0]] + p)
        torch.randint(1, (), generator=rng)
        mixed = mixed_rows(kept, own.noise, rng)
        loss = loss + own.pal * mean({name: gated(mixed, gate, name) for name in maps})
        for group in rule.param_groups:
            group["lr"] = rate(own, step)
        rule.zero_grad()
        loss.backward()
        rule.step()
        losses.append(loss.item())
    return gate, losses


def require_plain(view, **settings):
    gate, plain = plainly(view, settings)
    edit, losses = erased(view, **settings)
    assert losses == pytest.approx(plain, rel=1e-4)
    (ours,) = edit.gates
    pairs = [(1.5 * up, ours.pairs[name][0]) for name, (up, _) in gate.pairs.items()]
    pairs += [(down, ours.pairs[name][1]) for name, (_, down) in gate.pairs.items()]
    pairs += [(getattr(gate, part), getattr(ours, part)) for part in ("query", "key", "score")]
    apart = sum((one.detach() - other).square().sum() for one, other in pairs)
    assert apart < 1e-5 * sum(one.detach().square().sum() for one, _ in pairs)


@pytest.mark.parametrize("family", EVERY)
def test_is_the_plain_trainer(family) -> None:
    """At rates at which the gate weighs in the search; flux's shuts at the larger one."""
    rates = {"sd1": {"lr_adv": 0.1}, "flux": {"lr": 1e-3}}
    require_plain(tiny.view(family), **rates.get(family, {}))


def opened(view, edit, text, at):
    (gate,) = edit.gates
    return gate.open(states(view, [text]))[1][0, at]


@torch.no_grad()
def said(view, texts=("a dog",)):
    noise = torch.randn(1, *view.latent_shape, generator=torch.Generator().manual_seed(0)).to(view.dtype)
    return view.denoise(noise.expand(len(texts), -1, -1, -1), torch.tensor([500]), list(texts))


@pytest.mark.parametrize("family", EVERY)
def test_at_the_start_the_gate_is_half_open_and_adds_nothing(family) -> None:
    """To the bit; the first loss is lambda (1 + eta)^2 |W (c_neu - c)|^2 of which eta = -1 leaves nothing."""
    view = tiny.view(family)
    edit, _ = erased(view, iterations=0)
    assert torch.equal(
        opened(view, edit, "sun", slice(None)), torch.full_like(opened(view, edit, "sun", slice(None)), 0.5)
    )
    before = said(view)
    with edit.applied(view):
        assert torch.equal(said(view), before)
    weak, strong = (erased(view, guidance_scale=eta, iterations=1, stages=1)[1][0] for eta in (0.0, 2.0))
    assert strong == pytest.approx(9 * weak, rel=1e-5)
    assert erased(view, guidance_scale=-1.0, iterations=1, stages=1)[1] == pytest.approx([0.0], abs=1e-9)


def made(view, texts, seed, opening=1.0):
    """A gate with random numbers everywhere, open by about `opening`'s logistic."""
    rng, maps = torch.Generator().manual_seed(seed), view.text_maps()
    d = next(iter(maps.values())).shape[1]
    mean = states(view, ["a dog"])[0].mean(0)
    pairs = {n: (torch.randn(len(w), 2, generator=rng), torch.randn(2, d, generator=rng)) for n, w in maps.items()}
    score = (opening * mean / mean.square().sum()).float()
    return ResidualGate(texts, *(1e-3 * torch.randn(d, 3, generator=rng) for _ in range(2)), score, pairs)


def test_each_token_has_the_widest_gate() -> None:
    view = tiny.view("sd1")
    wide, narrow = (
        ResidualGateEdit((made(view, (name,), i, opening),))
        for i, (name, opening) in enumerate([("dog", 2.0), ("fox", -2.0)])
    )
    with wide.applied(view):
        alone = said(view)
    for both in (wide.joined(narrow), narrow.joined(wide)):
        assert len(both.gates) == 2
        with both.applied(view):
            assert torch.equal(said(view), alone)
            assert torch.allclose(said(view, ["a dog", "sun"])[:1], alone, atol=1e-6)
    with narrow.applied(view):
        assert not torch.allclose(said(view), alone, atol=1e-4)
    with pytest.raises(EditError, match="different strengths do not join"):
        wide.joined(narrow.scaled(0.5))


def test_saved_and_read(tmp_path) -> None:
    view = tiny.view("sd1")
    edit = erased(view, gates="each")[0].scaled(0.5)
    assert [gate.texts for gate in edit.gates] == [("dog",), ("hound",)]
    edit.save(tmp_path / "e.safetensors")
    found = load_edit(tmp_path / "e.safetensors")
    assert (found.hash, found.strength, found.names) == (edit.hash, 0.5, ())
    with edit.applied(view):
        one = said(view)
    with found.applied(view):
        assert torch.equal(said(view), one)


def authors_file(path, view, gate, prompts="dog, hound", **more):
    """As the authors' code writes it: one concept first, maps transposed, alpha beside each."""
    attention = "attention_gate.encoder_layer.slf_attn."
    tensors = {
        f"{attention}attention_module1.w_qs.weight": gate.query[None],
        f"{attention}attention_module1.w_ks.weight": gate.key[None] + 1,
        f"{attention}gate.scaler.weight": gate.score[None, :, None],
    }
    for name, (up, down) in gate.pairs.items():
        module = "lora_unet_" + name.partition(".")[2].removesuffix(".weight").replace(".", "_")
        tensors |= {f"{module}.lora_down.weight": down.T[None], f"{module}.lora_up.weight": up.T[None]}
        tensors[f"{module}.alpha"] = torch.tensor(1.0)
    tensors = {name: t.detach().clone().contiguous() for name, t in (tensors | more).items()}
    save_file(
        {name: t for name, t in tensors.items() if t.numel()}, path, {"prompts": prompts, "rank": "2", "alpha": "1.0"}
    )
    return path


def test_a_file_of_the_authors_is_read(tmp_path) -> None:
    """Its keys are never read, so queries stand in for them; what it adds is alpha / rank of its product."""
    view, base = tiny.view("sd1"), tiny.folder("sd1", tmp_path / "base")
    gate = made(view, ("dog",), 3)
    found = read_foreign_edit(authors_file(tmp_path / "a.safetensors", view, gate), base)
    assert "queries" in found.notes[0]
    (ours,) = found.edit.gates
    assert ours.texts == ("dog", "hound")
    halved = {name: (0.5 * up, down) for name, (up, down) in gate.pairs.items()}
    wanted = ResidualGateEdit((ResidualGate(("dog",), gate.query, gate.query, gate.score, halved),))
    with wanted.applied(view):
        one = said(view)
    with found.edit.applied(view):
        assert torch.allclose(said(view), one, atol=1e-12)
    module = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_up.weight"
    for more, message in (
        ({"strange": torch.ones(1)}, "strange is no part of a gate"),
        ({module: torch.ones(1, 2, 5)}, "does not fit"),
        ({module: torch.empty(0)}, "has no up"),
        ({"attention_gate.encoder_layer.slf_attn.gate.scaler.weight": torch.empty(0)}, "its gate is not whole"),
        (
            {
                "lora_unet_elsewhere.lora_down.weight": torch.ones(1, 3, 2),
                "lora_unet_elsewhere.lora_up.weight": torch.ones(1, 2, 3),
            },
            "the file is for another model",
        ),
    ):
        with pytest.raises(EditError, match=message):
            read_foreign_edit(authors_file(tmp_path / "b.safetensors", view, gate, **more), base)


def test_a_gate_has_the_papers_size() -> None:
    """About 75 thousand numbers in SD 1.4: 16 attentions of widths 320, 640 and 1280."""
    widths = [320] * 5 + [640] * 5 + [1280] * 6
    maps = {f"unet.{i}.{side}": (o, 768) for i, o in enumerate(widths) for side in "kv"}
    view = tiny.shared("sd1")
    assert sum(t.numel() for t in TrainableGate(view, ("dog",), maps, 16, 1).tensors.values()) == 74_880


def test_as_the_authors_train_keys_are_queries() -> None:
    edit, losses = erased(tiny.view("sd1"), compat="authors")
    (gate,) = edit.gates
    assert torch.equal(gate.query, gate.key)
    assert losses != erased(tiny.view("sd1"))[1]


def test_no_call_of_the_denoiser() -> None:
    view, calls = tiny.view("sd1", torch.float32), []
    view.modules("denoiser").register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    erased(view)
    assert calls == []


def test_what_is_refused() -> None:
    view = tiny.view("sd1", torch.float32)
    with pytest.raises(RequestError, match=r"cpe: no retained text holds the gate shut: .* pal to 0"):
        erased(view, Request(("dog",), ("",)))
    assert erased(view, Request(("dog",), ("",)), pal=0.0)[0].gates
    with pytest.raises(NumericsError, match=r"cpe, step 60 of 120: the gate stays shut: it opens to .* for 'dog'"):
        erased(view, iterations=60, pal=1e6, lr=0.05, guidance_scale=-0.9)
    with pytest.raises(NumericsError, match=r"cpe, step 3 of 6: the search .* diverged, .*: lower lr_adv"):
        erased(view, lr_adv=1e4)


@pytest.mark.slow
def test_retained_texts_are_held() -> None:
    """What maps read of a text beside the retained ones drifts less than what they read of the target."""
    view = tiny.view("sd1")
    edit, _ = erased(view, Request(("dog",), ("hat",), ("cat", "sun", "car", "fox", "tree")), iterations=150, lr=1e-3)
    drift = []
    for text in ("a dog", "a boat"):
        x = states(view, [text])
        (gate,) = edit.gates
        maps = {name: w.detach() for name, w in view.text_maps().items()}
        moved = sum(float(gated(x, gate, name).square().sum()) for name in maps) / 2.25
        drift.append((moved / sum(float((x @ w.T).square().sum()) for w in maps.values())) ** 0.5)
    assert drift[1] < 0.5 * drift[0]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("iterations", -1),
        ("stages", 0),
        ("gate_rank", 0),
        ("pal", -1.0),
        ("lr_adv", -1.0),
        ("num_add_prompts", 0),
        ("retain_batch", 0),
        ("guidance_scale", -1.5),
        ("gates", "two"),
        ("compat", "theirs"),
    ],
)
def test_settings_out_of_range(setting, value) -> None:
    with pytest.raises(SettingsError, match=setting):
        build_settings(CPE, {setting: value})


def test_golden_losses() -> None:
    """A change of these numbers is a change of behaviour."""
    edit, losses = erased(tiny.view("sd1"))
    assert losses == pytest.approx(LOSSES, rel=1e-4)
    (gate,) = edit.gates
    assert sum(float((up @ down).square().sum()) for up, down in gate.pairs.values()) ** 0.5 == pytest.approx(
        NORM, rel=1e-4
    )


LOSSES = [0.058936683, 0.055449691, 0.050890181, 0.14470525, 0.1143356, 0.094592927]
NORM = 1.6621915
