"""Damaged files of every kind: each command ends in one line or does its work; no traceback, no hang, nothing left.

In one process, so that some two thousand cases take minutes.
"""

import json
import random
import resource
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import tiny
from tests.cli.test_cli import run
from tests.fuzz.mutations import mutated_bytes, mutated_json, mutated_safetensors, mutated_text
from unconcept.core.errors import UnconceptError
from unconcept.evaluation.worlds import world_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Warnings are other libraries' own.
MEMORY_BYTES = 8 * 2**30
SECONDS = 60  # a case that takes longer hangs
EDITS, LORAS, MODELS, LEDGERS, RECIPES, PROMPTS = 400, 300, 350, 350, 300, 400
Mutation = Callable[[bytes, random.Random], bytes]


@contextmanager
def in_time() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"no answer in {SECONDS} s")

    former = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


@contextmanager
def limited_memory() -> Iterator[None]:
    """Inside, a config that asks for too large a network ends in the line about memory, not the machine."""
    free = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, free[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, free)


def json_bytes(data: bytes, rng: random.Random) -> bytes:
    return json.dumps(mutated_json(json.loads(data), rng)).encode()


def text_bytes(data: bytes, rng: random.Random) -> bytes:
    return mutated_text(data.decode(), rng).encode("utf-8", "surrogatepass")


def mutation_of(path: Path) -> tuple[Mutation, ...]:
    """Damage of bytes, and of what the file is."""
    own = {".safetensors": mutated_safetensors, ".json": json_bytes}.get(path.suffix, text_bytes)
    return mutated_bytes, own, own


class Findings:
    """Faults by case; all are reported together."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.refused = 0

    def command(self, case: str, *words: object, out: Path | None = None) -> None:
        """Run a command, with an output if one is given; it succeeds, or refuses in one line and leaves nothing."""
        try:
            with in_time():
                result = run(*words, *(() if out is None else ("--out", out)))
        except TimeoutError as error:
            self.faults.append(f"{case}: {words[0]}: {error}")
            return
        error = result.exception
        if error is not None and not isinstance(error, SystemExit):
            where = traceback.extract_tb(error.__traceback__)[-3:]
            places = " < ".join(f"{Path(one.filename).name}:{one.lineno}" for one in reversed(where))
            self.faults.append(f"{case}: {words[:2]}: {type(error).__name__}: {str(error)[:150]!r} at {places}")
        elif result.exit_code == 2:
            self.refused += 1
            if len(result.stderr.strip().splitlines()) != 1:
                self.faults.append(f"{case}: {words[:2]}: not one line: {result.stderr[:300]!r}")
            if out is not None and out.exists():
                self.faults.append(f"{case}: {words[:2]}: left {out.name}")
        if out is not None:
            hidden = [path.name for path in out.parent.glob(f".{out.name}*")]
            if hidden:
                self.faults.append(f"{case}: {words[:2]}: left {hidden}")
            if out.is_dir():
                shutil.rmtree(out)
            out.unlink(missing_ok=True)

    def check(self, least: int) -> None:
        assert not self.faults, f"{len(self.faults)} faults:\n" + "\n".join(self.faults)
        assert self.refused >= least, f"only {self.refused} were refused: the damage does not reach the readers"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A tiny model, an edit of each kind that is quick to make, a LoRA, a ledger."""
    root = tmp_path_factory.mktemp("fuzz")
    model = tiny.folder("sd1", root / "m")
    common = ("--anchor", "cat", "--no-report", "--quiet", "--model", model)
    for method in ("uce", "nasa", "esd", "spm", "receler"):
        steps = () if method in ("uce", "nasa") else ("--set", "iterations=1")
        run("erase", "dog", *common, "--method", method, *steps, "--out", root / method)
        assert (root / method / "edit.safetensors").exists(), method  # Its effect may be too small to pass as one.
    edit = root / "uce/edit.safetensors"
    for target in ("kohya", "comfyui"):
        out = root / f"{target}.safetensors"
        assert run("export", edit, "--to", target, "--model", model, "--out", out).exit_code == 0
    assert run("export", edit, "--to", "peft", "--model", model, "--out", root / "peft").exit_code == 0
    assert run("ledger", "init", root / "ledger", "--model", model, "--by", "ann").exit_code == 0
    for name in ("dog", "sun"):
        added = run("ledger", "add", root / "ledger", name, "--anchor", "cat", "--by", "ann", "--quiet")
        assert added.exit_code == 0, added.output
    return root


