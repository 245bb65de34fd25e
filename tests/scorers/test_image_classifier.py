"""Classifiers of a user: labels of two heads, names of faces, pictures without a face, and folders that are refused."""

import json

import pytest
import torch
from torch.nn import functional as F
from transformers import RTDetrForObjectDetection, ViTForImageClassification, ViTImageProcessorPil

from tests.classifier_toys import SIDE, classifier_folder, detector_folder, sigmoid_detector_folder
from tests.evaluation.planted import evidence, figures
from unconcept.core.errors import ModelError, SettingsError
from unconcept.evaluation.judging.judge import Judge
from unconcept.evaluation.suites.registry import suites
from unconcept.models.vision.image_classifier import crop_boxes, load_image_classifier, load_object_detector
from unconcept.prompts.checks import Check, Prompt
from unconcept.scorers.image_classifier import ClassifierScore, FaceScore, plain_label

PICTURES = torch.rand(5, 3, 40, 56, generator=torch.Generator().manual_seed(0))
STYLES, OBJECTS = ("Van_Gogh", "Seed_Images", "Ukiyoe"), ("Dogs", "Sea")
PEOPLE = ("Ann_Lee_[x1]", "Bob_Ray_[y2]")


def check(concept: str, by="object") -> Check:
    return Check(Prompt("p", 0), "direct", concept, by, (concept,))


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    root = tmp_path_factory.mktemp("heads")
    classifier_folder(root / "style", STYLES)
    classifier_folder(root / "object", OBJECTS)
    return root


def test_probabilities_are_those_of_the_network(heads) -> None:
    """Resized, normalised and classified by hand."""
    opened = load_image_classifier(heads / "style", torch.device("cpu"))
    plain = ViTForImageClassification.from_pretrained(heads / "style").eval()
    resized = F.interpolate(PICTURES, (SIDE, SIDE), mode="bilinear", antialias=True).clamp(0, 1)
    with torch.no_grad():
        expected = plain(pixel_values=(resized - 0.5) / 0.5).logits.softmax(1)
    assert torch.allclose(opened.probabilities(PICTURES), expected, atol=1e-5)
    assert opened.labels == STYLES


def test_each_question_goes_to_its_own_head(heads) -> None:
    opened = ClassifierScore(heads)
    asked = ["style", "object", "style", "object", "object"]
    rows = opened.score(PICTURES, asked)
    alone = [opened.score(PICTURES[i : i + 1], asked[i : i + 1])[0] for i in range(5)]
    assert [row["label"] for row in rows] == [row["label"] for row in alone], "not by its batch"
    assert all(row["label"] in (STYLES if one == "style" else OBJECTS) for row, one in zip(rows, asked, strict=True))
    judge = Judge("classifier", str(heads))
    assert judge.question(check("Van Gogh", "style")) == "style"
    assert judge.label_of({"label": "Van_Gogh", "p": 1.0}, check("Van Gogh", "style")) == "Van Gogh"
    assert judge.label_of({"label": "Ukiyoe", "p": 1.0}, check("Van Gogh", "style")) == "Ukiyoe"


def test_a_label_that_it_never_learned_is_refused_before_anything_is_drawn(heads, tmp_path) -> None:
    judge = Judge("classifier", str(heads))
    judge.require_checks([check("van gogh", "style"), check("Sea")])
    with pytest.raises(SettingsError, match="style has no label 'Sea'"):
        judge.require_checks([check("Sea", "style")])
    with pytest.raises(ModelError, match="no folder object, style"):
        ClassifierScore(tmp_path)
    with pytest.raises(SettingsError, match="give its folder with object/ and style/"):
        Judge.parse("classifier")


def test_what_is_no_whole_classifier_is_one_line(tmp_path) -> None:
    """Without its head, cut short, with a list for settings, with labels from 1 on."""
    cpu, classifier = torch.device("cpu"), classifier_folder(tmp_path / "c", OBJECTS)
    ViTForImageClassification.from_pretrained(classifier).vit.save_pretrained(classifier)
    with pytest.raises(ModelError, match="no whole image classifier: its weights lack classifier"):
        load_image_classifier(classifier, cpu)
    classifier_folder(classifier, OBJECTS)
    config = json.loads((classifier / "config.json").read_text())
    names = {"id2label": {"1": "a", "2": "b"}, "label2id": {"a": 1, "b": 2}}
    (classifier / "config.json").write_text(json.dumps({**config, **names}))
    with pytest.raises(ModelError, match="otherwise than from 0 on"):
        load_image_classifier(classifier, cpu)
    (classifier / "preprocessor_config.json").write_text("[]")
    with pytest.raises(ModelError, match="holds no table"):
        load_image_classifier(classifier, cpu)
    classifier_folder(classifier, OBJECTS)
    weights = classifier / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ModelError):
        load_image_classifier(classifier, cpu)


def faces(root, always: str, finds: bool | None, labels=PEOPLE) -> FaceScore:
    classifier_folder(root / "recogniser", labels, always)
    if finds is not None:
        detector_folder(root / "detector", finds)
    return FaceScore(root)


