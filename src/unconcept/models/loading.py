"""Opens models: turns the values of `--model`, `--device` and `--dtype` into a `ModelView`."""

from pathlib import Path
from weakref import WeakValueDictionary

import torch

from ..core.errors import DeviceError, ModelError, require
from ..core.regular_files import require_own_files, require_regular_file
from ..worlds import folder
from ..worlds.registry import DEFAULT_MODEL, embedded_world, outdated_note, split_config, with_config, worlds
from .checkpoint.config import config_folder, family_of_folder, name_configs
from .checkpoint.hub import hub_network, hub_pipeline, is_hub_id
from .checkpoint.locations import has_part
from .checkpoint.pipeline import Pipeline
from .checkpoint.published import published_title
from .checkpoint.quantised import GGUF_SUFFIX, build_quantised, quantised_parts
from .checkpoint.safetensors_io import GGUF_REMEDY, PICKLE_REMEDY, PICKLE_SUFFIXES
from .families import PIPELINES
from .model_view import ModelView
from .pipeline_checks import fixed_state, require_known_class, require_plain
from .precision import dtype_policy
from .views import view_class, view_of_pipeline
from .views.pipeline_view import PipelineView

LOADING = __name__  # the module that imports all code for models in this folder
_PipelineParts = tuple[tuple[str, int, torch.dtype | None, int | None], ...]
_open_pipelines: WeakValueDictionary[int, PipelineView] = WeakValueDictionary()  # by the pipeline's id
_opened_parts: dict[int, _PipelineParts] = {}  # by the pipeline's id, as they were when it was opened


def find_model(source: str, may_be_fixed: bool = False) -> Path:
    """Find a model's files: an embedded model, a diffusers folder or single file, or a Hub id, which may be fetched.

    `ModelError` for pipes, devices and links that leave the model's folder, and for GGUF files unless weights
    `may_be_fixed`.
    """
    name, config = split_config(source)
    files = _located(name, may_be_fixed)
    require_regular_file(files, ModelError)
    if config:
        name_configs(files, config)
    require_own_files(config_folder(files), ModelError)
    return files


def _located(source: str, may_be_fixed: bool) -> Path:
    world = embedded_world(source)
    if world is not None:
        return folder(world.name)
    path = Path(source).expanduser()
    if not path.exists() and is_hub_id(source):
        return hub_pipeline(source)
    outdated = outdated_note(source) if "@" in source else ""
    require(not outdated, f"model {source!r}: {outdated}", ModelError)
    known = ", ".join(map(repr, worlds))
    message = (
        f"model {source!r} is neither {known} nor an existing path; give a diffusers folder, a .safetensors file or"
        " a Hub id"
    )
    require(path.exists(), message, ModelError)
    require(path.suffix not in PICKLE_SUFFIXES, f"model {source}: {PICKLE_REMEDY}", ModelError)
    require(path.suffix != GGUF_SUFFIX or may_be_fixed, f"model {source}: {GGUF_REMEDY}", ModelError)
    if path.suffix == GGUF_SUFFIX and path.is_file():
        return path
    if path.is_file():
        message = f"model {source} is a file, but no .safetensors: rename it if it is one, or give a diffusers folder"
        require(path.suffix == ".safetensors", message, ModelError)
        return path
    require(
        path.is_dir() and (path / "model_index.json").exists(),
        f"model {source or repr(source)} is not a diffusers folder, because it has no model_index.json: give one that"
        " save_pretrained wrote",
        ModelError,
    )
    return path


def find_network(source: str) -> Path:
    """Find the folder of a single network, such as a CLIP: a path as it is, or a Hub id, which may be fetched."""
    path = Path(source).expanduser()
    require_regular_file(path, ModelError)
    return hub_network(source) if not path.exists() and is_hub_id(source) else path


def require_network(source: str, whose: str) -> None:
    """Raise `ModelError` if a path is not there, before anything is opened. A Hub id may still be fetched."""
    message = f"{whose}: {source} does not exist: give a folder or file that does, or a Hub id, OWNER/NAME"
    require(Path(source).expanduser().exists() or is_hub_id(source), message, ModelError)


def recognised_title(source: str) -> str | None:
    """What a single file was recognised as; None for any model that comes with its own configs."""
    name, config = split_config(source)
    if config or not name.endswith(".safetensors"):
        return None
    files = find_model(name)
    title = published_title(config_folder(files))
    if title is None:
        return None
    absent = [encoder.comfyui for encoder in family_of_folder(files).encoders if not has_part(files, encoder.part)]
    return f"{title} without {absent[0]}" if absent else title


