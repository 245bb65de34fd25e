"""Plain data: concepts, requests, registries, settings, errors. Needs neither torch nor diffusers."""

from .concept import Concept, ConceptKind
from .errors import UnconceptError
from .request import Request
from .threads import pinned_threads

__all__ = ["Concept", "ConceptKind", "Request", "UnconceptError", "pinned_threads"]
