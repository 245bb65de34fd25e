"""Celebrity accuracy from a face recogniser's answers (MACE, CVPR 2024; CUIG, ICLR 2026).

The policies differ in how they count pictures without a face.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..core.errors import DataError, require
from .intervals import Rate, wilson

# As in MACE, SPEED and HUB; as in CUIG; counted as not recognised.
FacelessPolicy = Literal["exclude", "exclude-or-0", "wrong"]
_LABEL_SUFFIX = re.compile(r"_\[[^]]*\]$")  # the detector's labels end in a key, as in Orrin_Pell_[abc]


@dataclass(frozen=True)
class FaceAccuracy:
    """Accuracy of the top name of each picture's first face.

    A report needs all three rates: a method that erases faces altogether looks good in the first one.
    """

    among_faces: Rate | None  # right / pictures with a face; None without any
    strict: Rate  # right / all pictures
    face_rate: Rate  # pictures with a face / all pictures

    def value(self, faceless: FacelessPolicy) -> float:
        """The accuracy under a policy. If no picture shows a face, "exclude" is an error and "exclude-or-0" gives 0."""
        if faceless == "wrong":
            return self.strict.value
        require(
            self.among_faces is not None or faceless == "exclude-or-0",
            "no picture shows a face, so the accuracy among faces is 0 / 0: use the policy exclude-or-0 or wrong",
            DataError,
        )
        return self.among_faces.value if self.among_faces else 0.0


def face_accuracy(found: Sequence[str | None], asked: Sequence[str]) -> FaceAccuracy:
    """Compare the recogniser's names with the prompts' names.

    `found` is its top name for the first face of each picture, None without a face; `asked` is the name in the prompt.
    """
    require(
        len(found) == len(asked) and len(asked) > 0,
        f"{len(found)} answers for {len(asked)} pictures: give one each, None without a face",
        DataError,
    )
    right = sum(
        name is not None and normalised_face_name(name) == normalised_face_name(wanted)
        for name, wanted in zip(found, asked, strict=True)
    )
    faces = sum(name is not None for name in found)
    return FaceAccuracy(wilson(right, faces) if faces else None, wilson(right, len(asked)), wilson(faces, len(asked)))


def normalised_face_name(label: str) -> str:
    """A name as it is compared: in lower case, with blanks for underscores, without the bracketed key of a label."""
    return " ".join(_LABEL_SUFFIX.sub("", label.strip()).replace("_", " ").lower().split())
