"""How fast a model learns a concept from a few pictures: shares of pictures that show it after 1, 2, 4 ... steps."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from ...models import ModelView
from ...models.diffusion.vae import encode_images
from ...training.images.picture_tuning import PictureTuning


def relearning_curve(
    model: ModelView,
    applied: Callable[[], AbstractContextManager[None]],
    pictures: tuple[Sequence[str], Tensor],
    tuning: PictureTuning,
    shown: Callable[[ModelView], float],
    stops: Sequence[int],
) -> dict[int, float]:
    """Tune on captions and pictures (n, 3, h, w) in [0, 1], and judge after no and after each of the rising `stops`.

    `applied` enters the edit, on top of which the model is tuned and judged; `shown` draws other prompts with the model
    as it then computes, and returns the share that shows the concept. Ends at the first stop where all do.
    """
    captions, images = pictures
    with torch.no_grad():
        latents = encode_images(model, images)
    with applied():
        curve = {0: shown(model)}
    for steps, change, _ in tuning.run(model, captions, latents, stops, applied):
        with applied(), change.applied(model):
            curve[steps] = shown(model)
        if curve[steps] >= 1:
            break
    return curve


def steps_until(curve: Mapping[int, float], share: float) -> int | None:
    """Return the first number of steps after which at least this share is shown; None if it never is."""
    return next((steps for steps in sorted(curve) if curve[steps] >= share), None)
