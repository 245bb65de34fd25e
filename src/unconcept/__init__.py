"""Take concepts out of text-to-image diffusion models, prove that they are gone, and keep the proof.

Everything named here is imported when it is first used, so `import unconcept` is instant. Methods are here by the names
of their classes: `from unconcept import UCE`.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .core import Concept, Request, UnconceptError
    from .core.request import RequestSpec
    from .core.request import RequestSpec as Ask
    from .edits import Edit, EditHandle, LowRankEdit, TextMapEdit, load_edit
    from .jobs.erase_job import Job
    from .jobs.keywords import attack_edits as attack
    from .jobs.keywords import bench_methods as bench
    from .jobs.keywords import erase_concepts as erase
    from .jobs.keywords import evaluate_edits as evaluate
    from .jobs.keywords import protect_pictures as protect
    from .jobs.keywords import recheck_edit as recheck
    from .jobs.keywords import worst_case_sets as worst_case
    from .models import ModelView, open_model

_HOMES = {
    "Ask": (".core.request", "RequestSpec"),  # its name in 0.1
    "Concept": (".core", "Concept"),
    "Edit": (".edits", "Edit"),
    "EditHandle": (".edits", "EditHandle"),
    "Job": (".jobs.erase", "Job"),
    "LowRankEdit": (".edits", "LowRankEdit"),
    "ModelView": (".models", "ModelView"),
    "Request": (".core", "Request"),
    "RequestSpec": (".core.request", "RequestSpec"),
    "TextMapEdit": (".edits", "TextMapEdit"),
    "UnconceptError": (".core", "UnconceptError"),
    "attack": (".jobs.keywords", "attack_edits"),
    "bench": (".jobs.keywords", "bench_methods"),
    "erase": (".jobs.keywords", "erase_concepts"),
    "evaluate": (".jobs.keywords", "evaluate_edits"),
    "load_edit": (".edits", "load_edit"),
    "open_model": (".models", "open_model"),
    "protect": (".jobs.keywords", "protect_pictures"),
    "recheck": (".jobs.keywords", "recheck_edit"),
    "worst_case": (".jobs.keywords", "worst_case_sets"),
}

__all__ = [
    "Ask",
    "Concept",
    "Edit",
    "EditHandle",
    "Job",
    "LowRankEdit",
    "ModelView",
    "Request",
    "RequestSpec",
    "TextMapEdit",
    "UnconceptError",
    "attack",
    "bench",
    "erase",
    "evaluate",
    "load_edit",
    "open_model",
    "protect",
    "recheck",
    "worst_case",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        module, own_name = _HOMES[name]
        return getattr(importlib.import_module(module, __name__), own_name)
    if name[:1].isupper():
        kind = getattr(importlib.import_module(".methods", __name__), name, None)
        if isinstance(kind, type) and hasattr(kind, "erase"):
            return kind
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
