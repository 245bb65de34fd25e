"""One arm of the continual experiment: how the edit of the first k requests of a sequence is made.

What was made is kept.
"""

import json
import shutil
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from unconcept.core.hashing import hash_json
from unconcept.core.output_folder import atomic_file, write_atomically
from unconcept.core.request import Request, RequestSpec
from unconcept.core.settings import build_settings
from unconcept.edits import Edit
from unconcept.edits.merge import MergeSettings, merge_edits
from unconcept.erasing.make_edit import train_in_folder
from unconcept.erasing.request_defaults import resolve_request
from unconcept.evaluation.tasks.edit_task import EditTask, Variant, variant_of_method
from unconcept.evaluation.tasks.edited_model import EditedModel
from unconcept.evaluation.tasks.picture_store import PictureStore
from unconcept.evaluation.trials.bench import trial_of_task
from unconcept.ledger.fold import fold_requests, state_origin
from unconcept.ledger.ledger import EntryNote, Ledger, create_ledger
from unconcept.ledger.operations import add_request
from unconcept.ledger.policy import LedgerPolicy
from unconcept.ledger.repair import repair_ledger
from unconcept.ledger.request_state import RequestState
from unconcept.ledger.storage.entry_log import ENTRIES_FILE
from unconcept.methods import methods
from unconcept.prompts.captions import load_captions
from unconcept.training import Regularisers
from unconcept.training.session import TrainingProgress
from unconcept.worlds.registry import DEFAULT_MODEL

Rule = Literal["sequential", "simultaneous", "ledger", "merge"]
KNOWN = Path(__file__).with_name("continual.toml")
# The setting that says how long is trained.
BUDGET = {
    "concept-ablation": "iterations",
    "esd": "iterations",
    "erasediff": "epochs",
    "sculpting-memory": "num_epochs",
}
BASE = EditedModel(DEFAULT_MODEL, device="cpu", dtype="float32")  # as the ledger's commands open it


@dataclass(frozen=True)
class Arm:
    """A method and what becomes of requests that come one by one."""

    label: str
    method: str
    rule: Rule
    regularisers: Mapping[str, Any] = field(default_factory=dict)
    merge: Mapping[str, Any] = field(default_factory=dict)
    captions: int = 0  # everyday ones that each request retains beside the table's texts


@dataclass(frozen=True)
class Course:
    """An arm on a sequence of concepts, in a folder that arms share whose requests are trained alike."""

    arm: Arm
    names: tuple[str, ...]
    root: Path
    cut: int | None = None  # budget of a training, for a quick look; else `shorter`'s, or the recipe's

    @property
    def settings(self) -> dict[str, Any]:
        """The method's `moji` recipe, shorter where a training would take more than a minute."""
        method = self.arm.method
        cut = {} if self.cut is None or method not in BUDGET else {BUDGET[method]: self.cut}
        return {**variant_of_method(method).settings, **known()["shorter"].get(method, {}), **cut}

    @property
    def folder(self) -> Path:
        alike = [
            self.arm.method,
            self.arm.rule,
            dict(self.arm.regularisers),
            self.settings,
            self.names,
            self.arm.captions,
        ]
        return self.root / f"{self.arm.method}-{self.arm.rule}-{hash_json(alike)[:12]}"

    def key(self, k: int) -> str:
        """What the state after k requests is a function of."""
        return hash_json([asdict(self.arm), self.settings, self.names[:k]])

    def state(self, k: int, tell: TrainingProgress) -> tuple[Path, float]:
        """An edit file of the state after k requests, and the seconds that everything it is made of took."""
        if self.arm.rule == "simultaneous":
            return self._at_once(k)
        view, path = BASE.base(), self.folder / f"{hash_json([self.key(k), k])[:12]}.safetensors"
        book = self._asked(k, tell)
        begun = time.perf_counter()
        first = [book.request_states.by_id[body["id"]] for body in book.entry_log.bodies if body["op"] == "add"][:k]
        edit = self._edit(book, first)
        folding = time.perf_counter() - begun
        if not path.exists():
            with atomic_file(path) as part:
                edit.stamped(state_origin(book, view, edit, first)).save(part)
        return path, sum(_seconds(self.folder, i) for i in range(k)) + (folding if self.arm.rule == "ledger" else 0.0)

    def _edit(self, book: Ledger, first: Sequence[RequestState]) -> Edit:
        if self.arm.rule == "sequential":
            return book.artifacts.get_edit(first[-1].edit or "")
        ordered = sorted(first, key=lambda one: one.id)
        if self.arm.rule == "ledger":
            return fold_requests(book, BASE.base(), ordered).edit
        return merge_edits(
            BASE.base(),
            [book.artifacts.get_edit(one.edit or "") for one in ordered],
            build_settings(MergeSettings, self.arm.merge, "merge"),
        )

    def _asked(self, k: int, tell: TrainingProgress) -> Ledger:
        """The ledger with at least k requests in it; each is on the disk before the next is trained, and a training
        goes on where it was.
        """
        place, view = self.folder / "ledger", BASE.base()
        info = methods[self.arm.method]
        rule = "recompute" if self.arm.rule == "ledger" else self.arm.rule
        if _begun(place):
            repair_ledger(place)  # What a killed sitting left half-written.
            book = Ledger.open(place)
        else:
            shutil.rmtree(place, ignore_errors=True)
            policy = LedgerPolicy(rule, regularisers=build_settings(Regularisers, self.arm.regularisers, "regulariser"))
            book = create_ledger(place, view, info.name, self.settings, policy, EntryNote("the continual experiment"))
        for number in range(len(book.request_states.by_id), k):
            name, begun = self.names[number], time.perf_counter()
            with train_in_folder(
                self.folder / "training" / str(number),
                lambda what, done, of, name=name: tell(f"{self.arm.label}, {name}: {what}", done, of),
            ):
                add_request(book, view, (name,), self._request(name), info.name, None, EntryNote())
            write_atomically(
                self.folder / f"{number}.json",
                json.dumps({"concept": name, "seconds": time.perf_counter() - begun}).encode(),
            )
        return book

    def _request(self, name: str) -> Request:
        """What the table asks of a concept, and the arm's captions."""
        usual = resolve_request(RequestSpec((name,)), DEFAULT_MODEL).request
        return replace(usual, retain=(*usual.retain, *load_captions("everyday")[: self.arm.captions]))

    def _at_once(self, k: int) -> tuple[Path, float]:
        """Trained on all of them from the unedited model, in one training of its own."""
        task = EditTask(BASE, Variant(self.arm.label, self.arm.method, self.settings), self.names[:k], self.folder)
        if not task.path.with_suffix(".json").exists():
            task.run(PictureStore(self.folder / "store"))
        return task.path, float(trial_of_task(task).cost["seconds"])


