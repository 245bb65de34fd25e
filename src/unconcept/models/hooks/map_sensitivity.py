"""How much what an attention gives can move with the output of one of its key or value maps."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..model_view import ModelView
from .modules import denoiser_parameters


@torch.no_grad()
def map_sensitivities(model: ModelView, names: Sequence[str], tokens: int) -> dict[str, Tensor]:
    """Return lambda_l () of each map by its weight's name: a bound by largest singular values (CPE).

    It is sigma(W_o) for values, sigma(W_o W_v) sigma(W_q) / tokens for keys, and 1 for a map outside attention.
    """
    own, found = denoiser_parameters(model), {}

    def size(matrix: Tensor) -> Tensor:
        largest: Tensor = torch.linalg.matrix_norm(matrix.float(), 2)
        return largest

    for name in names:
        if name.endswith(".to_v.weight"):
            found[name] = size(own[name.replace(".to_v.", ".to_out.0.")])
        elif name.endswith(".to_k.weight"):
            q, v, o = (own[name.replace(".to_k.", end)] for end in (".to_q.", ".to_v.", ".to_out.0."))
            found[name] = size(o @ v) * size(q) / tokens
        else:
            found[name] = torch.ones((), device=model.device)
    return found
