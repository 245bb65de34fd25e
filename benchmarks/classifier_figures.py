"""What `benchmarks.classifiers` measures of a network: accuracy, membership, and what its features still hold."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unconcept.models.module_view import ModuleView
from unconcept.training.forgetting.examples import LabelledImages
from unconcept.training.forgetting.prototypes import record_features
from unconcept.training.images.overfitting import sample_losses

MOST_RELEARNING_STEPS, RELEARNED = 100, 0.8

BatchLoss = Callable[[nn.Module, LabelledImages, int, torch.Generator], Tensor]


def plain_loss(network: nn.Module, batch: LabelledImages, epoch: int, rng: torch.Generator) -> Tensor:
    return F.cross_entropy(network(batch.x), batch.y)


def fit(
    network: nn.Module,
    images: LabelledImages,
    epochs: int,
    rule: torch.optim.Optimizer,
    seed: int,
    loss: BatchLoss = plain_loss,
    rows: int = 32,
    after: Callable[[int], None] = lambda epoch: None,
) -> nn.Module:
    """Train in place, and return the network in evaluation mode."""
    rng = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        network.train()
        for chosen in torch.randperm(len(images.y), generator=rng).split(rows):
            value = loss(network, LabelledImages(images.x[chosen], images.y[chosen]), epoch, rng)
            rule.zero_grad()
            value.backward()
            rule.step()
        network.eval()
        after(epoch)
    return network


@torch.no_grad()
def accuracy(network: nn.Module, images: LabelledImages) -> float:
    """Share of right answers; nan if there are no images."""
    return float((network(images.x).argmax(1) == images.y).float().mean())


def membership_auc(network: nn.Module, members: LabelledImages, others: LabelledImages) -> float:
    """How often a member's loss is below another's: 0.5 tells nothing (the loss-threshold attack)."""
    inside, outside = (sample_losses(network, own.x, own.y) for own in (members, others))
    below = (inside[:, None] < outside[None]).float() + 0.5 * (inside[:, None] == outside[None]).float()
    return float(below.mean())


def relearning_steps(
    network: nn.Module, forgotten: LabelledImages, retained: LabelledImages, test: LabelledImages
) -> int:
    """Steps of Adam on half forgotten and half retained images until 80 % of the forgotten test images are right."""
    own = copy.deepcopy(network)
    for parameter in own.parameters():
        parameter.requires_grad_(True)
    rule = torch.optim.Adam(own.parameters(), 1e-3)
    for step in range(MOST_RELEARNING_STEPS):
        if step % 2 == 0 and accuracy(own, test) >= RELEARNED:
            return step
        both = [side.batch(step, 16, 0) for side in (forgotten, retained)]
        value = F.cross_entropy(own(torch.cat([side.x for side in both])), torch.cat([side.y for side in both]))
        rule.zero_grad()
        value.backward()
        rule.step()
    return MOST_RELEARNING_STEPS


@torch.no_grad()
def probe_accuracy(network: nn.Module, train: LabelledImages, test: LabelledImages, classes: int) -> float:
    """Accuracy on `test` of a ridge regression on the features before the last map, learned on all of `train`."""
    features = []
    for own in (train, test):
        with record_features(ModuleView(network)) as seen:
            network(own.x)
        features.append(torch.cat([seen[0], torch.ones(len(own.y), 1)], 1).double())
    x, wanted = features[0], F.one_hot(train.y, classes).double()
    theta = torch.linalg.solve(x.T @ x + 1e-2 * len(x) * torch.eye(x.shape[1], dtype=x.dtype), x.T @ wanted)
    return float(((features[1] @ theta).argmax(1) == test.y).float().mean())


def robust_accuracy(network: nn.Module, images: LabelledImages, eps: float, steps: int) -> float:
    """Accuracy under projected gradient ascent within eps."""
    return accuracy(network, LabelledImages(adversarial(network, images, eps, steps), images.y))


def adversarial(network: nn.Module, images: LabelledImages, eps: float, steps: int) -> Tensor:
    """Images moved by signs of gradients, at most eps a pixel, in evaluation mode."""
    was = network.training
    network.eval()
    x = images.x.clone()
    for _ in range(steps):
        x.requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(network(x), images.y), x)
        moved = x.detach() + 2.5 * eps / steps * gradient.sign()
        x = torch.clamp(torch.minimum(torch.maximum(moved, images.x - eps), images.x + eps), 0, 1)
    network.train(was)
    return x


def spread_of(values: Sequence[float]) -> dict[str, float]:
    """Mean, least and most of some seeds."""
    return {"mean": sum(values) / len(values), "least": min(values), "most": max(values)}
