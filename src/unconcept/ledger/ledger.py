"""A ledger on disk: what it is about, what stands in it, and who may write."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ..core.errors import LedgerError, OutputError, require
from ..core.hashing import hash_json
from ..core.settings import build, defaults
from ..edits.merge import Merge
from ..methods import Way, methods
from ..models import ModelView
from ..models.checkpoint.fingerprint import encoders_hash, networks_hash, text_maps_hash
from ..models.text.tokenizer import Place
from ..training.regularisers import NONE, Regularisers
from .artifacts import FOLDER, Artifacts
from .entry import Rule, eraser, now, number, plain
from .entry_log import ENTRIES, Body, Chain, locked, uncollected, write_end
from .request_state import Standings

PLACE: Place = "last_subject"  # where a target is compared with others
Teacher = Literal["previous", "pretrained"]
FRACTIONS = [name for name, value in defaults(Regularisers).items() if isinstance(value, float)]
RETAIN = "union of typed sets, and of default ones less what is withheld, less all targets"


@dataclass(frozen=True)
class Note:
    """Who asked, and why: beside an entry, not in its id."""

    by: str = ""
    because: str = ""


@dataclass(frozen=True)
class Policy:
    """How trained requests become one state. Closed forms always fold exactly, except under `sequential`, which is the literature's way."""

    rule: Rule = "recompute"
    merge: Merge = field(default_factory=Merge)  # of the rule merge
    teacher: Teacher = "previous"  # of the rule sequential: the model before the request, or before all
    regularisers: Regularisers = NONE  # of every training

    def data(self) -> dict[str, Any]:
        """Plain data of what matters under the rule."""
        told: dict[str, Any] = {"rule": self.rule, "retain": RETAIN}
        if self.rule == "merge":
            told["merge"] = _decimals(asdict(self.merge))
        if self.regularisers != NONE:
            told["regularisers"] = _decimals(self.regularisers.data())
        return told | ({"teacher": self.teacher} if self.rule == "sequential" else {})

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "Policy":
        """The inverse of `data`; `SettingsError` names what is not of it."""
        merge = build(Merge, {name: value if name == "how" else number(value) for name, value in data.get("merge", {}).items()}, "merge")
        held = {name: number(value) if name in FRACTIONS else value for name, value in data.get("regularisers", {}).items()}
        bare = build(cls, {name: data[name] for name in ("rule", "teacher") if name in data}, "policy")
        return replace(bare, merge=merge, regularisers=build(Regularisers, held, "regulariser"))


def policy_of(rule: str, merge: Mapping[str, Any], teacher: str | None) -> Policy:
    """Of what was asked for, None: the default. `SettingsError` for what would change nothing under the rule."""
    given = {name: value for name, value in merge.items() if value is not None}
    policy = build(Policy, {"rule": rule} | ({"teacher": teacher} if teacher is not None else {}), "option")
    merging = build(Merge, given, "merge")
    require(not given or policy.rule == "merge", f"merge {', '.join(given)} would change nothing under rule {rule}: take rule merge, or leave it out")
    idle = {"uniform": ("scale", "topk"), "task-arithmetic": ("topk",), "ties": ()}[merging.how]
    vain = [name for name in idle if name in given]
    require(not vain, f"merge {', '.join(vain)} would change nothing of {merging.how}: leave it out")
    require(teacher is None or policy.rule == "sequential", f"teacher would change nothing under rule {rule}: take rule sequential, or leave it out")
    return replace(policy, merge=merging)


