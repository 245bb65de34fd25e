"""A model folder that is damaged in any way is one line and exit code 2, or works: never a traceback."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.cli.test_bad_models import ERASE, SAMPLE
from tests.cli.test_cli import run

TEXTS = ("", "[]", "null", '"x"', "3", "{}", "[" * 9999)
VALUES = (None, -1, 0, 3, "x", [], {}, True, 0.5, 10**400)
SHARE = 12  # one of so many damages is tried


def damages(folder: Path) -> Iterator[tuple[Path, bytes | None]]:
    """A file and what stands in its place; None where it is deleted."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        own, name = path.read_bytes(), path.relative_to(folder)
        yield name, None
        yield from ((name, own[: int(len(own) * part)]) for part in (0, 0.1, 0.5, 0.99))
        if path.suffix == ".json":
            yield from ((name, text.encode()) for text in TEXTS)
            yield name, b"\xff" + own
            table = json.loads(own)
            for key in table:
                yield name, json.dumps({other: value for other, value in table.items() if other != key}).encode()
                yield from ((name, json.dumps(table | {key: value}).encode()) for value in VALUES)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd1", "flux"])
def test_every_damage_is_one_line(family, tmp_path) -> None:
    sound, out = tiny.folder(family, tmp_path / "sound"), tmp_path / "o"
    tried = list(damages(sound))
    random.Random(0).shuffle(tried)
    for number, (name, data) in enumerate(tried[:: SHARE if family == "sd1" else 3 * SHARE]):
        model = shutil.copytree(sound, tmp_path / str(number))  # A process keeps what it opened by its path.
        (model / name).unlink()
        if data is not None:
            (model / name).write_bytes(data)
        for words in (ERASE, SAMPLE):
            shutil.rmtree(out, ignore_errors=True)
            result = run(*words, "--model", model, "--out", out)
            where = f"{words[0]}: {name}: {(data or b'')[:3000]!r}: {result.exception!r}"
            assert result.exception is None or isinstance(result.exception, SystemExit), where
            assert result.exit_code in (0, 1, 2), where  # 1 for numbers that are not finite, or too large for memory.
            assert result.exit_code == 0 or len(result.stderr.strip().splitlines()) == 1, (where, result.stderr)
        shutil.rmtree(model)
