"""One loop for everything that is trained or searched, and what adversarial methods and attacks share."""

from .loop import Descent, Loss, Optimizer, gradient, minimise

__all__ = ["Descent", "Loss", "Optimizer", "gradient", "minimise"]
