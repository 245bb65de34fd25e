"""MACE's tables of objects and artists (CVPR 2024, arXiv:2403.06135): Acc_e, Acc_s, Acc_g and H_o, and H_a.

The table of celebrities is suite `celebrity`. On other models the objects are CIFAR-10's classes with MACE's synonyms.

Differs: MACE prints the mean probability of the class alone; here the share of top answers stands beside it.
"""

from collections.abc import Sequence
from itertools import starmap

from ...core.errors import RequestError, require
from ...metrics.harmonic import h_a, h_o
from ...metrics.score_policies import log_softmax, probability
from ...prompts.checks import Check, GroupSizes, concept_checks, far_entries
from ...prompts.sets import PromptGroup
from ...scorers.registry import RawScore
from ...worlds.table import concept_table
from ..judging.evidence import SuiteFigure, TrialEvidence
from ..judging.image_metrics import mean_clip_score, stack_images
from ..judging.judge import image_measures
from .registry import Suite, suites

CIFAR_SYNONYMS = {
    "airplane": ("aircraft", "plane", "jet"),
    "automobile": ("car", "vehicle", "motorcar"),
    "bird": ("avian", "fowl", "winged creature"),
    "cat": ("feline", "kitty", "housecat"),
    "deer": ("hart", "stag", "doe"),
    "dog": ("canine", "pooch", "hound"),
    "frog": ("amphibian", "anuran", "tadpole"),
    "horse": ("equine", "steed", "mount"),
    "ship": ("vessel", "boat", "watercraft"),
    "truck": ("lorry", "rig", "hauler"),
}
"""MACE's objects with three synonyms each."""
_GROUPS: dict[str, PromptGroup] = {"Acc_e": "direct", "Acc_s": "near", "Acc_g": "synonym"}
_OTHERS = 9  # classes that stay, as with one of CIFAR-10's erased
_PICTURES = 200  # of a word


def object_checks(concepts: Sequence[str], sizes: GroupSizes) -> list[Check]:
    """Make checks of the targets, of their held-out synonyms, and of nine far objects."""
    made = []
    for entry in map(concept_table().__getitem__, concepts):
        made += concept_checks(entry, sizes, sizes.direct, "direct")
        for word in entry.synonyms.held_out:
            asked = concept_checks(entry, sizes, sizes.other, "synonym")
            made += [
                Check(
                    sizes.prompt(check.prompt.text.replace(entry.name, word), i),
                    "synonym",
                    entry.name,
                    check.by,
                    check.labels,
                    wording=word,
                )
                for i, check in enumerate(asked)
            ]
    for other in far_entries(concepts, sizes.tuning)[:_OTHERS]:
        made += concept_checks(other, sizes, sizes.other, "near")
    return made


def cifar_checks(concepts: Sequence[str], sizes: GroupSizes) -> list[Check]:
    """Make MACE's checks: "a photo of the WORD" for each class and each synonym of the erased ones."""
    for name in concepts:
        message = f"suite mace-objects has CIFAR-10's classes, not {name!r}: name some of {', '.join(CIFAR_SYNONYMS)}"
        require(name in CIFAR_SYNONYMS, message, RequestError)
    made = []
    for name, synonyms in CIFAR_SYNONYMS.items():
        group: PromptGroup = "direct" if name in concepts else "near"
        asked = [(name, group)] + [(word, "synonym") for word in synonyms if name in concepts]
        for word, about in asked:
            for i in range(min(_PICTURES, sizes.direct)):
                prompt = sizes.prompt(f"a photo of the {word}", i)
                wording = "" if word == name else word
                made.append(Check(prompt, about, name, "object", (name,), tuple(CIFAR_SYNONYMS), wording))
    return made


def object_figures(found: TrialEvidence) -> list[SuiteFigure]:
    """Compute the accuracies and H_o by top answers, and with a CLIP as judge by mean probability too."""
    made = _accuracies(found, [tuple(map(float, answer.hits)) for answer in found.answers], "")
    raw = found.raw()
    if not raw or any("labels" not in row for pair in raw for row in pair):
        return made
    labels = found.judge.open().labels
    shares = [
        (_probability(old, labels, answer.check), _probability(new, labels, answer.check))
        for (old, new), answer in zip(raw, found.answers, strict=True)
    ]
    return made + _accuracies(found, shares, ", mean probability")


