"""The trials of `benchmarks.classifiers`, each a function of its data and seed to figures."""

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unconcept.core.errors import ModelError
from unconcept.methods.gs_lora import GSLoRA
from unconcept.methods.gs_lora_plus import GSLoRAPlus
from unconcept.methods.noisy_gd import NoisyGD
from unconcept.methods.stochastic_teacher import StochasticTeacher
from unconcept.metrics.deletion_privacy import adaptive_epsilon
from unconcept.models.module_view import ModuleView
from unconcept.training import TrainingOptions
from unconcept.training.forgetting.examples import ClassRequest, LabelledImages
from unconcept.training.forgetting.noisy_linear import NoisyLinear
from unconcept.training.images.overfitting import augment_learned, erase_rectangles, keep_unlearned, sample_losses

from .classifier_data import ResidualMLP, SmallViT, Split, built, plain_mlp, small_cnn
from .classifier_figures import (
    BatchLoss,
    accuracy,
    adversarial,
    fit,
    membership_auc,
    plain_loss,
    probe_accuracy,
    relearning_steps,
    robust_accuracy,
)

Figures = dict[str, object]
SEQUENCES = {"digits": ((3,), (7,), (1,)), "moji": ((3,), (6,), (1,))}
NETWORKS: dict[str, Callable[[Split], nn.Module]] = {
    "vit": SmallViT,
    "cnn": small_cnn,
    "blocks": lambda split: ResidualMLP(),
}
_KNOWN: dict[tuple[object, ...], nn.Module] = {}
EPOCHS = {"digits": 20, "moji": 50}
GS_LORA = {
    "rank": 4, "lr": 1e-2, "batch_size": 24, "iterations": 100, "bnd": 15.0, "beta": 0.15, "alpha": 0.01,
    "alpha_warm_up": 33,
}  # fmt: skip
METHODS = {
    "gs-lora": GSLoRA(**GS_LORA),
    "gs-lora-plus": GSLoRAPlus(**GS_LORA, w_f=0.01),
    "stochastic-teacher": StochasticTeacher(
        iterations=30, repair_iterations=60, lr=1e-3, optimizer="adam", batch_size=16, alpha=0.1
    ),
    "noisy-gd": NoisyGD(iterations=40, eta=0.1, clip=1.0, sigma=1e-3, batch_size=8),
}
# Of what is to be retained, this share is at hand: GS-LoRA's is small, the others need all.
RETAINED_SHARE = {"gs-lora": 0.2, "gs-lora-plus": 0.2}
SPARSITY_ROWS = ((0.0, 0), (0.01, 0), (0.1, 0), (1e-4, 0), (1e-3, 0), (0.01, 4), (0.03, 4))  # alpha, epochs without it
SPARSITY_TASKS = ((3,), (7,), (1,))


def without(images: LabelledImages, classes: Sequence[int]) -> LabelledImages:
    return images.of_classes([c for c in images.y.unique().tolist() if c not in classes])


def learned(split: Split, name: str, seed: int, left_out: Sequence[int] = ()) -> nn.Module:
    """A network that knows all classes but those that are left out; each is trained once in a process."""
    key = (split.name, name, seed, *left_out)
    if key not in _KNOWN:
        network = built(lambda: NETWORKS[name](split), seed)
        rule = torch.optim.Adam(network.parameters(), 2e-3)
        epochs = 25 if name == "blocks" else EPOCHS[split.name]
        _KNOWN[key] = fit(network, without(split.train, left_out), epochs, rule, seed, rows=64)
    return copy.deepcopy(_KNOWN[key])


def base_figures(split: Split, name: str, seed: int) -> Figures:
    """The network before any request, and one that never saw the classes of the sequence."""
    gone = [c for task in SEQUENCES[split.name] for c in task]
    before, after = learned(split, name, seed), learned(split, name, seed, gone)
    return {
        "all": accuracy(before, split.test),
        "sequence": accuracy(before, split.test.of_classes(gone)),
        "membership": membership_auc(before, split.train.of_classes(gone), split.test.of_classes(gone)),
        "retrained": ends(after, split, gone) | {"remaining": accuracy(after, without(split.test, gone))},
    }


def ends(network: nn.Module, split: Split, gone: Sequence[int]) -> Figures:
    """What is left of the forgotten classes."""
    forgotten, test = split.train.of_classes(gone), split.test.of_classes(gone)
    return {
        "membership": membership_auc(network, forgotten, test),
        "relearning": relearning_steps(network, forgotten, without(split.train, gone), test),
        "probe": probe_accuracy(network, split.train, test, split.classes),
    }


