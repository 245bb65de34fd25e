"""Opens, creates and appends to a ledger on disk, and checks models and settings against its policy."""

import shutil
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import LedgerError, OutputError, require
from ..core.hashing import hash_json
from ..core.output_folder import output_errors
from ..core.settings import build_settings
from ..methods import Mechanism, methods
from ..models import ModelView
from ..models.checkpoint.fingerprint import encoders_hash, networks_hash, text_maps_hash
from ..models.text.text_identity import TokenTextKey
from ..models.text.tokenizer import TextPosition
from ..training.regularisers import Regularisers
from ..worlds.registry import embedded_world, outdated_note
from .entry import canonical_settings, ledger_method, reading_key, utc_timestamp
from .policy import LedgerPolicy
from .request_state import RequestState, RequestStates
from .storage.artifacts import ARTIFACTS_FOLDER, Artifacts
from .storage.disk import WRITE_REMEDY, append_durably, folder_lock
from .storage.entry_log import ENTRIES_FILE, EntryLog
from .storage.entry_schema import RequestContent
from .storage.garbage_collection import gc_paused
from .storage.pictures import PICTURES_FOLDER, AuditPictures
from .storage.sealed_entries import EntryBody

NEIGHBOUR_POSITION: TextPosition = "last_subject"  # token position at which targets are compared


@dataclass(frozen=True)
class EntryNote:
    """Who asks or makes an entry, and why. Stored beside the entry, not part of a request's id."""

    by: str = ""
    because: str = ""
    recorded_by: str = ""  # the clerk, if somebody else typed it


@dataclass
class Ledger:
    """An open ledger. It may stay open: entries are read and verified once, `refresh` reads only new ones."""

    folder: Path
    entry_log: EntryLog
    artifacts: Artifacts
    request_states: RequestStates = field(default_factory=RequestStates)
    hashes: dict[tuple[int, tuple[str, ...]], str] = field(default_factory=dict)  # by model and names of its tensors
    _checked: dict[tuple[int, Mechanism], str] = field(default_factory=dict)  # hashes of models that were compared
    _text_keys: dict[int, TokenTextKey] = field(default_factory=dict)  # by model
    _readings: dict[str, Hashable] = field(default_factory=dict)  # keys of comparison of requests, by id
    _generation: int = 0  # of the entries from which the states were derived

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

    @property
    def pictures(self) -> AuditPictures:
        """The contact sheets of audits."""
        return AuditPictures(self.folder / PICTURES_FOLDER)

    def refresh(self, torn: bool = False) -> bool:
        """Read entries that were written since. Returns whether the last line is torn."""
        with gc_paused():
            found = self.entry_log.refresh(torn)
            self._derive()
        return found.torn

    def _derive(self) -> None:
        """Bring the states of requests up to date with the entries."""
        if self._generation != self.entry_log.generation:
            self.request_states, self._generation = RequestStates(), self.entry_log.generation
        self.request_states.read_entries(self.entry_log.bodies)

    @contextmanager
    def write_lock(self) -> Iterator[None]:
        """Hold the write lock: inside, no other process writes, and all earlier entries have been read."""
        with self.entry_log.write_lock():
            self._derive()
            yield

    def append(self, op: str, note: EntryNote, **about: Any) -> EntryBody:
        """Write one entry; call it inside `write_lock` only. `LedgerError` if the clock is before the last entry."""
        at, last = utc_timestamp(), self.entry_log.bodies[-1]["at"]
        require(
            at >= last,
            f"the clock shows {at}, before the last entry of {self.folder} at {last}: set the clock",
            LedgerError,
        )
        try:
            self.entry_log.append({"op": op, "at": at, **asdict(note), **about})
        finally:  # Also if the entry was written, but not the head file.
            self._derive()
        return self.entry_log.bodies[-1]

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
                    self._require_current(model)
                    message = (
                        f"ledger {self.folder} was begun for {self.first['model']} with {told} {known[name][:12]},"
                        f" {model.name} has {found[name][:12]}: "
                    )
                    raise LedgerError(
                        message + "open the model it was begun for, or begin a new ledger and add the requests there"
                    )
            self._checked[key] = found["networks" if mechanism != "closed-form" else "text_maps"]
        return self._checked[key]

    def _require_current(self, model: ModelView) -> None:
        """Raise `LedgerError` if the ledger was begun for another version of this embedded model."""
        outdated = outdated_note(self.first["model"]) if embedded_world(model.name) is not None else ""
        message = f"ledger {self.folder}: {outdated}; begin a new ledger and add the requests there"
        require(not outdated, message, LedgerError)

    def text_key(self, model: ModelView) -> TokenTextKey:
        """The key of the model's texts; what was read once is not read again."""
        if id(model) not in self._text_keys:
            self._text_keys[id(model)] = TokenTextKey.of(model)
        return self._text_keys[id(model)]

    def same_request(self, model: ModelView, wanted: RequestContent) -> RequestState | None:
        """The request of this ledger whose texts the model reads like these; None if there is none."""
        found = self.request_states.get(wanted.id)
        if found is not None:
            return found
        key = self.text_key(model)
        reading = reading_key(wanted, key)
        for one in self.request_states.by_id.values():
            if one.id not in self._readings:
                self._readings[one.id] = reading_key(one.content, key)
            if self._readings[one.id] == reading:
                return one
        return None

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
    require_empty_folder(folder)
    known = canonical_settings(ledger_method(method, model.family, policy.rule), settings)
    base = {"text_maps": text_maps_hash(model), "encoders": encoders_hash(model), "networks": networks_hash(model)}
    about = {
        "model": model.name,
        "family": model.family,
        "base": base,
        "method": method,
        "settings": known,
        "policy": policy.data(),
    }
    was_there, is_ours = folder.exists(), False
    try:
        with output_errors(folder, WRITE_REMEDY):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ARTIFACTS_FOLDER).mkdir(mode=0o700, exist_ok=True)
        with folder_lock(folder):
            message = f"another process just made {folder} a ledger: use that one, or choose another place"
            require(not (folder / ENTRIES_FILE).exists(), message, LedgerError)
            is_ours = True
            append_durably(folder / ENTRIES_FILE, b"", 0)
            EntryLog(folder).append({"op": "init", "at": utc_timestamp(), **asdict(note), **about})
    except OutputError as error:
        _remove_unbegun(folder, was_there, is_ours)
        raise OutputError(f"{str(error).partition('; ')[0]}; {WRITE_REMEDY}") from None
    return Ledger.open(folder)


def require_empty_folder(folder: Path) -> None:
    """Raise `OutputError` unless a ledger can be begun in the folder."""
    is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    require(is_free, f"{folder} exists and is not empty: choose another place", OutputError)


def _remove_unbegun(folder: Path, was_there: bool, is_ours: bool) -> None:
    """Remove what `create_ledger` made; another process may have begun a ledger there meanwhile, which stays."""
    for path in folder.iterdir() if is_ours else ():
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for empty in [folder / ARTIFACTS_FOLDER, *([] if was_there else [folder])]:
        with suppress(OSError):
            empty.rmdir()


@contextmanager
def partly_done(done: int, of: int, what: str) -> Iterator[None]:
    """Inside, an `OutputError` also says how many of several entries are written already."""
    try:
        yield
    except OutputError as error:
        require(not done, f"{done} of {of} {what}; the next one: {error}", OutputError)
        raise


def request_set_hash(ids: list[str]) -> str:
    """Hash of a set of request ids; it names a state."""
    return hash_json(sorted(ids))


def method_mechanism(method: str) -> Mechanism:
    """How a method changes a model, from its registry entry."""
    return methods[method].mechanism
