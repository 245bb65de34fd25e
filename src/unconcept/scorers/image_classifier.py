"""Judges by image classifiers of transformers: a user's own, such as UnlearnCanvas's, and recognisers of faces."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor

from ..core.errors import ModelError, SettingsError, require
from ..core.hashing import hash_json
from ..models.loading import find_device
from ..models.vision.image_classifier import (
    ImageClassifier,
    crop_boxes,
    load_image_classifier,
    load_object_detector,
)
from ..prompts.checks import Check
from .registry import NOTHING_LABEL, AnswerReader, RawScore, scorer

_HEADS = ("object", "style")
_FACE, _NO_FACE = "face", "no face"
_LEAST_FACE = 0.9  # probability from which the detector has found a face
_MARGIN = 0.2  # of a face's box that is added to its sides, as in MACE's recogniser
_LABEL_KEY = re.compile(r"_\[[^]]*\]$")  # MACE's labels end in a key, as in Orrin_Pell_[abc]


def plain_label(label: str) -> str:
    """A label as it is compared: without a key, underscores and capitals."""
    return " ".join(_LABEL_KEY.sub("", label).replace("_", " ").casefold().split())


def _head_of(check: Check) -> str:
    return "style" if check.by == "style" else "object"


def _require_known(labels: Iterable[str], checks: Sequence[Check], what: str) -> None:
    known = set(map(plain_label, labels))
    unknown = [one.concept for one in checks if known.isdisjoint(map(plain_label, one.labels))]
    message = f"{what} has no label {unknown[0] if unknown else ''!r}: give one that has learned it, or other prompts"
    require(not unknown, message, SettingsError)


def _read_label(opened: object, raw: RawScore, check: Check) -> str:
    """The check's own label if the network's top label is one, else that label."""
    said = raw["label"]
    return next((label for label in check.labels if plain_label(label) == plain_label(said)), str(said))


def _require_heads(opened: "ClassifierScore", checks: Sequence[Check]) -> None:
    for head in _HEADS:
        own = [check for check in checks if _head_of(check) == head]
        _require_known(opened.heads[head].labels, own, f"classifier {opened.name}, {head}")


@scorer(
    "classifier",
    reads="picture",
    reader=AnswerReader(
        _read_label,
        _head_of,
        policy="top label of the classifier of objects or of styles",
        wants_path="its folder with object/ and style/, image classifiers that transformers wrote, classifier=FOLDER",
        aspects=frozenset({"object", "style"}),
        require_checks=_require_heads,
    ),
)
class ClassifierScore:
    """Names object and style of an image with two image classifiers from a folder, such as UnlearnCanvas's.

    `path` holds `object/` and `style/`, folders that transformers wrote; their labels may have underscores.
    """

    version = 1

    def __init__(self, path: Path, device: str = "auto") -> None:
        path = Path(path)
        lacking = [head for head in _HEADS if not (path / head).is_dir()]
        message = (
            f"{path}: no folder {', '.join(lacking)}; give image classifiers that transformers wrote as {path.name}/"
        )
        require(not lacking, f"{message}{' and '.join(_HEADS)}", ModelError)
        self.heads = {head: load_image_classifier(path / head, find_device(device)) for head in _HEADS}
        self.name = f"classifier:{path.name}"
        self.hash = hash_json([self.heads[head].hash for head in _HEADS])

    def score(self, pictures: Tensor, asked: Sequence[str]) -> list[RawScore]:
        """Return `label` and `p`, the top label of each image of (b, 3, h, w) in [0, 1] and its probability; `asked[i]`
        is the classifier: object or style.
        """
        rows: list[RawScore] = [{} for _ in asked]
        for head in dict.fromkeys(asked):
            own = [i for i, one in enumerate(asked) if one == head]
            for i, row in zip(own, _top(self.heads[head], pictures[own]), strict=True):
                rows[i] = row
        return rows


def _top(network: ImageClassifier, pictures: Tensor) -> list[RawScore]:
    shares, columns = network.probabilities(pictures).max(1)
    return [
        {"label": network.labels[i], "p": round(p, 6)} for i, p in zip(columns.tolist(), shares.tolist(), strict=True)
    ]


def _read_face(opened: object, raw: RawScore, check: Check) -> str:
    return _read_label(opened, raw, check) if raw["label"] else NOTHING_LABEL


def _require_names(opened: "FaceScore", checks: Sequence[Check]) -> None:
    _require_known(opened.recogniser.labels, checks, f"face recogniser {opened.name}")


@scorer(
    "face-recogniser",
    reads="picture",
    reader=AnswerReader(
        _read_face,
        policy="top name of the surest face",
        wants_path="its folder with recogniser/ and detector/ that transformers wrote, face-recogniser=FOLDER",
        aspects=frozenset({"object"}),
        recognises_faces=True,
        require_checks=_require_names,
    ),
)
class FaceScore:
    """Names the person of an image with a face detector and a classifier of faces from a folder.

    `path` holds `recogniser/`, an image classifier whose labels are names, and `detector/`, an object detector with a
    label "face", both as transformers wrote them; without a detector the recogniser needs a label "no face".

    Differs: MACE takes the detector's first face; here it is the surest.
    """

    version = 1

    def __init__(self, path: Path, device: str = "auto") -> None:
        path = Path(path)
        at = find_device(device)
        self.recogniser = load_image_classifier(path / "recogniser", at)
        has_detector = (path / "detector").is_dir()
        self.detector = load_object_detector(path / "detector", at) if has_detector else None
        sees_none = any(plain_label(label) == _NO_FACE for label in self.recogniser.labels)
        require(
            sees_none or self.detector is not None,
            f'{path}: nothing tells a picture without a face; add detector/, or a recogniser with a label "{_NO_FACE}"',
            ModelError,
        )
        require(
            self.detector is None or _FACE in self.detector.labels,
            f'{path}/detector: it has no label "{_FACE}"; give a detector of faces',
            ModelError,
        )
        self.name = f"face-recogniser:{path.name}"
        self.hash = hash_json([self.recogniser.hash, self.detector and self.detector.hash])

    def score(self, pictures: Tensor, asked: Sequence[str]) -> list[RawScore]:
        """Return `label`, the name of the surest face of each image of (b, 3, h, w) in [0, 1], and its probability `p`;
        an empty `label` where no face is found. `asked` is not used.
        """
        if self.detector is None:
            rows = _top(self.recogniser, pictures)
            return [{**row, "label": ""} if plain_label(str(row["label"])) == _NO_FACE else row for row in rows]
        boxes = self.detector.first_boxes(pictures, _FACE, _LEAST_FACE)
        found: list[RawScore] = []
        for picture, box in zip(pictures.split(1), boxes, strict=True):
            row: RawScore = {"label": "", "p": 0.0}
            if box is not None:
                (row,) = _top(self.recogniser, crop_boxes(picture, [box], _MARGIN)[0])
            found.append(row)
        return found
