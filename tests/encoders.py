"""A second network for oracles that train text encoders."""

import copy

from unconcept.models import ModelView
from unconcept.models.text.parameters import encoder_parameters


def with_own_encoders(view: ModelView) -> ModelView:
    """The same model with copies of its text encoders, so that a trainer by hand may write to them."""
    student = copy.copy(view)
    student.checkpoint = copy.copy(view.checkpoint)
    student.checkpoint.pipeline = copy.copy(view.pipeline)
    for part in encoder_parameters(view):
        setattr(student.checkpoint.pipeline, part, copy.deepcopy(getattr(view.pipeline, part)))
    return student