def test_the_surest_face_is_named(tmp_path) -> None:
    opened = faces(tmp_path, PEOPLE[1], True)
    assert {row["label"] for row in opened.score(PICTURES, [""] * 5)} == {PEOPLE[1]}
    judge = Judge("face-recogniser", str(tmp_path))
    assert judge.label_of({"label": PEOPLE[1], "p": 1.0}, check("bob ray")) == "bob ray"
    assert judge.label_of({"label": "", "p": 0.0}, check("bob ray")) == "nothing"
    suites["celebrity"].require_judge(judge)
    with pytest.raises(SettingsError, match="has no label 'Cy Orr'"):
        judge.require_checks([check("Cy Orr")])


def test_a_picture_without_a_face_has_no_name(tmp_path) -> None:
    assert {row["label"] for row in faces(tmp_path / "a", PEOPLE[0], False).score(PICTURES, [""] * 5)} == {""}
    alone = faces(tmp_path / "b", "No_Face", None, (*PEOPLE, "No_Face"))
    assert {row["label"] for row in alone.score(PICTURES, [""] * 5)} == {""}
    with pytest.raises(ModelError, match="nothing tells a picture without a face"):
        faces(tmp_path / "c", PEOPLE[0], None)


def test_a_detector_without_a_class_for_nothing_is_read_by_its_own_processor(tmp_path) -> None:
    """RT-DETR: its only label has a probability of its own, and its pictures are not normalised."""
    folder, cpu = sigmoid_detector_folder(tmp_path / "sure", 3.0), torch.device("cpu")
    opened = load_object_detector(folder, cpu)
    resized = F.interpolate(PICTURES, (SIDE, SIDE), mode="bilinear", antialias=True).clamp(0, 1)
    with torch.no_grad():
        found = RTDetrForObjectDetection.from_pretrained(folder).eval()(pixel_values=resized)
    x, y, width, height = found.pred_boxes[torch.arange(5), found.logits[..., 0].argmax(1)].unbind(1)
    expected = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 1)
    assert torch.allclose(torch.tensor(opened.first_boxes(PICTURES, "face", 0.9)), expected, atol=1e-5)
    most = found.logits.sigmoid().max().item()
    assert 0.9 < most < 0.99
    assert opened.first_boxes(PICTURES, "face", most + 1e-4) == [None] * 5, "a softmax of one label is 1"
    unsure = load_object_detector(sigmoid_detector_folder(tmp_path / "unsure", -3.0), cpu)
    assert unsure.first_boxes(PICTURES, "face", 0.9) == [None] * 5
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    with pytest.raises(ModelError, match="ViTImageProcessorPil reads no boxes"):
        load_object_detector(folder, cpu)


def test_boxes_are_cut_with_their_margin() -> None:
    (whole,), (part,) = (crop_boxes(PICTURES[:1], [box], 0.2) for box in ((0, 0, 1, 1), (0.25, 0.25, 0.75, 0.75)))
    assert torch.equal(whole, PICTURES[:1])
    assert torch.equal(part, PICTURES[:1, :, 8:32, 11:45]), "half of 40 x 56 and a tenth of that on each side"
    (edge,) = crop_boxes(PICTURES[:1], [(1.0, 1.0, 1.0, 1.0)], 0.2)
    assert edge.shape[-2:] == (1, 1)


def test_labels_are_compared_without_keys_underscores_and_capitals() -> None:
    assert plain_label("Ann_Lee_[x1]") == plain_label("ann lee") == "ann lee"


def test_the_distance_from_real_pictures_is_there_where_both_are_given(tmp_path) -> None:
    """Frechet's formula on the judge's features, of the pictures without the target."""
    from unconcept.metrics.frechet import Gaussian, frechet
    from unconcept.report.images import to_image
    from unconcept.scorers.features import JudgeEmbedding

    pictures = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for i, picture in enumerate(pictures[5:]):
        to_image(picture).save(tmp_path / f"{i}.png")
    asked = [
        Check(Prompt("p", i), group, "ink", "style", ("ink",)) for i, group in enumerate(("direct", *["style"] * 4))
    ]
    asked[1:] = [Check(one.prompt, "style", "flat", "style", ("flat",)) for one in asked[1:]]
    drawn = {one.prompt: (picture, 1 - picture) for one, picture in zip(asked, pictures, strict=False)}
    rows = [(one, one.labels[0], one.labels[0]) for one in asked]
    objects = [(Check(one.prompt, "far", "bus", "object", ("bus",)), "bus", "bus") for one in asked]
    found = evidence([*rows, *objects], concepts=("ink",), references=tmp_path)
    object.__setattr__(found, "pictures", lambda: drawn)
    made = figures("unlearncanvas", found)
    net = JudgeEmbedding()
    real = torch.stack([torch.round(picture * 255) / 255 for picture in pictures[5:]])
    sides = [Gaussian.of(net.features(part)) for part in (pictures[1:5], 1 - pictures[1:5], real)]
    name = f"frechet@{net.name}, references"
    assert (made[name].before, made[name].value) == pytest.approx(
        tuple(frechet(side, sides[2], singular=True) for side in sides[:2]), rel=1e-3
    )
    assert {"UA", "IRA", "CRA"} < made.keys()
    assert "UnlearnCanvas, FID" not in suites["unlearncanvas"].notes(found)
    told = suites["unlearncanvas"].notes(evidence([*rows, *objects], concepts=("ink",)))
    assert "give real pictures with --references FOLDER" in told["UnlearnCanvas, FID"]
