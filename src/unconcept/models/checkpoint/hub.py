"""Fetches models of the Hugging Face Hub that are not in its cache: safetensors and configs, never pickles.

Of a pipeline only what is read is fetched: no second variant, no safety checker, no single file at the top.
"""

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Self

from ...core.errors import ModelError, require
from ...core.progress import downloads_progress
from .config import pipeline_kind
from .safetensors_io import PICKLE_REMEDY, PICKLE_SUFFIXES
from .weight_files import WEIGHT_PARTS, chosen_weights, tensor_files, weight_variants

_HUB_ID = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w./-]*))?")
_PLAIN_FILES = (".json", ".txt", ".model")  # configs and vocabularies; SentencePiece's .model is no pickle
_CARD = "README.md"
_PIPELINE, _NETWORK = "model_index.json", "config.json"  # the file that says what a repository holds
_ANSWER_SECONDS = 5.0  # how long the first request waits for the Hub
_Chooser = Callable[[Path, Sequence[str]], list[str]]  # from that file and all names, those to fetch


class PendingDownload(ModelError):
    """A repository that is not in the cache, where nothing may be fetched because a command is only planned."""

    def __init__(self, name: str, files: int, size: int) -> None:
        super().__init__(f"model {name!r} would be fetched: {files} files, {size / 1e6:.0f} MB")
        self.name, self.files, self.bytes = name, files, size


_is_planning: ContextVar[bool] = ContextVar("planning", default=False)


@contextmanager
def without_downloads() -> Iterator[None]:
    """Inside, what would be fetched raises `PendingDownload`; the Hub is only asked for names and sizes."""
    token = _is_planning.set(True)
    try:
        yield
    finally:
        _is_planning.reset(token)


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a Hub id: OWNER/NAME, or OWNER/NAME@REVISION."""
    return _HUB_ID.fullmatch(name) is not None


def hub_pipeline(name: str) -> Path:
    """The folder of a pipeline in the cache, fetched if it is not there."""
    return _snapshot(name, _PIPELINE, _is_whole_pipeline, _pipeline_files)


def hub_network(name: str) -> Path:
    """The folder of a single network with its tokenizer in the cache, such as a CLIP, fetched if it is not there."""
    return _snapshot(name, _NETWORK, _has_weights, _network_files)


def _snapshot(name: str, marker: str, is_whole: Callable[[Path], bool], choose: _Chooser) -> Path:
    found = _HUB_ID.fullmatch(name)
    assert found is not None
    repository, revision = found[1], found[2]
    from huggingface_hub import try_to_load_from_cache

    place = try_to_load_from_cache(repository, marker, os.environ.get("HF_HUB_CACHE"), revision)
    cached = Path(place).parent if isinstance(place, str) else None
    if cached is not None and (is_whole(cached) or _is_offline()):
        return cached
    message = (
        f"model {name!r} is neither a path nor in the Hugging Face cache, and --offline or HF_HUB_OFFLINE forbids to"
        " fetch it: allow that, or give a folder"
    )
    require(not _is_offline(), message, ModelError)
    with _hub_errors(name, repository, revision):
        return _fetched(repository, revision, marker, choose)


def _is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _fetched(repository: str, revision: str | None, marker: str, choose: _Chooser) -> Path:
    """Fetch the marker, then what it says is needed; files that are in the cache are kept."""
    from huggingface_hub import hf_hub_download

    where: dict[str, Any] = {"endpoint": os.environ.get("HF_ENDPOINT"), "cache_dir": os.environ.get("HF_HUB_CACHE")}
    _require_answer(repository, revision, marker, where["endpoint"])
    if _is_planning.get():
        raise _pending(repository, revision, marker, choose)
    first = Path(hf_hub_download(repository, marker, revision=revision, tqdm_class=_Silent, **where))
    folder = first.parent  # named by the commit, so that all files are of one
    sizes = _sizes(repository, folder.name)
    missing = [name for name in choose(first, list(sizes)) if not (folder / name).exists()]
    count = _ByteCount(f"fetch {repository} (MB)", sum(sizes[name] for name in missing))
    # Weights come last: a snapshot with all weights then has everything else too.
    for name in sorted(missing, key=lambda name: (name.endswith(".safetensors"), sizes[name])):
        hf_hub_download(repository, name, revision=folder.name, tqdm_class=count.bar_class(), **where)
    count.finish()
    return folder


def _sizes(repository: str, revision: str | None) -> dict[str, int]:
    """Bytes of all files of a repository."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    about = api.model_info(repository, revision=revision, files_metadata=True)
    return {file.rfilename: file.size or 0 for file in about.siblings or ()}


def _pending(repository: str, revision: str | None, marker: str, choose: _Chooser) -> PendingDownload:
    """What would be fetched. The marker is read from a folder that is gone afterwards."""
    from huggingface_hub import hf_hub_download

    with tempfile.TemporaryDirectory(prefix="unconcept-") as place:
        where: dict[str, Any] = {"endpoint": os.environ.get("HF_ENDPOINT"), "cache_dir": place}
        first = Path(hf_hub_download(repository, marker, revision=revision, tqdm_class=_Silent, **where))
        sizes = _sizes(repository, first.parent.name)
        chosen = choose(first, list(sizes))
    return PendingDownload(repository, len(chosen), sum(sizes[name] for name in chosen))


