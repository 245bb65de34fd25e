"""Writes the page of protected pictures: each before and after, what was changed, and how hard it became to learn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from .images import data_uri
from .page_templates import html_templates

DIFFERENCE_GAIN = 4  # by which a change is enlarged to be seen; grey is none
PROTECTION_LIMITS = (
    "This delays learning, it does not prevent it: whoever trains longer, cleans the pictures first or learns with"
    " another model gets more of what they show.",
    "Later attacks work on pictures that are already published: a protected copy cannot be taken back or improved once"
    " others have it.",
    "The originals must not be published beside the protected copies: who has both has no need of these.",
)


@dataclass(frozen=True)
class ProtectedPicture:
    """A picture (3, h, w) before and after, and its figures."""

    name: str
    before: Tensor
    after: Tensor
    distance: float
    psnr: float | None
    """In dB; None if nothing changed."""
    loss_before: float
    """The model's loss on the picture, on draws that the protection did not use."""
    loss_after: float

    def data(self) -> dict[str, Any]:
        """Its figures as plain data."""
        figures = {"distance": self.distance, "psnr": self.psnr}
        return {"name": self.name, **figures, "loss_before": self.loss_before, "loss_after": self.loss_after}


@dataclass(frozen=True)
class ProtectionPage:
    """The content of the page."""

    method: str
    role: str
    model: str
    distance: str
    most: float
    least_psnr: float
    pictures: Sequence[ProtectedPicture]
    notes: Sequence[str]
    run: Mapping[str, Any]
    proof: Mapping[str, Any] | None = None
    """What learners made of the pictures, if that was measured."""


def write_protection_page(page: ProtectionPage, path: Path) -> None:
    """Write the HTML page as one file that needs no other."""
    template = html_templates("unconcept.report").get_template("protection.html")
    cells = [_cell(one) for one in page.pictures]
    context = {"page": page, "cells": cells, "gain": DIFFERENCE_GAIN, "limits": PROTECTION_LIMITS}
    path.write_text(template.render(context), encoding="utf-8")


def _cell(one: ProtectedPicture) -> dict[str, Any]:
    change = 0.5 + DIFFERENCE_GAIN * (one.after - one.before) / 2
    sides = [("before", one.before), ("protected", one.after), ("change", change)]
    return {"figures": one, "sides": [{"name": name, "uri": data_uri(picture)} for name, picture in sides]}