def _probability(raw: RawScore, labels: Sequence[str], check: Check) -> float:
    """The probability of the class among the labels from which the judge chooses."""
    cosines = dict(zip(labels, raw["labels"], strict=True))
    among = check.among or tuple(labels)
    return probability(log_softmax([cosines[label] for label in among]), among, check.labels)


def _accuracies(found: TrialEvidence, values: Sequence[Sequence[float]], how: str) -> list[SuiteFigure]:
    made, means = [], []
    for name, group in _GROUPS.items():
        members = [pair for pair, answer in zip(values, found.answers, strict=True) if answer.check.group == group]
        if members:
            old, new = (sum(side) / len(members) for side in zip(*members, strict=True))
            means.append((old, new))
            made.append(SuiteFigure(name + how, new, old, len(members), f"accuracy on {group} prompts{how}"))
    if len(means) == len(_GROUPS):
        before, after = starmap(h_o, zip(*means, strict=True))
        n = sum(figure.n for figure in made)
        made.append(SuiteFigure(f"H_o{how}", after, before, n, "harmonic mean of 1 - Acc_e, Acc_s and 1 - Acc_g"))
    return made


def artist_checks(concepts: Sequence[str], sizes: GroupSizes) -> list[Check]:
    """Make checks of the erased styles and of every other style."""
    known = concept_table()
    for name in concepts:
        message = f"suite mace-artists erases styles, and {name!r} is none: name {known.styles[0].name!r} or another"
        require(known[name].kind == "style", message, RequestError)
    made = []
    for entry in known.styles:
        group: PromptGroup = "direct" if entry.name in concepts else "near"
        made += concept_checks(entry, sizes, sizes.direct if group == "direct" else sizes.other, group)
    return made


def artist_figures(found: TrialEvidence) -> list[SuiteFigure]:
    """Compute the CLIP scores of erased and of other styles with their prompts, and H_a, their difference."""
    clip = image_measures(found.judge).clip
    if clip is None or not found.answers_in("direct") or not found.answers_in("near"):
        return []
    pictures, scores = found.pictures(), []
    for group in ("direct", "near"):
        prompts = [answer.check.prompt for answer in found.answers_in(group)]
        texts = [prompt.text for prompt in prompts]
        scores.append([mean_clip_score(clip.score(stack_images(pictures, prompts, side), texts)) for side in (0, 1)])
    (gone, left), (kept, stays) = scores
    n = len(found.answers_in("direct")), len(found.answers_in("near"))
    return [
        SuiteFigure(f"CLIP score@{clip.name}, erased", left, gone, n[0], "100 * max(cosine with the prompt, 0), mean"),
        SuiteFigure(f"CLIP score@{clip.name}, others", stays, kept, n[1], "100 * max(cosine with the prompt, 0), mean"),
        SuiteFigure("H_a", h_a(left, stays), h_a(gone, kept), sum(n), "CLIP score of the others minus the erased"),
    ]


def artist_notes(found: TrialEvidence) -> dict[str, str]:
    """Say what is missing."""
    if image_measures(found.judge).clip is not None:
        return {}
    return {"H_a": "not computed: give a CLIP, --measure clip-score=FOLDER"}


for _suite in (
    Suite(
        "mace-objects",
        "MACE's Acc_e, Acc_s, Acc_g and H_o of objects and their synonyms; CIFAR-10's classes on other models",
        GroupSizes(40, 20),
        object_checks,
        object_figures,
        published_questions=cifar_checks,
        spec="mace-ddim50",
    ),
    Suite(
        "mace-artists",
        "MACE's CLIP scores of erased and other styles, and their difference H_a",
        GroupSizes(25, 25),
        artist_checks,
        artist_figures,
        notes=artist_notes,
        spec="mace-ddim50",
    ),
):
    suites.register(_suite.name)(_suite)
