"""Take concepts out of text-to-image diffusion models, prove that they are gone, and keep the proof.

Everything named here is imported when it is first used, so `import unconcept` is instant.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .core import Concept, Request, UnconceptError
    from .core.request import RequestSpec
    from .core.request import RequestSpec as Ask
    from .edits import Edit, LowRankEdit, TextMapEdit, load_edit
    from .jobs.erase import Job, erase
    from .models import ModelView, open_model

_HOMES = {
    "Ask": (".core.request", "RequestSpec"),  # its name in 0.1
    "Concept": (".core", "Concept"),
    "Edit": (".edits", "Edit"),
    "Job": (".jobs.erase", "Job"),
    "LowRankEdit": (".edits", "LowRankEdit"),
    "ModelView": (".models", "ModelView"),
    "Request": (".core", "Request"),
    "RequestSpec": (".core.request", "RequestSpec"),
    "TextMapEdit": (".edits", "TextMapEdit"),
    "UnconceptError": (".core", "UnconceptError"),
    "erase": (".jobs.erase", "erase"),
    "load_edit": (".edits", "load_edit"),
    "open_model": (".models", "open_model"),
}

__all__ = [
    "Ask",
    "Concept",
    "Edit",
    "Job",
    "LowRankEdit",
    "ModelView",
    "Request",
    "RequestSpec",
    "TextMapEdit",
    "UnconceptError",
    "erase",
    "load_edit",
    "open_model",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        module, own_name = _HOMES[name]
        return getattr(importlib.import_module(module, __name__), own_name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
