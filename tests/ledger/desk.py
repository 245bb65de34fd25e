"""A tiny model, requests about it, and ledgers of them, built in a blink."""

from functools import cache
from pathlib import Path

import torch

from tests import tiny
from unconcept.core import Request
from unconcept.ledger.ledger import EntryNote, Ledger, LedgerPolicy, create_ledger
from unconcept.ledger.operations import AddOutcome, add_request
from unconcept.models.views.unet import UNetView

WORDS = (
    "dog",
    "cat",
    "car",
    "bus",
    "sun",
    "moon",
    "tree",
    "wolf",
    "fox",
    "pear",
    "fig",
    "cup",
    "hat",
    "boot",
    "kite",
    "drum",
)


@cache
def model(family: str = "sd1") -> UNetView:
    """Float32, as the commands open models."""
    return tiny.view(family, torch.float32)


def request(number: int) -> Request:
    """The number-th of many: some share targets, some retain what others erase, anchors differ."""
    name, other = WORDS[number % len(WORDS)], WORDS[(7 * number + 3) % len(WORDS)]
    target = f"{name} {number // 2}"
    return Request((target, f"old {target}"), (other, other), (f"{other} {number % 5}", "sea"))


def ledger(folder: Path, method: str = "uce", policy: LedgerPolicy | None = None, settings=None, view=None) -> Ledger:
    return create_ledger(folder, view or model(), method, settings or {}, policy or LedgerPolicy(), EntryNote("tests"))


def ask(book: Ledger, wanted: Request | int, method: str = "uce", view=None, settings=None) -> AddOutcome:
    asked = request(wanted) if isinstance(wanted, int) else wanted
    return add_request(
        book, view or model(), asked.targets[:1], asked, method, settings, EntryNote("someone", "a letter")
    )
