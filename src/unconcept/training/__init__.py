"""One loop for everything that is trained or searched, and what adversarial methods and attacks share."""

from .erasers import Erasers
from .loop import Descent, Loss, Optimizer, gradient, minimise
from .options import Options
from .regularisers import Regularisers, regularised
from .run import Plan, figures, train
from .session import Progress, Session, session
from .trained import LowRank, Trained, Weights

__all__ = [
    "Descent",
    "Erasers",
    "Loss",
    "LowRank",
    "Optimizer",
    "Options",
    "Plan",
    "Progress",
    "Regularisers",
    "Session",
    "Trained",
    "Weights",
    "figures",
    "gradient",
    "minimise",
    "regularised",
    "session",
    "train",
]
