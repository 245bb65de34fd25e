"""UCE, SPEED and RECE as their papers' scripts compute them, written from their equations: loops over concepts and
layers in float32.

They are what our solvers are measured against: every text is encoded padded and alone, every layer's matrix is built
and inverted anew. Each gives the change (o, d) of every map by name.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from unconcept.core.request import Request
from unconcept.linalg.kmeans import kmeans_centres
from unconcept.methods.rece import RECE
from unconcept.methods.speed import NULL_TEXT_CENTRES, SETTLED_SHIFT, SPEED
from unconcept.methods.uce import UCE
from unconcept.models import ModelView
from unconcept.models.hooks.modules import select_keys_or_values
from unconcept.prompts.text_matching import without_names

Changes = Mapping[str, Tensor]
CHUNK = 128  # retained texts whose noisy copies SPEED's script filters together


def uce(model: ModelView, request: Request, method: UCE) -> Changes:
    """The script of 2025: values once, then rank-one updates and an inverse for each layer."""
    targets = [last(model, text) for text in request.targets]
    anchors = [last(model, text) for text in request.anchors]
    retain = [last(model, text) for text in request.retain]
    found = {}
    for name, w in model.text_maps().items():
        left, right = method.lamb * w, method.lamb * torch.eye(w.shape[1])
        for c, a in zip(targets, anchors, strict=True):
            left += method.erase_scale * torch.outer(w @ a, c)
            right += method.erase_scale * torch.outer(c, c)
        for p in retain:
            left += method.preserve_scale * torch.outer(w @ p, p)
            right += method.preserve_scale * torch.outer(p, p)
        found[name] = left @ torch.linalg.inv(right) - w
    return found


def speed(model: ModelView, request: Request, method: SPEED) -> Changes:
    """Two singular value decompositions and two inverses for each layer; every noisy copy is made."""
    torch.manual_seed(method.seed)
    null = states(model, "")
    start = np.random.RandomState(method.seed).choice(len(null) - 1, NULL_TEXT_CENTRES, replace=False)
    held = torch.cat([null[:1], kmeans_centres(null[1:], null[1:][torch.from_numpy(start)], SETTLED_SHIFT)]).T
    retain = torch.stack([last(model, text) for text in without_names(request.retain, request.targets)])
    retain = retain[torch.randperm(len(retain))]
    own, crossed = torch.zeros(2, retain.shape[1], retain.shape[1])
    for target, anchor in zip(request.targets, request.anchors, strict=True):
        c, a = last(model, target), last(model, anchor)
        own += torch.outer(c, c) / len(request.targets)
        crossed += torch.outer(a, c) / len(request.targets)
    identity, found = torch.eye(len(own)), {}
    for name, w in select_keys_or_values(model.text_maps(), method.params).items():
        refined = _refined(retain, w, w @ (crossed - own) @ torch.linalg.inv(identity + own), method)
        vectors, values, _ = torch.linalg.svd(refined.T @ refined / len(refined))
        projector = vectors[:, values < method.threshold] @ vectors[:, values < method.threshold].T
        m = torch.linalg.inv(own @ projector + method.retain_scale * identity)
        inner = torch.linalg.inv(held.T @ projector @ m @ held + method.lamb * torch.eye(held.shape[1]))
        found[name] = w @ (crossed - own) @ projector @ (identity - m @ held @ inner @ held.T @ projector) @ m
    return found


def _refined(retain: Tensor, w: Tensor, erasing: Tensor, method: SPEED) -> Tensor:
    """Retained rows that an erasure alone moves more than the mean, and noisy copies that it does."""

    def moved(rows: Tensor) -> Tensor:
        shift = (rows @ erasing.T).norm(dim=1)
        return rows[shift > shift.mean()]

    kept = retain if method.disable_filter else moved(retain)
    weakest = torch.linalg.svd(w, full_matrices=False)[2][-1]
    along, parts = torch.outer(weakest, weakest), [kept]
    for chunk in kept.split(CHUNK):
        rows = chunk.repeat_interleave(method.aug_num, 0)
        if len(rows):
            parts.append(moved(rows + torch.randn_like(rows) @ along))
    return torch.cat(parts)


def rece(model: ModelView, request: Request, method: RECE) -> Changes:
    """The derive step's matrix anew for every concept; in the erase step texts are encoded anew for every layer, and
    read by all of them.
    """
    maps = dict(model.text_maps())
    now = {name: w.clone() for name, w in maps.items()}
    for _ in range(method.epochs):
        derived = [states(model, target) @ _derive(now, maps, method.regular_scale).T for target in request.targets]
        edited = {}
        for name, w in now.items():
            left, right = method.lamb * w, method.lamb * torch.eye(w.shape[1])
            for c, anchor in zip(derived, request.anchors, strict=True):
                left = left + method.erase_scale * _read(model, anchor, now, name)[1].T @ c
                right = right + method.erase_scale * c.T @ c
            for text in request.retain * len(request.targets):  # The script has it once for each concept.
                rows, values = _read(model, text, now, name)
                left = left + method.preserve_scale * values.T @ rows
                right = right + method.preserve_scale * rows.T @ rows
            edited[name] = left @ torch.linalg.inv(right)
        now = edited
    return {name: now[name] - w for name, w in maps.items()}


def _read(model: ModelView, text: str, now: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """A text's rows, and what one map makes of them, for which the script asks every map."""
    rows = states(model, text)
    return rows, {other: rows @ w.T for other, w in now.items()}[name]


def _derive(now: Mapping[str, Tensor], before: Mapping[str, Tensor], lamb: float) -> Tensor:
    width = next(iter(now.values())).shape[1]
    left, right = lamb * torch.eye(width), torch.zeros(width, width)
    for name, w in now.items():
        left += w.T @ w
        right += w.T @ before[name]
    return torch.linalg.inv(left) @ right


def states(model: ModelView, text: str) -> Tensor:
    """One text, padded: (l, d)."""
    return model.embed([text], at="all")[0]


def last(model: ModelView, text: str) -> Tensor:
    """Its last subject token's state (d,)."""
    return states(model, text)[model.tokenizer([text]).index("last_subject")[0]]


LOOPS: dict[str, Callable[..., Changes]] = {"uce": uce, "speed": speed, "rece": rece}
