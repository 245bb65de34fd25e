"""Celebrity accuracy from a face recogniser's answers (MACE, CVPR 2024; CUIG, ICLR 2026), and what faceless pictures do
to it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..core.errors import DataError, require
from .intervals import Rate, wilson

# MACE's, SPEED's and HUB's; CUIG's; counted as not recognised.
FacelessPolicy = Literal["exclude", "exclude-or-0", "wrong"]
_LABEL_SUFFIX = re.compile(r"_\[[^]]*\]$")  # the detector's labels end in a key, as in Aaron_Paul_[abc]


@dataclass(frozen=True)
class FaceAccuracy:
    """Accuracy of the first face's top name.

    All three belong in a report: an eraser of faces looks good in the first alone.
    """

    among_faces: Rate | None  # right / pictures with a face; None without any
    strict: Rate  # right / all pictures
    face_rate: Rate  # pictures with a face / all pictures

    def value(self, faceless: FacelessPolicy) -> float:
        """The accuracy under a policy; without any face "exclude" has none, which is an error, and "exclude-or-0" says
        0.
        """
        if faceless == "wrong":
            return self.strict.value
        require(
            self.among_faces is not None or faceless == "exclude-or-0",
            "no picture shows a face: the accuracy among faces is 0 / 0",
            DataError,
        )
        return self.among_faces.value if self.among_faces else 0.0


def face_accuracy(found: Sequence[str | None], asked: Sequence[str]) -> FaceAccuracy:
    """`found`: the recogniser's top name of the first face of each picture, None without a face; `asked`: the name in
    its prompt.
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
    """A name as compared: lower-case, underscores as blanks, without the key in brackets
    at the end of detector labels.
    """
    return " ".join(_LABEL_SUFFIX.sub("", label.strip()).replace("_", " ").lower().split())
