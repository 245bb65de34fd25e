"""Timesteps spread evenly over a model's noise levels."""

from ..model_view import ModelView
from .schedulers import flow_timesteps


def even_timesteps(model: ModelView, count: int) -> list[float]:
    """Return evenly spaced timesteps, ascending from half a gap: 10, 30, .., 990 for 50 of 1000.

    A flow's are those at which its own scheduler makes so many steps.
    """
    if model.schedule.prediction_type == "flow":
        return [float(t) for t in flow_timesteps(model, count)]
    return [int((i + 0.5) * len(model.schedule.alpha) / count) for i in range(count)]