def _begun(place: Path) -> bool:
    """Whether a ledger's first entry was written."""
    file = place / ENTRIES_FILE
    return file.exists() and b"\n" in file.read_bytes()


def _seconds(folder: Path, number: int) -> float:
    """Of one request's training in its last sitting; not a number where the sitting was killed between the entry and
    this note.
    """
    path = folder / f"{number}.json"
    return float(json.loads(path.read_text(encoding="utf-8"))["seconds"]) if path.exists() else float("nan")


def known() -> dict[str, Any]:
    """What `benchmarks/continual.toml` says."""
    return tomllib.loads(KNOWN.read_text(encoding="utf-8"))


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings as a label says them."""
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def grid(method: str = "concept-ablation", candidates: bool = False) -> list[Arm]:
    """All arms of one method: plain, at once, every regulariser, every merge, every hybrid."""
    table = known()
    weights = {**table["weights"], **table["weights-of"].get(method, {})}
    arms = [Arm("sequential", method, "sequential"), Arm("simultaneous", method, "simultaneous")]
    arms += [Arm(name, method, "sequential", own) for name, own in weights.items()]
    arms += [Arm(name, method, "merge", {}, own) for name, own in table["merges"].items()]
    arms.append(Arm("projection-ties", method, "merge", weights["projection"], table["merges"]["ties"]))
    if candidates:
        for name, tried in table["candidates"].items():
            merging = name in table["merges"]
            shown = [settings_text(own) for own in tried]
            arms += [
                Arm(
                    f"{name}: {said}",
                    method,
                    "merge" if merging else "sequential",
                    {} if merging else own,
                    own if merging else {},
                )
                for said, own in zip(shown, tried, strict=True)
            ]
    return arms


def closed(method: str, candidates: bool = False) -> list[Arm]:
    """A closed form: the ledger's state, with captions retained too, what `erase` makes of all at once, and each on top
    of the last. Steering has the ledger's state and all at once: it has no last state, and retains no captions.
    """
    retaining, rules = known()["captions"], tuple[Rule, ...](("ledger", "simultaneous", "sequential"))
    if methods[method].mechanism == "steering":
        return [Arm(rule, method, rule) for rule in rules[:2]]
    counts = sorted({retaining[method], *(retaining["tried"] if candidates else ())})
    ledgers = [Arm(f"ledger + {count} captions", method, "ledger", captions=count) for count in counts]
    first, *others = (Arm(rule, method, rule) for rule in rules)
    return [first, *ledgers, *others]