def _require_answer(repository: str, revision: str | None, marker: str, endpoint: str | None) -> None:
    """Raise the network's error if the Hub cannot be reached, at once: a download tries again for half a minute.

    HF_HUB_ETAG_TIMEOUT sets how many seconds a slow connection has.
    """
    from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_url

    is_set = "HF_HUB_ETAG_TIMEOUT" in os.environ
    seconds = constants.HF_HUB_ETAG_TIMEOUT if is_set else _ANSWER_SECONDS
    url = hf_hub_url(repository, marker, revision=revision, endpoint=endpoint)
    with suppress(errors.HfHubHTTPError):  # It has answered; the download decides whether to ask again.
        get_hf_file_metadata(url, timeout=seconds, endpoint=endpoint)


def _is_whole_pipeline(folder: Path) -> bool:
    """Whether the snapshot has the weights of every network that its index names."""
    return all(_has_weights(folder / part) for part in _networks(folder / _PIPELINE))


def _has_weights(folder: Path) -> bool:
    """Whether a folder has its config and a complete set of weights."""
    try:
        files = [file for place in weight_variants(folder).values() for file in _stored(place)]
    except ModelError:
        return False
    return (folder / _NETWORK).exists() and bool(files) and all(file.exists() for file in files)


def _stored(place: Path) -> set[Path]:
    return set(tensor_files(place).values()) if place.suffix == ".json" else {place}


def _networks(index: Path) -> list[str]:
    """The parts with weights that an index of a pipeline names."""
    try:
        told = json.loads(index.read_text(encoding="utf-8"))
        return [part for part in WEIGHT_PARTS if isinstance(told.get(part), list) and told[part][0] is not None]
    except (OSError, ValueError, AttributeError, IndexError) as error:
        raise ModelError(f"{index}: {error}; this is no index of a diffusers pipeline") from None


def _pipeline_files(index: Path, names: Sequence[str]) -> list[str]:
    pipeline_kind(index.parent)  # Raises an error before anything large is fetched.
    networks = _networks(index)
    others = {name.partition("/")[0] for name in names if name.startswith(("scheduler/", "tokenizer"))}
    found = [name for name in names if name in (_PIPELINE, _CARD)]
    for part in [*networks, *sorted(others)]:
        own = [name.removeprefix(f"{part}/") for name in names if name.startswith(f"{part}/")]
        chosen = _plain(own) + (_weights(f"{part} of {index.parent.name}", own) if part in networks else [])
        found += [f"{part}/{name}" for name in chosen]
    return found


def _network_files(config: Path, names: Sequence[str]) -> list[str]:
    own = [name for name in names if "/" not in name]
    return [*_plain(own), *[name for name in own if name == _CARD], *_weights("it", own)]


def _plain(names: Sequence[str]) -> list[str]:
    return [name for name in names if name.endswith(_PLAIN_FILES) and "/" not in name]


def _weights(what: str, names: Sequence[str]) -> list[str]:
    """The weights to fetch: one variant, in safetensors. `ModelError` if there are only pickles."""
    found = chosen_weights([name for name in names if "/" not in name])
    pickled = [name for name in names if name.endswith(PICKLE_SUFFIXES)]
    require(bool(found) or not pickled, f"{what} has only {', '.join(pickled[:2])}: {PICKLE_REMEDY}", ModelError)
    require(bool(found), f"{what} has no .safetensors weights: give a complete diffusers model", ModelError)
    return found


@contextmanager
def _hub_errors(name: str, repository: str, revision: str | None) -> Iterator[None]:
    """Turn what the Hub and the network answer into one line with a remedy."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        reason = "is gated: accept its terms on its page, then log in with `hf auth login`"
    except errors.RepositoryNotFoundError:
        reason = "is not on the Hub, or is private: check the name, or log in with `hf auth login`"
    except errors.RevisionNotFoundError:
        reason = f"has no revision {revision!r}: check the part after @"
    except errors.RemoteEntryNotFoundError:
        reason = "is no diffusers pipeline or CLIP, because the file that says what it holds is missing"
    except errors.HfHubHTTPError as error:
        reason = f"could not be fetched: the Hub answered {error.response.status_code}; try again later"
    except (OSError, vars(errors)["HTTPError"]) as error:  # the latter of httpx, by whatever name it is installed
        cause = getattr(error, "strerror", None) or error.__cause__ or error
        reason = f"could not be fetched: {str(cause).splitlines()[0]}; check the connection and the free space"
    else:
        return
    raise ModelError(f"model {name!r} {reason}")


class _Silent:
    """A progress bar, in the form that huggingface_hub calls, that shows nothing."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        """Takes whatever a bar is told."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    def update(self, count: float | None = 1) -> None:
        """Count more bytes."""

    def close(self) -> None:
        """Nothing is open."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **settings: None


class _ByteCount:
    """Adds up the bytes of all files and reports them in MB."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.of, self.done = what, max(1, round(total / 1e6)), 0.0
        self.tell = downloads_progress()
        self.tell(what, 0, self.of)

    def bar_class(self) -> type[_Silent]:
        """A class of progress bars that add to this count."""
        add = self.add

        class Bar(_Silent):
            def update(self, count: float | None = 1) -> None:
                add(count or 0)

        return Bar

    def add(self, count: float) -> None:
        self.done += count
        self.tell(self.what, min(self.of, int(self.done / 1e6)), self.of)

    def finish(self) -> None:
        self.tell(self.what, self.of, self.of)
