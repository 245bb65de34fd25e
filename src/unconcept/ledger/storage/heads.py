"""Heads of a ledger that were written down elsewhere: they show that nothing was rolled back or rewritten since."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import LedgerError, require
from ...core.regular_files import require_regular_file
from .disk import ledger_read_errors
from .entry_log import EntryLog

_HEAD_START = re.compile(r"head\b|\d+ [0-9a-f]+$")
_HEAD_LINE = re.compile(r"(?:head )?(\d+) ([0-9a-f]{64})")


@dataclass(frozen=True)
class WrittenHead:
    """The number of entries that a ledger had, the hash of the last one, and where that was written down."""

    entries: int
    hash: str
    source: str = ""

    def __str__(self) -> str:
        return f"head {self.entries} {self.hash}"

    def fault(self, log: EntryLog) -> str | None:
        """What is wrong with a ledger that should once have had this head; None if it fits."""
        if self.entries > len(log.chain):
            return (
                f"{self.source}: the ledger once had {self.entries} entries and has {len(log.chain)} now: it was rolled"
                " back"
            )
        if log.hash_of(self.entries - 1) != self.hash:
            return f"{self.source}: entry {self.entries - 1} is not the one that was written down: it was rewritten"
        return None


def current_head(log: EntryLog) -> WrittenHead:
    """The present head, to be written down elsewhere."""
    return WrittenHead(len(log.chain), log.last)


def read_heads(path: Path) -> Iterator[WrittenHead]:
    """Read the heads in a file, one a line as `status` and `materialize` print them; other lines are passed over."""
    require(
        path.is_file(), f"{path} is no file: give one with lines that `unconcept ledger status` prints", LedgerError
    )
    with ledger_read_errors(path):
        text = path.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if _HEAD_START.match(line.strip())]
    message = f"{path} holds no head: write down the line `head NUMBER HASH` that `unconcept ledger status` prints"
    require(bool(lines), message, LedgerError)
    for line in lines:
        found = _HEAD_LINE.fullmatch(line)
        message = f"{path}: {line!r} is no head: write `head NUMBER HASH`, as `unconcept ledger status` prints it"
        if found is None or int(found[1]) < 1:
            raise LedgerError(message)
        yield WrittenHead(int(found[1]), found[2], str(path))


def read_card_head(path: Path) -> WrittenHead:
    """Read the head in the `card.json` of a materialized state."""
    require_regular_file(path, LedgerError)
    try:
        told = json.loads(path.read_bytes())["ledger"]
        head = WrittenHead(told["entries"], told["head"], str(path))
        is_head = type(head.entries) is int and head.entries > 0 and type(head.hash) is str
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise LedgerError(f"{path} is no card of a ledger: {error}; give a card.json of `materialize`") from None
    require(is_head, f"{path} is no card of a ledger: give a card.json of `materialize`", LedgerError)
    return head
