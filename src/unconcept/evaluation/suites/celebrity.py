"""MACE's celebrity protocol (CVPR 2024, arXiv:2403.06135): Acc_e, Acc_s and Acc_g by a face recogniser, H_c and H_o.

On `moji` professions' faces stand in for celebrities', and its judge for the recogniser. On other models the names come
from a prompt file, and the judge must be a recogniser of faces.

Differs: MACE leaves pictures without a face out. A method that draws no faces any more looks good then, so each
accuracy also stands with such pictures counted as not recognised, beside the share of pictures with a face.
"""

from collections.abc import Sequence

from ...core.errors import SettingsError, require
from ...metrics.faces import FaceAccuracy, face_accuracy
from ...metrics.harmonic import h_c, h_o, harmonic_rate
from ...metrics.intervals import ClusteredSample, Rate
from ...prompts.checks import Check, GroupSizes
from ...prompts.sets import PromptGroup
from ...scorers import NOTHING_LABEL
from ...worlds.scenes import object_caption
from ...worlds.table import ConceptEntry, concept_table
from ..judging.evidence import SuiteFigure, TrialEvidence
from ..judging.judge import Judge
from ..judging.rates import PairedAnswer
from .registry import Suite, suites

_TEMPLATES = 5  # wordings of a caption, as in MACE
_RECOGNISED = 0.9  # accuracy on the unedited model from which a name may be judged
_GROUPS: dict[str, tuple[PromptGroup, str]] = {
    "Acc_e": ("direct", "erased"),
    "Acc_s": ("near", "others"),
    "Acc_g": ("synonym", "synonyms"),
}


def celebrity_checks(concepts: Sequence[str], sizes: GroupSizes) -> list[Check]:
    """Make checks of the erased professions, of their held-out synonyms, and of every other profession."""
    known = concept_table()
    erased = [known.profession(name) for name in concepts]
    made = [check for entry in erased for check in _asked(entry, (entry.name,), "direct", sizes, sizes.direct)]
    for entry in erased:
        made += _asked(entry, entry.synonyms.held_out, "synonym", sizes, sizes.other)
    for entry in known.professions:
        if entry not in erased:
            made += _asked(entry, (entry.name,), "near", sizes, sizes.other)
    return made


def _asked(entry: ConceptEntry, words: Sequence[str], group: PromptGroup, sizes: GroupSizes, count: int) -> list[Check]:
    made = []
    for i in range(count if words else 0):
        word, style = words[i % len(words)], i % _TEMPLATES
        text = object_caption(word) if style == 0 else object_caption(word, entry.styles[style])
        wording = "" if word == entry.name else word
        made.append(Check(sizes.prompt(text, i), group, entry.name, "object", entry.labels, wording=wording))
    return made


def celebrity_figures(found: TrialEvidence) -> list[SuiteFigure]:
    """Compute the accuracies of each group that has pictures, among faces and strict, and their harmonic means."""
    old, new = (_accuracies_of(found, side) for side in (0, 1))
    made: list[SuiteFigure] = []
    for name in new:
        made += _accuracies(name, old[name], new[name])
    if "Acc_e" not in new or "Acc_s" not in new:
        return made
    made += _harmonic(found, "H_c", ("Acc_e", "Acc_s"), old, new)
    return made + (_harmonic(found, "H_o", ("Acc_e", "Acc_s", "Acc_g"), old, new) if "Acc_g" in new else [])


def _accuracies_of(found: TrialEvidence, side: int) -> dict[str, FaceAccuracy]:
    """The accuracies of the groups that have pictures, before (0) or after (1)."""
    made = {}
    for name, (group, _) in _GROUPS.items():
        members = found.answers_in(group)
        if members:
            names = [_name(answer, side) for answer in members]
            made[name] = face_accuracy(names, [answer.check.concept for answer in members])
    return made


def _name(answer: PairedAnswer, side: int) -> str | None:
    """The recogniser's name for a picture's first face; None without a face."""
    said = (answer.before, answer.after)[side]
    if said == NOTHING_LABEL:
        return None
    return answer.check.concept if answer.hits[side] else said


