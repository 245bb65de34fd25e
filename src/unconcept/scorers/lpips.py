"""Perceptual distance in the form of LPIPS: Zhang et al., CVPR 2018, arXiv:1801.03924.

Squares the differences of unit-length features, sums them over channels, averages over places, and sums over layers.
Only with LPIPS's own weights is it called LPIPS; with another network it has that network's name.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..core.errors import ModelError, require
from ..core.hashing import hash_tensors
from ..core.optional_imports import import_optional
from ..models.checkpoint.safetensors_io import open_file
from ..models.vision.judge_net import ConvJudge, load_judge_net
from ..worlds.registry import JUDGE_WEIGHTS
from .registry import scorer

_NORM_EPSILON = 1e-10  # the package's value; it avoids 0 / 0 where all channels are 0
_TRUNK_PREFIX = "features."  # prefix of the convolutions in torchvision's AlexNet


def layered_distance(before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
    """Return the distances (b,) of feature maps, one (b, c, h, w) for each layer, with all channels of weight 1.

    It is exactly 0 for equal maps.
    """
    total = torch.zeros(len(before[0]))
    for a, b in zip(before, after, strict=True):
        total = total + (_unit(a) - _unit(b)).square().sum(1).mean((1, 2)).cpu()
    return total


def _unit(maps: Tensor) -> Tensor:
    return maps / (maps.square().sum(1, keepdim=True).sqrt() + _NORM_EPSILON)


def _check(before: Tensor, after: Tensor) -> None:
    require(
        before.shape == after.shape,
        f"images have shapes {tuple(before.shape)} and {tuple(after.shape)}: give pairs of one size",
    )


@scorer("moji-judge-features", reads="pair")
class JudgeDistance:
    """Distance of two `moji` images in the form of LPIPS, over four layers of its judge with uniform weights.

    It is in [0, 16].
    """

    name = "moji-judge-features"
    version = 2

    def __init__(self, path: Path | None = None) -> None:
        path = path or JUDGE_WEIGHTS
        net = load_judge_net(path)[0]
        if not isinstance(net, ConvJudge):
            raise ModelError(f"{path}: a distance needs the layers of a convolutional judge; give the first or second")
        self.net = net
        trunk = {n: t for n, t in net.state_dict().items() if n.startswith("body")}
        self.hash = hash_tensors(trunk)

    def compare(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the distances (b,) of images (b, 3, 64, 64) in [0, 1]; differentiable in both."""
        _check(before, after)
        parts = zip(before.float().split(64), after.float().split(64), strict=True)
        return torch.cat([layered_distance(self.net.feature_maps(a), self.net.feature_maps(b)) for a, b in parts])


@scorer("lpips", reads="pair", extra="eval")
class Lpips:
    """LPIPS 0.1 over AlexNet: the package's learned weights on an AlexNet file that you provide.

    `path` is torchvision's `alexnet-owt-7be5be79` as safetensors, with torchvision's names. The package would download
    that file; here it must be on disk. You are responsible for giving the right file: the report contains its hash.
    """

    name = "lpips-alex"
    version = 1

    def __init__(self, path: Path) -> None:
        package = import_optional("lpips", "eval", "LPIPS")
        with warnings.catch_warnings():  # The package calls torchvision in a way that torchvision deprecates.
            warnings.simplefilter("ignore")
            self.net = (
                package.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False).eval().requires_grad_(False)
            )
        _fill(self.net.net, path)
        self.hash = hash_tensors(self.net.state_dict())

    def compare(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the distances (b,) of images (b, 3, h, w) in [0, 1], h and w at least 64; differentiable in both."""
        _check(before, after)
        parts = zip(before.float().split(32), after.float().split(32), strict=True)
        return torch.cat([self.net(a, b, normalize=True).flatten() for a, b in parts])


@torch.no_grad()
def _fill(net: torch.nn.Module, trunk: Path) -> None:
    """Copy torchvision's weights, such as `features.3.weight`, to the package's names, such as `slice2.3.weight`.

    Raises `ModelError` if one is missing or does not fit.
    """
    with open_file(trunk) as file:
        tensors = {name: file.get_tensor(name).float() for name in file.keys() if name.startswith(_TRUNK_PREFIX)}
    for name, parameter in net.named_parameters():
        wanted = _TRUNK_PREFIX + name.partition(".")[2]
        fits = wanted in tensors and tensors[wanted].shape == parameter.shape
        require(
            fits,
            f"{trunk} has no {wanted} of shape {tuple(parameter.shape)}; give torchvision's AlexNet as safetensors",
            ModelError,
        )
        parameter.copy_(tensors[wanted])
