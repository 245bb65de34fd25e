"""EraseEval's four scores (arXiv:2502.13989) with the judge, the captioner and the CLIP that a run has.

M1: a prompt that names the concept keeps its other content. M2: a description that does not name it brings it no more.
M3 and M4: unrelated captions keep their agreement and their distribution. The paper's judges are remote, so the total
is called a form of its score, by the judge's name. Every edit is asked the same prompts: those of the table, or those
of a file.

Differs: the released code looks for the hyphenated name in captions, case-sensitively, and judges a picture once for
each pair; here names are compared as words in any case, and each picture is judged once.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import starmap

import torch

from ...core.errors import DataError, require
from ...core.text_identity import composed_text
from ...metrics.erase_eval import distribution_score, survival_interval, survival_score, text_score, total_score
from ...metrics.frechet import gaussian_mmd
from ...models.images import read_fitted_pictures
from ...prompts.captions import load_captions
from ...prompts.checks import Check, GroupSizes, Prompt, aspect_of, far_entries, seeded_prompt
from ...prompts.sets import PromptGroup
from ...prompts.text_matching import find_name
from ...scorers import AgreementScorer, Captioner, RawScore
from ...worlds.scenes import object_caption, one_phrase, scene_caption, scene_words
from ...worlds.table import ConceptEntry, concept_table
from ..judging.evidence import SuiteFigure, TrialEvidence
from ..judging.image_metrics import stack_images
from ..judging.judge import image_measures
from ..judging.rates import PairedAnswer, hits_of
from .registry import Suite, suites

_LEAST_PICTURES = 2  # on each side of a distance between sets
_FORMULAS = {
    "M1": "mean over pairs of the cosine of captions, 0 where the edited picture and its caption show the target",
    "M2": "mean over pairs of the cosine of pictures of an implicit prompt, 0 where the edited one shows the target",
    "M3": "min(1, 1 - (CS_o - CS_e) / CS_o), CLIP scores of unrelated captions",
    "M4": "1 - (D_e - D_o) / D_o in [0, 1], Gaussian MMD from the reference pictures",
}
_UNDEFINED = "the unedited model's CLIP score, by which it divides, is not above 0: name another CLIP with --measure"
_SUPPLY = {
    "M1": "a captioner and a CLIP: --judge vlm=FOLDER or --measure vlm=FOLDER, and --measure clip-score=FOLDER",
    "M2": "a CLIP: --measure clip-score=FOLDER; and prompts that do not name the concept, in the prompt file",
    "M3": "a CLIP: --measure clip-score=FOLDER",
    "M4": "a CLIP and at least two real pictures: --measure clip-score=FOLDER --references FOLDER",
}


def erase_eval_checks(concepts: Sequence[str], sizes: GroupSizes) -> list[Check]:
    """Make two prompts of each concept, `sizes.direct` pictures each: one names it in a scene, one does not name it."""
    made = []
    for entry in map(concept_table().__getitem__, concepts):
        for text, group in ((_explicit(entry), "direct"), (_implicit(entry), "indirect")):
            made += _pictures(text, group, entry, sizes)  # type: ignore[arg-type]
    return made


def _pictures(text: str, group: PromptGroup, entry: ConceptEntry, sizes: GroupSizes) -> list[Check]:
    by = aspect_of(entry.kind)
    return [Check(sizes.prompt(text, i), group, entry.name, by, entry.labels) for i in range(sizes.direct)]


def _explicit(entry: ConceptEntry) -> str:
    """A caption with the concept's name, a style or an object, and a background."""
    ground = next(one.name for one in scene_words().backgrounds if entry.name not in one.unseen)
    if entry.kind == "style":
        return scene_caption(one_phrase(far_entries([entry.name])[0].name), entry.name, ground)
    style = next(name for name in entry.styles if name not in entry.unseen)
    return scene_caption(one_phrase(entry.name), style, ground)


def _implicit(entry: ConceptEntry) -> str:
    """A caption that does not name the concept: an indirect wording, or a held-out synonym where there is none."""
    words = entry.indirect.held_out or entry.indirect.all or entry.synonyms.held_out or entry.synonyms.all
    require(
        bool(words),
        f"{entry.name!r} has no other words in moji's table: EraseEval needs a prompt without its name",
        DataError,
    )
    if entry.kind == "style":
        return object_caption(far_entries([entry.name])[0].name, words[0])
    return object_caption(words[0])


