"""A scorer that can be a judge."""

from collections.abc import Sequence

from torch import Tensor

from unconcept.prompts.checks import Check
from unconcept.scorers import NOTHING_LABEL, AnswerReader, RawScore, scorer


def shows_colour(opened: object, raw: RawScore, check: Check) -> str:
    """Anything but a plain picture counts as what was asked for."""
    return check.labels[0] if raw["spread"] > 0.01 else NOTHING_LABEL


@scorer("toy-spread", reads="picture", reader=AnswerReader(shows_colour, policy="spread over 0.01"))
class ToySpread:
    """How much a picture's values differ."""

    name, version, hash = "toy-spread", 1, "0" * 64

    def score(self, pictures: Tensor, asked: Sequence[str]) -> list[RawScore]:
        """Their standard deviation."""
        return [{"spread": round(float(picture.std()), 6)} for picture in pictures]
