"""Take concepts out of text-to-image diffusion models, prove that they are gone, and keep the proof.

Everything named here is imported when it is first used, so `import unconcept` is instant.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .core import Concept, Request, UnconceptError
    from .core.request import Ask
    from .edits import Edit, LowRankEdit, TextMapEdit, load_edit
    from .jobs.erase import Job, erase
    from .models import ModelView, open_model

_HOMES = {
    "Ask": ".core.request",
    "Concept": ".core",
    "Edit": ".edits",
    "Job": ".evaluation.erasure",
    "LowRankEdit": ".edits",
    "ModelView": ".models",
    "Request": ".core",
    "TextMapEdit": ".edits",
    "UnconceptError": ".core",
    "erase": ".evaluation.erasure",
    "load_edit": ".edits",
    "open_model": ".models",
}

__all__ = [
    "Ask",
    "Concept",
    "Edit",
    "Job",
    "LowRankEdit",
    "ModelView",
    "Request",
    "TextMapEdit",
    "UnconceptError",
    "erase",
    "load_edit",
    "open_model",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
