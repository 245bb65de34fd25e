"""What a ledger says of itself: at once, however long it is, and without a model."""

import subprocess
import sys
import time
from hashlib import sha256

from tests.continual.desk import ask, ledger
from unconcept.continual.chain import AFTER, BEFORE, BETWEEN, ENTRIES, canonical
from unconcept.continual.ledger import Ledger
from unconcept.continual.status import status
from unconcept.core.hashing import hash_json


def test_ten_thousand_entries_are_told_of_in_a_second(tmp_path) -> None:
    made = ledger(tmp_path / "l")
    ask(made, 1)
    add = made.chain.bodies[-1]
    path, lines, parent, seq = made.folder / ENTRIES, [], made.chain.last, 2
    for number in range(10_000):
        asked = {**add["asked"], "targets": [f"dog {number}", f"old dog {number}"], "concepts": [f"dog {number}"]}
        body = {**add, "seq": seq + number, "parent": parent, "asked": asked, "id": hash_json(asked)}
        text = canonical(body)
        parent = sha256(text).hexdigest()
        lines.append(BEFORE + text + BETWEEN + parent.encode() + AFTER + b"\n")
    with path.open("ab") as file:
        file.write(b"".join(lines))
    begun = time.process_time()
    told = status(Ledger.open(made.folder))
    assert len(told["requests"]) == 10_001
    assert time.process_time() - begun < 1.0


def test_status_opens_no_model() -> None:
    code = "import sys\nimport unconcept.continual.status\nprint(*[name for name in ('diffusers', 'transformers') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split() == []