def sequence_figures(split: Split, name: str, method: str, seed: int) -> Figures:
    """Classes are forgotten one request after another, each on the network with all earlier edits."""
    view, rows, gone = ModuleView(learned(split, name, seed), name), [], list[int]()
    own = replace(METHODS[method], seed=seed)
    with ExitStack() as applied:
        for task in SEQUENCES[split.name]:
            kept = without(split.train, [*gone, *task])
            share = RETAINED_SHARE.get(method, 1.0)
            retain = kept.batch(0, int(share * len(kept.y)), seed)
            try:
                edit = own.forget(view, ClassRequest(split.train.of_classes(task), retain))
            except ModelError as error:
                return {"refused": str(error)}
            applied.enter_context(edit.applied(view))
            rows.append(
                {
                    "forgotten": accuracy(view.network, split.test.of_classes(task)),
                    "earlier": accuracy(view.network, split.test.of_classes(gone)) if gone else None,
                    "remaining": accuracy(view.network, without(split.test, [*gone, *task])),
                    "all": accuracy(view.network, split.test),
                    "figures": dict(edit.solve_figures),
                }
            )
            gone += task
        return {"tasks": rows, "end": ends(view.network, split, gone)}


def sparsity_figures(split: Split, alpha: float, warm_up: int, seed: int) -> Figures:
    """GS-LoRA's sequence on six residual blocks, by the weight of group sparsity."""
    network = learned(split, "blocks", seed)
    view, rows, gone = ModuleView(network), [], list[int]()
    with ExitStack() as applied:
        for task in SPARSITY_TASKS:
            kept = without(split.train, [*gone, *task])
            retain = kept.batch(0, len(kept.y) // 5, seed)
            epoch = -(-len(retain.y) // GS_LORA["batch_size"])
            settings = GS_LORA | {"iterations": 12 * epoch, "alpha": alpha, "alpha_warm_up": warm_up * epoch}
            edit = GSLoRA(**settings, seed=seed).forget(view, ClassRequest(split.train.of_classes(task), retain))
            applied.enter_context(edit.applied(view))
            rows.append(
                {
                    "forgotten": accuracy(network, split.test.of_classes(task)),
                    "remaining": accuracy(network, without(split.test, [*gone, *task])),
                    "earlier": accuracy(network, split.test.of_classes(gone)) if gone else None,
                    "used": edit.solve_figures["blocks_used"],
                    "least": edit.solve_figures["least_block_norm"],
                }
            )
            gone += task
    return {"tasks": rows}


def teacher_figures(split: Split, seed: int) -> Figures:
    """The stochastic teacher on a small MLP: one class, before and after the repair; and a tenth of all records."""
    network = built(plain_mlp, seed)
    fit(network, split.train, 25, torch.optim.Adam(network.parameters(), 2e-3), seed)
    view, test = ModuleView(network), split.test
    forget, retain = split.train.of_classes([3]), without(split.train, [3])
    found: Figures = {"base": [accuracy(network, test.of_classes([3])), accuracy(network, without(test, [3]))]}
    again = built(plain_mlp, seed)
    fit(again, retain, 25, torch.optim.Adam(again.parameters(), 2e-3), seed)
    found["retrained"] = [accuracy(again, test.of_classes([3])), accuracy(again, without(test, [3]))]
    epochs = {"iterations": -(-len(forget.y) // 16), "repair_iterations": -(-len(retain.y) // 16)}
    for phase, repair in (("erased", 0), ("repaired", epochs["repair_iterations"])):
        settings = epochs | {"repair_iterations": repair}
        own = StochasticTeacher(**settings, lr=0.2, optimizer="sgd", batch_size=16, alpha=0.1, seed=seed)
        with own.forget(view, ClassRequest(forget, retain)).applied(view):
            found[phase] = [accuracy(network, test.of_classes([3])), accuracy(network, without(test, [3]))]
    return found | {"records": _forgotten_records(split, view, seed)}


def _forgotten_records(split: Split, view: ModuleView, seed: int) -> Figures:
    """Mean losses on a tenth of the training images, before, after, and retrained without them; and on test images."""
    order = torch.randperm(len(split.train.y), generator=torch.Generator().manual_seed(seed))
    tenth = len(order) // 10
    lost, kept = (LabelledImages(split.train.x[own], split.train.y[own]) for own in (order[:tenth], order[tenth:]))
    steps = {"iterations": -(-len(lost.y) // 16), "repair_iterations": -(-len(kept.y) // 16)}
    own = StochasticTeacher(**steps, lr=0.2, optimizer="sgd", batch_size=16, alpha=0.1, seed=seed)
    again = built(plain_mlp, seed)
    fit(again, kept, 25, torch.optim.Adam(again.parameters(), 2e-3), seed)

    def losses(network: nn.Module) -> list[float]:
        return [float(sample_losses(network, side.x, side.y).mean()) for side in (lost, split.test)]

    found: Figures = {"before": losses(view.network), "retrained": losses(again)}
    with own.forget(view, ClassRequest(lost, kept)).applied(view):
        return found | {"after": losses(view.network)}


def _noise(x: Tensor, rng: torch.Generator) -> Tensor:
    return x + 0.2 * torch.randn(x.shape, generator=rng)


def _dom_loss(form: str, begin: int, threshold: float, eps: float) -> BatchLoss:
    """The loss of a batch in a form of DOM, natural or on adversarial images."""

    def loss(network: nn.Module, batch: LabelledImages, epoch: int, rng: torch.Generator) -> Tensor:
        x, natural = batch.x, sample_losses(network, batch.x, batch.y)
        if form == "augment" and epoch >= begin:
            x = augment_learned(network, x, batch.y, threshold, _noise, rng)
        x = adversarial(network, LabelledImages(x, batch.y), eps, 5) if eps else x
        losses = F.cross_entropy(network(x), batch.y, reduction="none")
        return keep_unlearned(losses, natural, threshold if form == "remove" and epoch >= begin else 0.0)

    return loss


def dom_figures(split: Split, form: str, robust: bool, seed: int) -> Figures:
    """Best and last accuracy of 150 images in 120 epochs, DOM from the 60th on; robust: trained and tested with PGD."""
    few, epochs = split.train.batch(0, 150, seed), 120
    network, eps, seen = built(plain_mlp, seed), 0.1 if robust else 0.0, list[float]()
    rule = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)

    def look(epoch: int) -> None:
        if epoch % 5 == 4:
            seen.append(robust_accuracy(network, split.test, eps, 5) if robust else accuracy(network, split.test))

    fit(network, few, epochs, rule, seed, _dom_loss(form, epochs // 2, 0.2, eps), 32, look)
    share = float((sample_losses(network, few.x, few.y) < 0.2).float().mean())
    return {"best": max(seen), "last": seen[-1], "learned": share}


def erasing_figures(split: Split, p: float, seed: int) -> Figures:
    """Accuracy of 300 images' training with Random Erasing, on whole test images and on those with a 3x3 hole."""
    few, rng = split.train.batch(0, 300, seed), torch.Generator().manual_seed(seed)
    network, mean = built(lambda: small_cnn(split), seed), float(few.x.mean())
    options = TrainingOptions(random_erasing=p, sh=0.25)

    def loss(own: nn.Module, batch: LabelledImages, epoch: int, rng: torch.Generator) -> Tensor:
        return plain_loss(own, LabelledImages(erase_rectangles(batch.x, options, rng, mean), batch.y), epoch, rng)

    fit(network, few, 40, torch.optim.Adam(network.parameters(), 2e-3), seed, loss)
    holed = split.test.x.clone()
    for row in holed:
        top, left = torch.randint(6, (2,), generator=rng).tolist()
        row[:, top : top + 3, left : left + 3] = mean
    return {
        "whole": accuracy(network, split.test),
        "holed": accuracy(network, LabelledImages(holed, split.test.y)),
    }


def deletion_figures(split: Split, seed: int) -> Figures:
    """A linear model of the digits that learns by noisy steps and forgets a hundred records: accuracy and bounds.

    The noise is fresh, as the bounds ask for, so these figures differ a little from run to run.
    """
    x, test = (
        torch.cat([own.x.flatten(1), torch.ones(len(own.y), 1)], 1).double() for own in (split.train, split.test)
    )
    longest = float(x.norm(dim=1).max())
    x, test, y = x / longest, test / longest, F.one_hot(split.train.y, 10).double()
    rng, delta, found = torch.Generator(), 1e-5, list[Figures]()
    rng.seed()
    for sigma in (0.0, 1e-3, 3e-3):
        own = NoisyLinear(clip=1.0, lamb=0.01, sigma=sigma, eta=0.9)
        theta, bounds = own.learn(x, y, 1000, rng), own.bounds(len(x))
        edited = x.clone()
        edited[:100] = 0  # The dummy record: it says nothing.
        right = [float(((test @ theta).argmax(1) == split.test.y).double().mean())]
        learning = bounds.learning_epsilon(1000, delta)
        for steps in (1, 50, 200, 500):
            after = own.go_on(theta, edited, y, steps, rng)
            right.append(float(((test @ after).argmax(1) == split.test.y).double().mean()))
        deletions = [bounds.deletion_epsilon(1000, steps, delta) for steps in (1, 50, 200, 500)]
        adaptive = [adaptive_epsilon(own, learning, delta, 1)[0] for own in deletions] if learning < 20 else []
        found.append(
            {"sigma": sigma, "right": right, "learning": learning, "deletion": deletions, "adaptive": adaptive}
        )
    return {"rows": found}