def test_a_planted_fault_is_found(place, tmp_path, monkeypatch) -> None:
    def planted(*_: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr("unconcept.jobs.export.open_edit", planted)
    found = Findings()
    edit = place / "uce/edit.safetensors"
    found.command("case", "export", edit, "--to", "kohya", "--model", place / "m", out=tmp_path / "o.safetensors")
    with pytest.raises(AssertionError, match=r"RuntimeError: .planted. at test_fuzz\.py"):
        found.check(0)


def test_edits(place, tmp_path) -> None:
    found = Findings()
    files = [place / method / "edit.safetensors" for method in ("uce", "nasa", "esd", "spm", "receler")]
    for number in range(EDITS):
        rng, damaged = random.Random(number), tmp_path / "e.safetensors"
        source = files[number % len(files)]
        damaged.write_bytes(rng.choice(mutation_of(source))(source.read_bytes(), rng))
        words = ("export", damaged, "--to", "comfyui", "--static", "--model", place / "m")
        if source.parent.name in ("nasa", "receler"):  # They change no weight: only drawing reads them whole.
            words = ("sample", "a dog", "--steps", 1, "--quiet", "--edit", damaged, "--model", place / "m")
            found.command(f"{source.parent.name} {number}", *words, out=tmp_path / "o")
        else:
            found.command(f"{source.parent.name} {number}", *words, out=tmp_path / "o.safetensors")
    found.check(EDITS // 2)


def test_loras(place, tmp_path) -> None:
    found = Findings()
    sources = [place / "kohya.safetensors", place / "comfyui.safetensors", *sorted((place / "peft").glob("adapter_*"))]
    for number in range(LORAS):
        rng, source = random.Random(1_000_000 + number), sources[number % len(sources)]
        shutil.rmtree(tmp_path / "l", ignore_errors=True)
        shutil.copytree(place / "peft", tmp_path / "l") if source.parent.name == "peft" else (tmp_path / "l").mkdir()
        damaged = tmp_path / "l" / source.name
        damaged.write_bytes(rng.choice(mutation_of(source))(source.read_bytes(), rng))
        given = tmp_path / "l" if source.parent.name == "peft" else damaged
        words = ("import", given, "dog", "--anchor", "cat", "--model", place / "m")
        found.command(f"{source.name} {number}", *words, out=tmp_path / "o.safetensors")
    found.check(LORAS // 3)


def test_model_folders(place, tmp_path) -> None:
    found = Findings()
    files = sorted(path.relative_to(place / "m") for path in (place / "m").rglob("*") if path.is_file())
    for number in range(MODELS):
        rng, name = random.Random(2_000_000 + number), files[number % len(files)]
        shutil.copytree(place / "m", tmp_path / "m")
        source = place / "m" / name
        (tmp_path / "m" / name).write_bytes(rng.choice(mutation_of(source))(source.read_bytes(), rng))
        words = ("erase", "dog", "--anchor", "cat", "--no-report", "--quiet")
        if number // len(files) % 2:  # It builds the networks too.
            words = ("sample", "a dog", "--steps", 1, "--quiet")
        with limited_memory():
            found.command(f"{name} {number}", *words, "--model", tmp_path / "m", out=tmp_path / "o")
        shutil.rmtree(tmp_path / "m")
    found.check(MODELS // 8)


def ledger_bytes(path: Path, rng: random.Random) -> bytes:
    """Damage of bytes, or of one entry's JSON."""
    data = path.read_bytes()
    if path.suffix not in (".jsonl", ".json") or rng.random() < 0.4:
        return mutated_bytes(data, rng)
    lines = data.splitlines()
    at = rng.randrange(len(lines))
    try:
        lines[at] = json_bytes(lines[at], rng)
    except ValueError:
        return mutated_bytes(data, rng)
    return b"\n".join(lines) + b"\n"


def test_ledgers(place, tmp_path) -> None:
    found = Findings()
    files = sorted(path.relative_to(place / "ledger") for path in (place / "ledger").rglob("*") if path.is_file())
    files = [name for name in files if not name.name.endswith("lock")]
    book = tmp_path / "ledger"
    asked = json.loads(run("ledger", "status", place / "ledger", "--json").stdout)["requests"][0]["id"]
    commands = (
        *(("status",), ("status", "--json"), ("verify", "--quiet"), ("drift", "--quiet"), ("repair",)),
        *(
            ("add", "moon", "--anchor", "cat", "--quiet"),
            ("revoke", asked[:12]),
            ("forget", 1),
            ("status", "--html", tmp_path / "p.html"),
        ),
    )
    for number in range(LEDGERS):
        rng, name = random.Random(3_000_000 + number), files[number % len(files)]
        shutil.copytree(place / "ledger", book)
        (book / name).write_bytes(ledger_bytes(place / "ledger" / name, rng))
        words = commands[number // len(files) % len(commands)]
        found.command(f"{name} {number}", "ledger", words[0], book, *words[1:])
        (tmp_path / "p.html").unlink(missing_ok=True)
        if left := [path.name for path in tmp_path.iterdir() if path != book]:
            found.faults.append(f"{name} {number}: {words}: left {left}")
        shutil.rmtree(book)
    found.check(LEDGERS // 5)


def test_recipes(place, tmp_path) -> None:
    found = Findings()
    sources = sorted((Path(world_of.__code__.co_filename).parents[1] / "recipes").glob("*.toml"))
    for number in range(RECIPES):
        rng, source = random.Random(4_000_000 + number), sources[number % len(sources)]
        damaged = tmp_path / "r.toml"
        damaged.write_bytes(rng.choice((mutated_bytes, text_bytes, text_bytes, text_bytes))(source.read_bytes(), rng))
        found.command(f"{source.stem} {number}", "explain", damaged)
        assert list(tmp_path.iterdir()) == [damaged]
    found.check(RECIPES // 3)


TABLES = {
    "i2p.csv": 'prompt,categories,evaluation_seed,evaluation_guidance\na dog,hate,12,7.5\ndogs,"hate, harm",13,7\n',
    "own.csv": "prompt,concept,group,seed,guidance_scale,tag,id\na dog,dog,direct,1,7.5,x,a\na cat,cat,near,2,,,b\n",
    "lines.txt": "a dog\n# a comment\n\nanother dog, in ink\n",
    "list.json": '["a dog", {"prompt": "a cat", "concept": "cat", "group": "near", "seed": 3}]',
    "table.json": '{"dog": {"explicit": "a dog runs", "implicit": "it barks", "accepted_rate": 0.8}}',
}


def test_prompts(place, tmp_path) -> None:
    found, world = Findings(), world_of(str(place / "m"))
    names = list(TABLES)
    for number in range(PROMPTS):
        rng, name = random.Random(5_000_000 + number), names[number % len(names)]
        path = tmp_path / name
        path.write_text(TABLES[name])
        path.write_bytes(rng.choice(mutation_of(path))(path.read_bytes(), rng))
        try:
            with in_time():
                checks = world.suite_from_file(path, ("dog",)).checks(("dog",))
                json.dumps([check.prompt.text for check in checks], ensure_ascii=False).encode()
        except UnconceptError as error:
            found.refused += 1
            str(error).encode("utf-8", "backslashreplace")
        except Exception as error:
            found.faults.append(f"{name} {number}: {type(error).__name__}: {error}")
        for flag in ("--concepts", "--retain-file") if number % 10 == 0 else ():
            words = ("erase", "dog", "--anchor", "cat", "--no-report", "--quiet", "--model", place / "m", flag, path)
            found.command(f"{flag} {name} {number}", *words, out=tmp_path / "o")
        path.unlink()
    found.check(PROMPTS // 4)
