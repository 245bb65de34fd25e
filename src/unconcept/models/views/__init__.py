"""Implementations of `ModelView` for pipelines and checkpoint files. Each family names its own."""

import importlib

from ..checkpoint.pipeline import Pipeline
from ..family import FamilySpec
from .pipeline_view import PipelineView, pipeline_family


def view_class(spec: FamilySpec) -> type[PipelineView]:
    """The view class of a family."""
    module, _, name = spec.view.partition(":")
    kind: type[PipelineView] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    return kind


def view_of_pipeline(pipeline: Pipeline, name: str = "pipeline", may_be_fixed: bool = False) -> PipelineView:
    """Make a view of a loaded pipeline, which is used as it is, not copied; see `from_pipeline`."""
    return view_class(pipeline_family(pipeline)).from_pipeline(pipeline, name, may_be_fixed)
