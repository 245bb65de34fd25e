"""Whole UCE edits on `moji` against the authors' way of computing them, in one process and on one thread: `make bench`.

The rival is written here from the paper's method card: every text is encoded padded and alone, the sums are rank-one
updates in Python, and the matrix is inverted anew for every layer. Both are in float64 so that the results agree.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from unconcept.core.request import Request
from unconcept.evaluation.requests import default_retain
from unconcept.methods.uce import UCE
from unconcept.models import ModelView, open_model
from unconcept.moji.table import table

ROUNDS = 5


def literal(model: ModelView, request: Request) -> dict[str, Tensor]:
    """The 2025 script's edit, layer by layer."""

    def state(text: str) -> Tensor:
        return model.embed([text], at="all")[0, model.tokenizer([text]).index("last_subject")[0]].double()

    method, out = UCE(), {}
    for name, w in model.text_maps().items():
        w = w.double()
        left, right = method.lamb * w, method.lamb * torch.eye(w.shape[1], dtype=w.dtype)
        for target, anchor in zip(request.targets, request.anchors, strict=True):
            c = state(target)
            left = left + torch.outer(w @ state(anchor), c)
            right = right + torch.outer(c, c)
        for text in request.retain:
            p = state(text)
            left = left + torch.outer(w @ p, p)
            right = right + torch.outer(p, p)
        out[name] = left @ torch.linalg.inv(right) - w
    return out


def seconds(job: Callable[[], object], rounds: int) -> float:
    """Median CPU seconds of `rounds` runs after one that warms up."""
    times = []
    for _ in range(rounds + 1):
        begun = time.process_time()
        job()
        times.append(time.process_time() - begun)
    return statistics.median(times[1:])


def main() -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    model = open_model(device="cpu")
    names = [entry.name for entry in table().entries if entry.erasable and entry.kind == "object"]
    for count in (1, 10, 100):
        chosen = names[:count]
        anchors = tuple(table()[name].anchor or "" for name in chosen)
        request = Request(tuple(chosen), anchors, default_retain(table(), chosen, anchors))
        ours, theirs = UCE().erase(model, request), literal(model, request)
        error = max(float((ours.delta(name, weight) - theirs[name]).abs().max()) for name, weight in model.text_maps().items())
        fast = seconds(lambda request=request: UCE().erase(model, request), ROUNDS)
        slow = seconds(lambda request=request: literal(model, request), 1)
        found = f"{fast:.3f} CPU s, literal {slow:.2f} CPU s, ratio {slow / fast:.0f}, largest difference {error:.1e}"
        print(f"{count:4} concepts, {len(request.retain)} retained: {found}")


if __name__ == "__main__":
    main()
