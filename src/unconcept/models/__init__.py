"""Diffusion models behind one interface, `ModelView`. Only this folder uses diffusers' class and module names."""

from .family import Family
from .loading import find_model, open_model
from .model_view import Conditioning, ModelView

__all__ = ["Conditioning", "Family", "ModelView", "find_model", "open_model"]
