"""A tiny model, requests about it, and ledgers of them, built in a blink."""

import json
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from typer.testing import Result

from tests import tiny
from unconcept.core import Request
from unconcept.ledger.ledger import EntryNote, Ledger, create_ledger
from unconcept.ledger.operations import AddOutcome, add_request
from unconcept.ledger.policy import LedgerPolicy
from unconcept.ledger.storage.disk import canonical_json
from unconcept.ledger.storage.entry_log import (
    ENTRIES_FILE,
    FIRST_PARENT_HASH,
    HEAD_FILE,
    LINE_PREFIX,
    LINE_SEPARATOR,
    LINE_SUFFIX,
)
from unconcept.ledger.storage.private_file import PRIVATE_FILE, EntryParts, SealedPart, private_line
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


def write_chain(folder: Path, bodies: list[Any], version: int) -> None:
    """Write these bodies as the whole chain, each line hashed and chained anew, and a head that fits."""
    parent, lines = FIRST_PARENT_HASH, []
    for body in bodies:
        text = canonical_json({**body, "parent": parent} if isinstance(body, dict) else body)
        parent = sha256(text).hexdigest()
        lines.append(LINE_PREFIX + text + LINE_SEPARATOR + parent.encode() + LINE_SUFFIX + b"\n")
    (folder / ENTRIES_FILE).write_bytes(b"".join(lines))
    (folder / HEAD_FILE).write_bytes(canonical_json({"format": version, "seq": len(lines) - 1, "hash": parent}))


def write_plainly(book: Ledger, change: Callable[[list[Any]], object] = lambda bodies: None) -> None:
    """The whole ledger as version 0.1 would have written it, changed by somebody who hashes every line anew."""
    told = {"format", "recorded_by", "ask"}
    bodies = [{key: body[key] for key in body.keys() - told} for body in book.entry_log.bodies]
    bodies = json.loads(json.dumps(bodies))
    change(bodies)
    (book.folder / PRIVATE_FILE).unlink(missing_ok=True)
    write_chain(book.folder, bodies, 1)


def write_sealed(book: Ledger, change: Callable[[list[Any], dict[int, dict[str, Any]]], object]) -> None:
    """The whole ledger, its chain and the data of its private parts changed by somebody who seals and hashes anew."""
    bodies = json.loads(json.dumps(book.entry_log.chain))
    stored: dict[int, EntryParts] = book.entry_log.private.parts
    data = {
        entry: {name: json.loads(json.dumps(part.data)) for name, part in parts.items()}
        for entry, parts in stored.items()
    }
    change(bodies, data)
    lines = []
    for entry, parts in data.items():
        sealed = {name: SealedPart(one, "0" * 64) for name, one in parts.items()}
        lines.append(private_line(entry, sealed))
        bodies[entry]["sealed"] |= {name: part.commitment for name, part in sealed.items()}
    (book.folder / PRIVATE_FILE).write_bytes(b"".join(lines))
    write_chain(book.folder, bodies, 2)


def errors(result: Result) -> int:
    """The number of lines that a command printed on stderr, but for its first stage of progress."""
    return len(result.stderr.removeprefix("load\n").splitlines())