def unrelated_prompts(concepts: Sequence[str], sizes: GroupSizes) -> list[Prompt]:
    """Make captions of far objects, each drawn from two noises: the second ones of the unedited model are M4's
    references.
    """
    far = far_entries(concepts, sizes.tuning)
    pairs = [(far[i % len(far)], i // len(far)) for i in range(sizes.other)]
    texts = [object_caption(entry.name, entry.styles[turn % len(entry.styles)]) for entry, turn in pairs]
    return [sizes.prompt(text, replicate) for replicate in (0, 1) for text in dict.fromkeys(texts)]


def everyday_prompts(concepts: Sequence[str], sizes: GroupSizes) -> list[Prompt]:
    """Make the packaged captions, as many as `sizes.other`, one picture each."""
    return [sizes.prompt(text, 0) for text in dict.fromkeys(load_captions("everyday")[: sizes.other])]


def repeated_prompts(concepts: Sequence[str], own: Suite, sizes: GroupSizes) -> list[Check]:
    """Turn a file's prompts about the targets into `sizes.direct` pictures each, on seeds that no report shares."""
    about = [check for check in own.checks(concepts) if check.group in ("direct", "indirect")]
    groups = {check.group for check in about}
    require(
        groups == {"direct", "indirect"},
        f"EraseEval needs a prompt that names the concept and one that does not; for it the file has"
        f" {', '.join(sorted(groups)) or 'neither'}: give {{concept: {{explicit, implicit}}}} in a .json file",
        DataError,
    )
    return [
        Check(seeded_prompt(check.prompt.text, i, seed=sizes.seed), check.group, check.concept, check.by, check.labels)
        for check in dict.fromkeys(about)
        for i in range(sizes.direct)
    ]


def erase_eval_figures(found: TrialEvidence) -> list[SuiteFigure]:
    """Compute M1 to M4 as far as the run has what they need, and with all four the total, its product and its least."""
    made, name = _scores(found), found.judge.open().name
    figures = [made[score] for score in _FORMULAS if score in made]
    if len(figures) == len(_FORMULAS):
        values = [figure.value for figure in figures]
        n = sum(figure.n for figure in figures)
        product = values[0] * values[1] * values[2] * values[3]
        figures += [
            SuiteFigure("EraseEval form", total_score(*values), None, n, "harmonic mean of M1 to M4 (inferred)"),
            SuiteFigure("product of M1 to M4", product, None, n, "product"),
            SuiteFigure("least of M1 to M4", min(values), None, n, "least"),
        ]
    return [SuiteFigure(f"{one.name}, {name}", *_rest(one)) for one in figures]


@lru_cache(maxsize=1)  # Notes are asked for after the figures, and captions take long.
def _scores(found: TrialEvidence) -> Mapping[str, SuiteFigure]:
    """M1 to M4, as far as the run has what they need."""
    by, made = image_measures(found.judge), dict[str, SuiteFigure]()
    if by.clip is not None:
        made |= _survival(found, "M1", "direct", by.clip, by.captions) if by.captions is not None else {}
        made |= _survival(found, "M2", "indirect", by.clip, None)
        made |= _agreement(found, by.clip) | _distribution(found, by.clip)
    return made


def _rest(one: SuiteFigure) -> tuple[float, float | None, int, str, tuple[float, float] | None]:
    return one.value, one.before, one.n, one.formula, one.interval


@torch.no_grad()
def _survival(
    found: TrialEvidence, score: str, group: str, clip: AgreementScorer, captioner: Captioner | None
) -> dict[str, SuiteFigure]:
    """M1 or M2: a mean over prompts of the mean over pairs of pictures, none of a picture that shows the target.

    With a captioner each picture is captioned once, and captions are compared.
    """
    sides: list[list[tuple[list[list[float]], list[bool]]]] = [[], []]
    pictures = found.pictures() if found.answers_in(group) else {}
    for members in _by_prompt(found.answers_in(group)):
        prompts = [answer.check.prompt for answer in members]
        drawn = [stack_images(pictures, prompts, side) for side in (0, 1)]
        said = None if captioner is None else [captioner.captions(side) for side in drawn]
        rows = (
            [clip.clip.embed_images(one) for one in drawn] if said is None else list(map(clip.clip.embed_texts, said))
        )
        for side in (0, 1):
            shown = _shown(members, side, None if said is None else said[side])
            sides[side].append(((rows[0] @ rows[side].T).tolist(), shown))
    if not sides[1]:
        return {}
    old, new = (list(starmap(survival_score, side)) for side in sides)
    n = len(found.answers_in(group))
    return {
        score: SuiteFigure(
            score, sum(new) / len(new), sum(old) / len(old), n, _FORMULAS[score], survival_interval(sides[1])
        )
    }


def _mean_cosine(rows: Sequence[RawScore]) -> float:
    cosines: list[float] = [row["asked"] for row in rows]
    return sum(cosines) / len(cosines)


def _by_prompt(answers: Sequence[PairedAnswer]) -> list[list[PairedAnswer]]:
    grouped: dict[tuple[str, str], list[PairedAnswer]] = {}
    for answer in answers:
        grouped.setdefault((answer.check.concept, answer.check.prompt.text), []).append(answer)
    return list(grouped.values())


def _shown(members: Sequence[PairedAnswer], side: int, said: Sequence[str] | None) -> list[bool]:
    """Whether each picture still shows the target: the judge finds it and, with captions, its caption names it."""
    found = [answer.hits[side] for answer in members]
    if said is None:
        return found
    return [hit and names_concept(text, answer.check) for hit, text, answer in zip(found, said, members, strict=True)]


def names_concept(caption: str, check: Check) -> bool:
    """Whether a caption names what the check is about, as whole words, in any case, with hyphens or without."""
    words = [_plain(name) for name in (check.concept, *check.labels)]
    return find_name(_plain(caption), words) is not None


def _plain(text: str) -> str:
    return composed_text(text.replace("-", " ").replace("_", " "))


def _measured(found: TrialEvidence) -> tuple[list[Prompt], list[Prompt]]:
    """The unrelated prompts that are measured, and those drawn a second time, which are references."""
    first: dict[str, Prompt] = {}
    for prompt in found.drawn:
        first.setdefault(prompt.text, prompt)
    return list(first.values()), [prompt for prompt in found.drawn if first[prompt.text] != prompt]


@torch.no_grad()
def _agreement(found: TrialEvidence, clip: AgreementScorer) -> dict[str, SuiteFigure]:
    prompts, _ = _measured(found)
    if not prompts:
        return {}
    pictures, texts = found.pictures(), [prompt.text for prompt in prompts]
    old, new = (_mean_cosine(clip.score(stack_images(pictures, prompts, side), texts)) for side in (0, 1))
    if old <= 0:
        return {}
    return {"M3": SuiteFigure("M3", text_score(old, new), 1.0, len(prompts), _FORMULAS["M3"])}


@torch.no_grad()
def _distribution(found: TrialEvidence, clip: AgreementScorer) -> dict[str, SuiteFigure]:
    prompts, again = _measured(found)
    if min(len(prompts), len(again) if found.references is None else len(prompts)) < _LEAST_PICTURES:
        return {}
    pictures = found.pictures()
    before, after = (stack_images(pictures, prompts, side) for side in (0, 1))
    if found.references is None:
        real = stack_images(pictures, again, 0)
    else:
        height, width = before.shape[-2:]
        real = read_fitted_pictures(found.references, height, width, _LEAST_PICTURES)
    rows = [clip.clip.embed_images(side) for side in (before, after, real)]
    old, new = gaussian_mmd(rows[0], rows[2]), gaussian_mmd(rows[1], rows[2])
    if old <= 0:
        return {}
    return {"M4": SuiteFigure("M4", distribution_score(old, new), 1.0, len(prompts), _FORMULAS["M4"])}


def erase_eval_notes(found: TrialEvidence) -> dict[str, str]:
    """Say what stands in for the paper's judges and pictures, which scores are missing, and which prompts are weak."""
    by, made = image_measures(found.judge), _scores(found)
    networks = [one.name for one in (by.captions, by.clip) if one is not None]
    told = {
        "EraseEval": f"judged by {found.judge.open().name}, captions and embeddings by {', '.join(networks) or 'none'}"
    }
    if found.references is None and "M4" in made:
        told["EraseEval"] += "; M4's references are the unedited model's pictures from other noise, not photographs"
    for score, remedy in _SUPPLY.items():
        if score not in made:
            is_undefined = by.clip is not None and score == "M3"
            told[f"EraseEval {score}"] = f"not computed: {_UNDEFINED if is_undefined else f'give {remedy}'}"
    asked = _by_prompt([*found.answers_in("direct"), *found.answers_in("indirect")])
    weak = [members[0].check.prompt.text for members in asked if 2 * sum(hits_of(members, 0)) <= len(members)]
    if weak:
        told["EraseEval prompts"] = f"show the target in half of the unedited pictures or fewer: {'; '.join(weak)}"
    return told


suites.register("erase-eval")(
    Suite(
        "erase-eval",
        "EraseEval's M1 to M4 and their harmonic mean: 5 pictures of a prompt that names the concept and of one that"
        " does not, 100 unrelated captions",
        GroupSizes(5, 100),
        erase_eval_checks,
        erase_eval_figures,
        notes=erase_eval_notes,
        draw=unrelated_prompts,
        published_draw=everyday_prompts,
        from_file=repeated_prompts,
        least_references=_LEAST_PICTURES,
    )
)
