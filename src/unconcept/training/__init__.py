"""One loop for everything that is trained or searched, and what adversarial methods and attacks share."""

from .loop import Descent, Loss, Optimizer, gradient, minimise
from .options import Options
from .regularisers import Regularisers, regularised
from .session import Progress, Session, session
from .trainables import Erasers, LowRank, Trained, Weights
from .trainer import Plan, figures, train

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
