"""Toy pipelines whose weights are quantised or offloaded, in the real storage formats where their library is there."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

BLOCK = 64  # numbers that share a scale, as in bitsandbytes' NF4
_HALF = [-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0]
# Quantiles of a normal distribution (Dettmers et al. 2023, appendix E).
NF4 = torch.tensor([*_HALF, 0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1.0])


class PackedLinear(nn.Module):
    """A linear map as NF4 stores it: two numbers a byte, one absolute maximum for each 64."""

    def __init__(self, own: nn.Linear) -> None:
        super().__init__()
        values = F.pad(own.weight.detach().float().flatten(), (0, -own.weight.numel() % BLOCK)).view(-1, BLOCK)
        self.absmax, self.shape, self.bias = values.abs().amax(1, keepdim=True), own.weight.shape, own.bias
        codes = (values / self.absmax.clamp_min(1e-30))[..., None].sub(NF4).abs().argmin(-1).flatten().to(torch.uint8)
        self.weight = nn.Parameter((codes[::2] * 16 + codes[1::2])[:, None], requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        codes = torch.stack([self.weight[:, 0] // 16, self.weight[:, 0] % 16], 1).flatten().long()
        numbers = (NF4[codes].view(-1, BLOCK) * self.absmax).flatten()[: self.shape.numel()]
        return F.linear(x, numbers.view(self.shape).to(x.dtype), self.bias)


def swap(network: nn.Module, make: Callable[[nn.Linear], nn.Module], width: int = 1) -> None:
    """Replace the linear maps of the blocks, and of text entries, whose input is a multiple of a width."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Linear) and module.in_features % width == 0 and "norm" not in name:
            parent, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(parent), leaf, make(module))


def denoiser(pipe) -> nn.Module:
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


def nf4(pipe) -> None:
    swap(denoiser(pipe), PackedLinear)


def fp8(pipe) -> None:
    """diffusers' own storage in 8-bit floats."""
    denoiser(pipe).enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)


def offloaded(pipe) -> None:
    """As enable_sequential_cpu_offload: on the meta device but while a layer computes."""
    from accelerate import cpu_offload

    for part in (part for part in pipe.components.values() if isinstance(part, nn.Module)):
        cpu_offload(part, torch.device("cpu"), offload_buffers=True)


def grouped(pipe) -> None:
    device = torch.device("cpu")
    denoiser(pipe).enable_group_offload(device, device, offload_type="leaf_level")


def bitsandbytes(pipe) -> None:
    bnb = pytest.importorskip("bitsandbytes")

    def make(own: nn.Linear) -> nn.Module:
        made = bnb.nn.Linear4bit(own.in_features, own.out_features, own.bias is not None, torch.float32, False, "nf4")
        made.load_state_dict(own.state_dict())
        return made.to("cpu")

    swap(denoiser(pipe), make)


def gguf(pipe) -> None:
    """Q8_0, whose blocks have 32 numbers."""
    quants = pytest.importorskip("gguf")
    from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter

    kind = quants.GGMLQuantizationType.Q8_0

    def make(own: nn.Linear) -> nn.Module:
        made = GGUFLinear(own.in_features, own.out_features, own.bias is not None, torch.float32)
        stored = torch.from_numpy(quants.quantize(own.weight.detach().numpy(), kind))
        made.weight = GGUFParameter(stored, quant_type=kind)
        if own.bias is not None:
            made.bias = nn.Parameter(own.bias.detach().clone())
        return made

    swap(denoiser(pipe), make, 32)


def quanto(pipe) -> None:
    lib = pytest.importorskip("optimum.quanto")
    lib.quantize(denoiser(pipe), weights=lib.qint8)
    lib.freeze(denoiser(pipe))


def torchao(pipe) -> None:
    lib = pytest.importorskip("torchao.quantization")
    lib.quantize_(denoiser(pipe), lib.Int8WeightOnlyConfig())


EXACT = {"offloaded": offloaded, "grouped": grouped}
"""Which compute with the very weights of the base."""
STORED = {"nf4": nf4, "fp8": fp8}
LIBRARIES = {"bitsandbytes": bitsandbytes, "gguf": gguf, "quanto": quanto, "torchao": torchao}
