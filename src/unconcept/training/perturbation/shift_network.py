"""A small UNet that predicts by how much to move the start of a picture's trajectory."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ShiftNetwork(nn.Module):
    """Maps noise z_T (b, c, h, w) to a shift of it. A fresh network predicts 0: nothing is moved."""

    def __init__(self, channels: int, width: int = 32) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.middle = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.up = nn.Conv2d(2 * width, width, 3, padding=1)
        self.leave = nn.Conv2d(2 * width, channels, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)

    def forward(self, noise: Tensor) -> Tensor:
        """The shift (b, c, h, w) in float32."""
        fine = F.silu(self.enter(noise.float()))
        coarse = F.silu(self.middle(F.silu(self.down(fine))))
        wide = F.interpolate(F.silu(self.up(coarse)), size=fine.shape[-2:], mode="nearest")
        found: Tensor = self.leave(torch.cat([fine, wide], 1))
        return found


def fresh_network(channels: int, width: int, seed: int) -> ShiftNetwork:
    """A network initialised from a seed; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ShiftNetwork(channels, width)


def restored_network(weights: Mapping[str, Tensor]) -> ShiftNetwork:
    """The network with these weights."""
    width, channels = weights["enter.weight"].shape[:2]
    network = ShiftNetwork(int(channels), int(width))
    network.load_state_dict(dict(weights))
    return network.eval().requires_grad_(False)
