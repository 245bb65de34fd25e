"""What a ledger says of itself: at once, however long it is, and without a model."""

import subprocess
import sys
import time
from hashlib import sha256

import pytest

from tests.ledger.desk import ask, ledger
from unconcept.core.hashing import hash_json
from unconcept.ledger.ledger import Ledger
from unconcept.ledger.status import ledger_status
from unconcept.ledger.storage.entry_log import ENTRIES_FILE, LINE_PREFIX, LINE_SEPARATOR, LINE_SUFFIX, canonical_json
from unconcept.ledger.storage.private_file import PRIVATE_FILE, SealedPart, private_line


@pytest.mark.slow
def test_ten_thousand_entries_cost_as_much_each_as_a_thousand(tmp_path) -> None:
    """Seconds stand in docs/ledger.md; here it is only asked that they grow with the entries, and not with their
    square.
    """
    made = ledger(tmp_path / "l")
    ask(made, 1)
    log = made.entry_log
    what = log.private.parts[1]["what"].data
    body, parent, seq, seconds = log.bodies[-1], log.last, 2, dict[int, float]()
    for count in (1_000, 10_000):
        lines, private = [], []
        while seq < count + 2:
            asked = {**body["asked"], "targets": [f"dog {seq}", f"old dog {seq}"], "concepts": [f"dog {seq}"]}
            parts = log.private.parts[1] | {
                "what": SealedPart({**what, "asked": asked, "id": hash_json(asked)}, "0" * 64)
            }
            sealed = {name: part.commitment for name, part in parts.items()}
            text = canonical_json({**log.chain[1], "seq": seq, "parent": parent, "sealed": sealed})
            private.append(private_line(seq, parts))
            parent, seq = sha256(text).hexdigest(), seq + 1
            lines.append(LINE_PREFIX + text + LINE_SEPARATOR + parent.encode() + LINE_SUFFIX + b"\n")
        for name, new in ((ENTRIES_FILE, lines), (PRIVATE_FILE, private)):
            with (made.folder / name).open("ab") as file:
                file.write(b"".join(new))
        begun = time.process_time()
        status = ledger_status(Ledger.open(made.folder))
        seconds[count] = time.process_time() - begun
        assert len(status["requests"]) == count + 1
    assert seconds[10_000] < 40 * seconds[1_000], seconds  # Ten times is linear, a hundred the square.


def test_status_opens_no_model() -> None:
    code = (
        "import sys\nimport unconcept.ledger.status\nprint(*[name for name in ('diffusers', 'transformers') if name in"
        " sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split() == []