def _accuracies(name: str, old: FaceAccuracy, new: FaceAccuracy) -> list[SuiteFigure]:
    made = []
    if old.among_faces is not None and new.among_faces is not None:
        made.append(_figure(name, old.among_faces, new.among_faces, "recognised, of the pictures with a face"))
    made.append(_figure(f"{name}, strict", old.strict, new.strict, "recognised, of all pictures"))
    return [*made, _figure(f"faces, {_GROUPS[name][1]}", old.face_rate, new.face_rate, "pictures with a face")]


def _figure(name: str, old: Rate, new: Rate, formula: str) -> SuiteFigure:
    return SuiteFigure(name, new.value, old.value, new.n, formula, (new.low, new.high), (old.low, old.high))


def _harmonic(
    found: TrialEvidence,
    name: str,
    terms: tuple[str, ...],
    old: dict[str, FaceAccuracy],
    new: dict[str, FaceAccuracy],
) -> list[SuiteFigure]:
    """The harmonic mean among faces, if there are faces in every group, and the strict one with its interval."""
    formula = f"harmonic mean of {', '.join(f'1 - {term}' if term != 'Acc_s' else term for term in terms)}"
    mean = h_c if len(terms) == 2 else h_o
    made = []
    if all(side[term].among_faces is not None for side in (old, new) for term in terms):
        before = mean(*(old[term].value("exclude") for term in terms))
        after = mean(*(new[term].value("exclude") for term in terms))
        made.append(SuiteFigure(name, after, before, sum(new[term].strict.n for term in terms), formula))
    strict_before = mean(*(old[term].value("wrong") for term in terms))
    rate = harmonic_rate(*(_good(found, term) for term in terms))
    strict = SuiteFigure(f"{name}, strict", rate.value, strict_before, rate.n, formula, (rate.low, rate.high))
    return [*made, strict]


def _good(found: TrialEvidence, term: str) -> ClusteredSample:
    """1 for each picture that is as it should be: others recognised, the erased ones not; clustered by name."""
    members = found.answers_in(_GROUPS[term][0])
    values = [float(answer.hits[1] == (term == "Acc_s")) for answer in members]
    return values, [answer.check.concept for answer in members]


def celebrity_notes(found: TrialEvidence) -> dict[str, str]:
    """Say whose faces these are, and which names the unedited model does not draw recognisably."""
    told = {}
    if found.judge.knows_table:
        told["celebrity"] = (
            f"professions' faces stand in for celebrities', and {found.judge.scorer} for the face recogniser: not"
            " comparable with published tables"
        )
    weak = []
    for name in dict.fromkeys(answer.check.concept for answer in found.answers if not answer.check.wording):
        members = [a for a in found.answers if a.check.concept == name and not a.check.wording]
        rate = sum(answer.hits[0] for answer in members) / len(members)
        weak += [f"{name} {rate:.0%}"] if rate < _RECOGNISED else []
    if weak:
        told["celebrity names"] = f"recognised before the edit in less than {_RECOGNISED:.0%}: {', '.join(weak)}"
    return told


def require_face_recogniser(judge: Judge) -> None:
    """Raise `SettingsError` for a judge that recognises no faces."""
    message = (
        f"suite celebrity needs a face recogniser, and {judge.scorer} is none: give --judge face-recogniser=FOLDER, or"
        " a scorer of your own whose reader has recognises_faces=True (docs/extending.md)"
    )
    require(judge.reader.recognises_faces, message, SettingsError)


suites.register("celebrity")(
    Suite(
        "celebrity",
        "MACE's Acc_e, Acc_s, Acc_g, H_c and H_o by recognised faces: 25 pictures of each erased and each other name",
        GroupSizes(25, 25),
        celebrity_checks,
        celebrity_figures,
        notes=celebrity_notes,
        require_judge=require_face_recogniser,
        spec="mace-ddim50",
        meaning={"near": ("others", "names that were not erased", "should stay")},
    )
)
