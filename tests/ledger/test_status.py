"""What a ledger says of itself: at once, however long it is, and without a model."""

import subprocess
import sys
import time
from hashlib import sha256

from tests.ledger.desk import ask, ledger
from unconcept.core.hashing import hash_json
from unconcept.ledger.entry_log import ENTRIES_FILE, LINE_PREFIX, LINE_SEPARATOR, LINE_SUFFIX, canonical_json
from unconcept.ledger.ledger import Ledger
from unconcept.ledger.status import ledger_status


def test_ten_thousand_entries_cost_as_much_each_as_a_thousand(tmp_path) -> None:
    """Seconds stand in docs/ledger.md; here it is only asked that they grow with the entries, and not with their
    square.
    """
    made = ledger(tmp_path / "l")
    ask(made, 1)
    add = made.entry_log.bodies[-1]
    path, parent, seq, seconds = made.folder / ENTRIES_FILE, made.entry_log.last, 2, dict[int, float]()
    for count in (1_000, 10_000):
        lines = []
        while seq < count + 2:
            asked = {**add["asked"], "targets": [f"dog {seq}", f"old dog {seq}"], "concepts": [f"dog {seq}"]}
            text = canonical_json({**add, "seq": seq, "parent": parent, "asked": asked, "id": hash_json(asked)})
            parent, seq = sha256(text).hexdigest(), seq + 1
            lines.append(LINE_PREFIX + text + LINE_SEPARATOR + parent.encode() + LINE_SUFFIX + b"\n")
        with path.open("ab") as file:
            file.write(b"".join(lines))
        begun = time.process_time()
        told = ledger_status(Ledger.open(made.folder))
        seconds[count] = time.process_time() - begun
        assert len(told["requests"]) == count + 1
    assert seconds[10_000] < 40 * seconds[1_000], seconds  # Ten times is linear, a hundred the square.


def test_status_opens_no_model() -> None:
    code = (
        "import sys\nimport unconcept.ledger.status\nprint(*[name for name in ('diffusers', 'transformers') if name in"
        " sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split() == []