def absolute_source(model: str) -> str:
    """A model as records name it: paths are absolute, names of embedded models have their version."""
    name, config = split_config(model)
    path, world = Path(name).expanduser(), embedded_world(name)
    if world is not None:
        return world.dated_name
    if not path.exists():
        return model
    return with_config(str(path.resolve()), config.resolve() if config else None)


def find_device(name: str = "auto") -> torch.device:
    """Find a device by name; "auto" prefers CUDA, then MPS, then the CPU. `DeviceError` if it does not exist."""
    require(isinstance(name, str), f"device {name!r}: give its name, such as 'cpu' or 'cuda:0'", DeviceError)
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if there[kind]))
    kind, _, index = name.partition(":")
    known = ", ".join(["auto", *(k for k, present in there.items() if present)])
    usable = there.get(kind, False) and (
        not index or (kind == "cuda" and index.isdigit() and int(index) < torch.cuda.device_count())
    )
    require(usable, f"device {name!r} does not exist on this machine: choose one of {known}", DeviceError)
    return torch.device(name)


def open_model(
    source: str | Path | Pipeline = DEFAULT_MODEL,
    device: str = "auto",
    dtype: str = "auto",
    config: str | Path | None = None,
    may_be_fixed: bool = False,
) -> ModelView:
    """Open an embedded model, a diffusers folder, a .safetensors file, a Hub id, or a diffusers pipeline in memory.

    Files are not loaded: tensors are read when they are needed. A pipeline is used as it is, on its own device and in
    its own dtype. A file needs no configs if it has the shape of SD 1.x, 2.x, SDXL, SD 3 or 3.5; `config` names others.
    What `may_be_fixed` may also be quantised or offloaded: edits that change no weight can be applied to it. Its
    quantised files are loaded by diffusers, with the libraries of their format.
    `ModelError` if the family is not supported.
    """
    if not isinstance(source, str | Path):
        return _open_pipeline(source, may_be_fixed)
    name = with_config(str(source), config)
    where, files = find_device(device), find_model(name, may_be_fixed)
    spec = family_of_folder(files)
    if may_be_fixed and quantised_parts(files):
        computing = dtype_policy(dtype, where).drawing
        return view_of_pipeline(build_quantised(files, computing, where), name, may_be_fixed)
    return view_class(spec).from_files(spec, files, name, where, dtype_policy(dtype, where))


def _open_pipeline(pipeline: Pipeline, may_be_fixed: bool = False) -> ModelView:
    """The view of a pipeline. It stays the same while it is in use, because it knows which edits are applied.

    Other parts, dtypes or tokens need another view: what was opened before knows nothing of a token loaded since.
    """
    require_known_class(pipeline, PIPELINES)
    known, parts = _open_pipelines.get(id(pipeline)), _parts_of(pipeline)
    fixed = fixed_state(pipeline) if may_be_fixed else ""
    device = pipeline._execution_device if fixed else pipeline.device
    same = known is not None and (known.device, known.fixed) == (device, fixed)
    if known is not None and same and _opened_parts.get(id(pipeline)) == parts:
        require_plain(pipeline, may_be_compiled=True, may_be_fixed=may_be_fixed)
        return known
    message = (
        "the pipeline's parts, tokens, dtype or device changed while an edit is applied to it: remove the edit first"
    )
    require(known is None or not known.original_weights, message, ModelError)
    name = str(getattr(pipeline.config, "_name_or_path", None) or "pipeline")
    view = _open_pipelines[id(pipeline)] = view_of_pipeline(pipeline, name, may_be_fixed)
    _opened_parts[id(pipeline)] = parts
    return view


def _parts_of(pipeline: Pipeline) -> _PipelineParts:
    """The parts of a pipeline with their dtypes, and the number of tokens that each tokenizer knows."""
    found = []
    for name, part in pipeline.components.items():
        plain = getattr(part, "_orig_mod", part)  # torch.compile wraps a network.
        words = getattr(plain, "tokenizer", plain)  # of a processor
        tokens = len(words) if name.startswith("tokenizer") and words is not None else None
        found.append((name, id(plain), getattr(plain, "dtype", None), tokens))
    return tuple(found)
