"""Opens, creates and appends to a ledger on disk, and checks models and settings against its policy."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ..core.errors import LedgerError, OutputError, require
from ..core.hashing import hash_json
from ..core.settings import build_settings, default_settings
from ..edits.merge import MergeSettings
from ..methods import Mechanism, methods
from ..models import ModelView
from ..models.checkpoint.fingerprint import encoders_hash, networks_hash, text_maps_hash
from ..models.text.tokenizer import TextPosition
from ..training.regularisers import NO_REGULARISERS, Regularisers
from .artifacts import ARTIFACTS_FOLDER, Artifacts
from .entry import FoldRule, canonical_settings, ledger_method, parse_decimal, utc_timestamp
from .entry_log import ENTRIES_FILE, EntryBody, EntryLog, append_durably, folder_lock, gc_paused
from .request_state import RequestStates

NEIGHBOUR_POSITION: TextPosition = "last_subject"  # token position at which targets are compared
LedgerTeacher = Literal["previous", "pretrained"]
_FLOAT_REGULARISERS = [name for name, value in default_settings(Regularisers).items() if isinstance(value, float)]
_RETAIN_POLICY = (
    "union of typed sets, and of default ones less what is withheld, less all targets"  # in entries: never reword
)


@dataclass(frozen=True)
class EntryNote:
    """Who added an entry, and why. Stored with the entry, not part of a request's id."""

    by: str = ""
    because: str = ""


@dataclass(frozen=True)
class LedgerPolicy:
    """How requests of trained methods combine into one state.

    Closed forms always fold exactly, except under `sequential`, which is how the literature edits continually.
    """

    rule: FoldRule = "recompute"
    merge: MergeSettings = field(default_factory=MergeSettings)  # for the rule merge
    # For the rule sequential: the model before the request, or before all requests.
    teacher: LedgerTeacher = "previous"
    regularisers: Regularisers = NO_REGULARISERS  # for every training

    def data(self) -> dict[str, Any]:
        """Plain data of the settings that matter under the rule."""
        told: dict[str, Any] = {"rule": self.rule, "retain": _RETAIN_POLICY}
        if self.rule == "merge":
            told["merge"] = _decimals(asdict(self.merge))
        if self.regularisers != NO_REGULARISERS:
            told["regularisers"] = _decimals(self.regularisers.data())
        return told | ({"teacher": self.teacher} if self.rule == "sequential" else {})

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "LedgerPolicy":
        """Build a policy from `data`; `SettingsError` names a setting that is invalid."""
        merge = build_settings(
            MergeSettings,
            {name: value if name == "how" else parse_decimal(value) for name, value in data.get("merge", {}).items()},
            "merge",
        )
        held = {
            name: parse_decimal(value) if name in _FLOAT_REGULARISERS else value
            for name, value in data.get("regularisers", {}).items()
        }
        bare = build_settings(cls, {name: data[name] for name in ("rule", "teacher") if name in data}, "policy")
        return replace(bare, merge=merge, regularisers=build_settings(Regularisers, held, "regulariser"))


def resolve_policy(rule: str, merge: Mapping[str, Any], teacher: str | None) -> LedgerPolicy:
    """Build a policy from options, None for the default; `SettingsError` for one without effect under the rule."""
    given = {name: value for name, value in merge.items() if value is not None}
    policy = build_settings(
        LedgerPolicy, {"rule": rule} | ({"teacher": teacher} if teacher is not None else {}), "option"
    )
    merging = build_settings(MergeSettings, given, "merge")
    require(
        not given or policy.rule == "merge",
        f"merge {', '.join(given)} has no effect under rule {rule}: choose rule merge, or leave it out",
    )
    idle = {"uniform": ("scale", "topk"), "task-arithmetic": ("topk",), "ties": ()}[merging.how]
    vain = [name for name in idle if name in given]
    require(not vain, f"merge {', '.join(vain)} has no effect on {merging.how}: leave it out")
    require(
        teacher is None or policy.rule == "sequential",
        f"teacher has no effect under rule {rule}: choose rule sequential, or leave it out",
    )
    return replace(policy, merge=merging)