def _decimals(values: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers with a fraction as decimal texts, as entries have them."""
    return {name: repr(value) if isinstance(value, float) else value for name, value in values.items()}


@dataclass
class Ledger:
    """Open for as long as the process likes: what was read once is not read again."""

    folder: Path
    chain: Chain
    artifacts: Artifacts
    standings: Standings = field(default_factory=Standings)
    hashes: dict[tuple[int, tuple[str, ...]], str] = field(default_factory=dict)  # of a model's tensors by name
    _checked: dict[tuple[int, Way], str] = field(default_factory=dict)  # models whose hashes were compared

    @classmethod
    def open(cls, folder: Path, torn: bool = False) -> "Ledger":
        """`LedgerError` unless it is sound; a torn last line is let pass for readers who say so."""
        ledger = cls(folder, Chain(folder), Artifacts(folder / FOLDER))
        ledger.refresh(torn)
        return ledger

    @property
    def first(self) -> Body:
        """The entry that began it: model, family, hashes, rule."""
        return self.chain.bodies[0]

    @property
    def policy(self) -> Policy:
        return Policy.of(self.first["policy"])

    def refresh(self, torn: bool = False) -> bool:
        """Take in what was written since; whether the last line is torn."""
        with uncollected():
            found = self.chain.refresh(torn)
            self.standings.take(self.chain.bodies)
        return found.torn

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Inside, nobody else writes, and all that others wrote is known."""
        with self.chain.writing():
            self.standings.take(self.chain.bodies)
            yield

    def append(self, op: str, note: Note, **about: Any) -> Body:
        """Write one entry; only inside `writing`. A clock before the last entry's time is refused: times would lie."""
        at, last = now(), self.chain.bodies[-1]["at"]
        require(at >= last, f"the clock says {at}, the last entry of {self.folder} is of {last}: set the clock", LedgerError)
        body = self.chain.append({"op": op, "at": at, "by": note.by, "because": note.because, **about})
        self.standings.take(self.chain.bodies)
        return body

    def check_base(self, model: ModelView, way: Way) -> str:
        """Hash of what a method of this way may touch; `LedgerError` unless it is what it was when the ledger was begun."""
        key = (id(model), way)
        if key not in self._checked:
            known = self.first["base"]
            found = {"text_maps": text_maps_hash(model), "encoders": encoders_hash(model)}
            if way != "closed-form":
                found["networks"] = networks_hash(model)
            for name, told in (("encoders", "text encoder"), ("text_maps", "base"), ("networks", "base")):
                if name in found and found[name] != known[name]:
                    message = f"ledger {self.folder} is of {self.first['model']} with {told} {known[name][:12]}, {model.name} has {found[name][:12]}: "
                    raise LedgerError(message + "open the model it was begun with, or begin a new ledger and ask again there")
            self._checked[key] = found["networks" if way != "closed-form" else "text_maps"]
        return self._checked[key]

    def check_regularisers(self, given: Mapping[str, Any]) -> None:
        """`LedgerError` where a recipe has others than the ledger: a policy is never mixed."""
        same = not given or build(Regularisers, given, "regulariser") == self.policy.regularisers
        require(same, f"ledger {self.folder} has the regularisers {self.policy.regularisers.data()}, not {dict(given)}: begin a new ledger", LedgerError)

    def settings_for(self, method: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
        """The method's settings, None: as the ledger has them. `LedgerError` where it has others: a policy is never mixed."""
        info = eraser(method, self.first["family"], self.policy.rule)
        if given is None and method in self.standings.settings:
            return dict(self.standings.settings[method])
        settings = plain(info, given or {})
        known = self.standings.settings.get(method, settings)
        apart = sorted(name for name in {*settings, *known} if settings.get(name) != known.get(name))
        if apart:
            said = ", ".join(f"{name} = {known.get(name)} here, {settings.get(name)} asked for" for name in apart)
            raise LedgerError(f"ledger {self.folder} has {method} with {said}: begin a new ledger for another policy")
        return settings


def begin(folder: Path, model: ModelView, method: str, settings: Mapping[str, Any], policy: Policy, note: Note) -> Ledger:
    """Make an empty ledger. `OutputError` if something is there."""
    require(not folder.exists() or (folder.is_dir() and not any(folder.iterdir())), f"{folder} exists and is not empty: choose another place", OutputError)
    known = plain(eraser(method, model.family, policy.rule), settings)
    base = {"text_maps": text_maps_hash(model), "encoders": encoders_hash(model), "networks": networks_hash(model)}
    was_there = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FOLDER).mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: {error.strerror or error}; choose another place") from None
    chain = Chain(folder)
    with locked(folder):
        require(not (folder / ENTRIES).exists(), f"{folder} was made a ledger by another process just now", OutputError)
        about = {"model": model.name, "family": model.family, "base": base, "method": method, "settings": known, "policy": policy.data()}
        try:
            write_end(folder / ENTRIES, b"", 0)
            chain.append({"op": "init", "at": now(), "by": note.by, "because": note.because, **about})
        except OutputError:
            shutil.rmtree(folder, ignore_errors=True)
            if was_there:
                folder.mkdir()
            raise
    return Ledger.open(folder)


def set_hash(ids: list[str]) -> str:
    """Of requests in force: what names a state."""
    return hash_json(sorted(ids))


def way_of(method: str) -> Way:
    return methods[method].way
