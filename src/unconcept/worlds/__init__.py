"""The embedded models, one folder each. They share one table of concepts, one form of captions and one judge."""

from .assembly import folder

__all__ = ["folder"]
