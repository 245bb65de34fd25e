"""Classifier-free guidance while pictures are drawn: which rows of the denoiser's batch belong to one prompt."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..checkpoint.pipeline import Pipeline
from ..diffusion.callbacks import SamplingCallbacks, callbacks_on
from ..family import FamilySpec
from .forward import remove_on_exit
from .stock_loop import watch_stock_loop


class GuidanceSides:
    """Gives both sides of guidance what belongs to the prompt, while the sampler or a stock pipeline draws.

    The sampler says whether the first half of its batches is the negative prompts. Pipelines guide in one of two ways:
    so too, or by a second call at the same timestep (FLUX). Outside of a loop, every row keeps its own.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._is_drawing = False
        self._negatives: int | None = None  # rows of the sampler's batches; None: it is a pipeline that draws
        self._rows = 0  # of the loop's first call
        self._timestep: Tensor | None = None
        self._is_second_call = False
        self._of_prompts: Tensor | None = None

    def start(self, negatives: int | None = None) -> None:
        """Begin the sampler's loop, whose batches start with so many negative rows, or a pipeline's: None."""
        self._is_drawing, self._negatives = True, negatives
        self._rows, self._timestep, self._of_prompts = 0, None, None

    def stop(self) -> None:
        """End the loop."""
        self._is_drawing = False

    def note_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the timestep of a denoiser's call."""
        timestep = kwargs["timestep"] if "timestep" in kwargs else args[1]
        own = timestep.detach().flatten()[0] if isinstance(timestep, Tensor) else None
        before, self._timestep = self._timestep, own
        self._is_second_call = before is not None and own is not None and bool(before == own)

    def of_prompts(self, rows: Tensor) -> Tensor:
        """Return rows (b, ..) in which a negative side's are those of its prompts."""
        if not self._is_drawing:
            return rows
        self._rows, half = self._rows or len(rows), len(rows) // 2
        if self._negatives is not None:
            is_doubled = self._negatives > 0 and len(rows) == 2 * self._negatives
            return rows[half:].repeat(2, *[1] * (rows.ndim - 1)) if is_doubled else rows
        if getattr(self._pipeline, "do_classifier_free_guidance", False):
            # SD3's skip-layer call is of the prompts alone.
            return rows[half:].repeat(2, *[1] * (rows.ndim - 1)) if len(rows) == self._rows == 2 * half else rows
        if self._is_second_call and self._of_prompts is not None and len(self._of_prompts) == len(rows):
            return self._of_prompts
        self._of_prompts = rows
        return rows


@contextmanager
def watch_guidance(pipeline: Pipeline, denoiser: nn.Module, spec: FamilySpec) -> Iterator[GuidanceSides]:
    """Watch the loops of the sampler and of a stock pipeline inside the block."""
    sides = GuidanceSides(pipeline)
    with (
        remove_on_exit([denoiser.register_forward_pre_hook(sides.note_call, with_kwargs=True)]),
        callbacks_on(denoiser, SamplingCallbacks(start=sides.start, stop=sides.stop)),
        watch_stock_loop(pipeline, denoiser, spec),
    ):
        yield sides
