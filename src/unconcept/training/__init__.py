"""The one training loop of all methods and attacks, and what they share: goals, trajectories, token searches."""

from .loop import Descent, Optimizer, StepLoss, loss_gradient, minimise
from .options import TrainingOptions
from .regularisers import Regularisers, use_regularisers
from .session import TrainingProgress, TrainingSession, training_session
from .trainables import Trainable, TrainableErasers, TrainableGate, TrainableLowRank, TrainableWeights
from .trainer import TrainingPlan, loss_figures, train

__all__ = [
    "Descent",
    "Optimizer",
    "Regularisers",
    "StepLoss",
    "Trainable",
    "TrainableErasers",
    "TrainableGate",
    "TrainableLowRank",
    "TrainableWeights",
    "TrainingOptions",
    "TrainingPlan",
    "TrainingProgress",
    "TrainingSession",
    "loss_figures",
    "loss_gradient",
    "minimise",
    "train",
    "training_session",
    "use_regularisers",
]