def _decimals(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert floats to decimal texts, as entries store them."""
    return {name: repr(value) if isinstance(value, float) else value for name, value in values.items()}


@dataclass
class Ledger:
    """An open ledger. It may stay open: entries are read and verified once, `refresh` reads only new ones."""

    folder: Path
    entry_log: EntryLog
    artifacts: Artifacts
    request_states: RequestStates = field(default_factory=RequestStates)
    hashes: dict[tuple[int, tuple[str, ...]], str] = field(default_factory=dict)  # by model and names of its tensors
    _checked: dict[tuple[int, Mechanism], str] = field(default_factory=dict)  # hashes of models that were compared

    @classmethod
    def open(cls, folder: Path, torn: bool = False) -> "Ledger":
        """Open and verify a ledger; `LedgerError` if it is damaged. A torn last line is tolerated if `torn`."""
        ledger = cls(folder, EntryLog(folder), Artifacts(folder / ARTIFACTS_FOLDER))
        ledger.refresh(torn)
        return ledger

    @property
    def first(self) -> EntryBody:
        """The entry that began the ledger: model, family, hashes, rule."""
        return self.entry_log.bodies[0]

    @property
    def policy(self) -> LedgerPolicy:
        return LedgerPolicy.of(self.first["policy"])

    def refresh(self, torn: bool = False) -> bool:
        """Read entries that were written since. Returns whether the last line is torn."""
        with gc_paused():
            found = self.entry_log.refresh(torn)
            self.request_states.read_entries(self.entry_log.bodies)
        return found.torn

    @contextmanager
    def write_lock(self) -> Iterator[None]:
        """Hold the write lock: inside, no other process writes, and all earlier entries have been read."""
        with self.entry_log.write_lock():
            self.request_states.read_entries(self.entry_log.bodies)
            yield

    def append(self, op: str, note: EntryNote, **about: Any) -> EntryBody:
        """Write one entry; call it inside `write_lock` only. `LedgerError` if the clock is before the last entry."""
        at, last = utc_timestamp(), self.entry_log.bodies[-1]["at"]
        require(
            at >= last,
            f"the clock shows {at}, before the last entry of {self.folder} at {last}: set the clock",
            LedgerError,
        )
        body = self.entry_log.append({"op": op, "at": at, "by": note.by, "because": note.because, **about})
        self.request_states.read_entries(self.entry_log.bodies)
        return body

    def require_base(self, model: ModelView, mechanism: Mechanism) -> str:
        """Check the model against the hashes in the first entry; `LedgerError` if they differ.

        Returns the hash of the parts that a method with this mechanism may change.
        """
        key = (id(model), mechanism)
        if key not in self._checked:
            known = self.first["base"]
            found = {"text_maps": text_maps_hash(model), "encoders": encoders_hash(model)}
            if mechanism != "closed-form":
                found["networks"] = networks_hash(model)
            for name, told in (("encoders", "text encoder"), ("text_maps", "base"), ("networks", "base")):
                if name in found and found[name] != known[name]:
                    message = (
                        f"ledger {self.folder} was begun for {self.first['model']} with {told} {known[name][:12]},"
                        f" {model.name} has {found[name][:12]}: "
                    )
                    raise LedgerError(
                        message + "open the model it was begun for, or begin a new ledger and add the requests there"
                    )
            self._checked[key] = found["networks" if mechanism != "closed-form" else "text_maps"]
        return self._checked[key]

    def require_regularisers(self, given: Mapping[str, Any]) -> None:
        """`LedgerError` if a recipe has other regularisers than the ledger: one ledger has one policy."""
        same = not given or build_settings(Regularisers, given, "regulariser") == self.policy.regularisers
        require(
            same,
            f"ledger {self.folder} has the regularisers {self.policy.regularisers.data()}, not {dict(given)}: begin a"
            " new ledger",
            LedgerError,
        )

    def settings_for(self, method: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
        """The settings of a method in canonical form; with None, those that the ledger has for it.

        `LedgerError` if the ledger has other settings for the method: one ledger has one policy.
        """
        info = ledger_method(method, self.first["family"], self.policy.rule)
        if given is None and method in self.request_states.settings:
            return dict(self.request_states.settings[method])
        settings = canonical_settings(info, given or {})
        known = self.request_states.settings.get(method, settings)
        apart = sorted(name for name in {*settings, *known} if settings.get(name) != known.get(name))
        if apart:
            said = ", ".join(f"{name} = {known.get(name)} here, {settings.get(name)} asked for" for name in apart)
            raise LedgerError(f"ledger {self.folder} has {method} with {said}: begin a new ledger for another policy")
        return settings


def create_ledger(
    folder: Path, model: ModelView, method: str, settings: Mapping[str, Any], policy: LedgerPolicy, note: EntryNote
) -> Ledger:
    """Create an empty ledger. `OutputError` if the folder is not empty."""
    require(
        not folder.exists() or (folder.is_dir() and not any(folder.iterdir())),
        f"{folder} exists and is not empty: choose another place",
        OutputError,
    )
    known = canonical_settings(ledger_method(method, model.family, policy.rule), settings)
    base = {"text_maps": text_maps_hash(model), "encoders": encoders_hash(model), "networks": networks_hash(model)}
    was_there = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ARTIFACTS_FOLDER).mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: {error.strerror or error}; choose another place") from None
    chain = EntryLog(folder)
    with folder_lock(folder):
        require(
            not (folder / ENTRIES_FILE).exists(),
            f"another process just made {folder} a ledger: use that one, or choose another place",
            OutputError,
        )
        about = {
            "model": model.name,
            "family": model.family,
            "base": base,
            "method": method,
            "settings": known,
            "policy": policy.data(),
        }
        try:
            append_durably(folder / ENTRIES_FILE, b"", 0)
            chain.append({"op": "init", "at": utc_timestamp(), "by": note.by, "because": note.because, **about})
        except OutputError:
            shutil.rmtree(folder, ignore_errors=True)
            if was_there:
                folder.mkdir()
            raise
    return Ledger.open(folder)


def request_set_hash(ids: list[str]) -> str:
    """Hash of a set of request ids; it names a state."""
    return hash_json(sorted(ids))


def method_mechanism(method: str) -> Mechanism:
    """How a method changes a model, from its registry entry."""
    return methods[method].mechanism
