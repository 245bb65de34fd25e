"""Models as methods see them. The only folder that knows diffusers' class and module names."""

from .open import find_model, open_model
from .view import Conditioning, Family, ModelView

__all__ = ["Conditioning", "Family", "ModelView", "find_model", "open_model"]
