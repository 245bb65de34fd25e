"""Chooses who judges: the named judge, the world's own, on an accelerator the model itself, else nobody."""

from collections.abc import Iterable

from ...core.errors import SettingsError, require
from ...core.progress import ProgressCallback
from ...methods import methods
from ...models import ModelView
from ...models.vision.cached_clip import cached_clips
from ...models.vision.clip import clip_text_tower
from ...models.vision.paired_clip import is_text_tower_of
from ...scorers.clip_score import ClipScore
from ..tasks.edited_model import EditedModel
from .judge import Judge, judge_weights, open_scorer

OWN_JUDGE = "diffusion-classifier"
"""The judge that needs nothing but the model."""
NOT_JUDGED_NOTE = (
    f"not judged: this model has no judge of its own; name one: --judge {OWN_JUDGE} (the model's own word; its cost is"
    " printed first) or --judge clip-score=FOLDER"
)


def choose_judge(named: str | None, own: Judge | None, unedited: EditedModel) -> Judge | None:
    """The judge of a run; None if pictures are only shown. `own` is the world's judge.

    The model itself judges unasked only on an accelerator, because on a CPU it takes longer than drawing.
    """
    is_open = named is None and own is None
    judge = foreseen_judge(named, own, unedited.base().device.type if is_open else "")
    return None if judge is None else judge.for_model(unedited)


def foreseen_judge(named: str | None, own: Judge | None, device: str) -> Judge | None:
    """The same before a model is opened, from the kind of its device; what needs the model is left open."""
    if named is not None:
        return Judge.parse(named)
    return own if own is not None or device == "cpu" else Judge(OWN_JUDGE)


def require_no_adviser(
    judge: Judge | None, made_by: Iterable[str], model: ModelView, advisers: Iterable[str] = ()
) -> None:
    """Raise `SettingsError` if a method that made an edit was steered by the judge: it is graded by its own adviser.

    `advisers` are hashes of the judges that methods asked, as edits record them. A method that needs vision towers is
    steered by the CLIP of the model's own text encoder, since no other fits.
    """
    asked = set(filter(None, advisers))
    if judge is not None and asked and not judge.reader.needs_model:
        message = f"judge {judge.scorer}: a method asked it while it made its edit: name another judge"
        require(judge_weights(judge) not in asked, message, SettingsError)
    steered = [name for name in made_by if name in methods and "vision_towers" in methods[name].uses]
    if judge is None or judge.path is None or not steered:
        return
    scorer = open_scorer(judge.scorer, judge.path)
    if not isinstance(scorer, ClipScore) or not scorer.clip.is_of_transformers:
        return
    tower = clip_text_tower(scorer.clip)
    message = (
        f"judge {judge.scorer}={judge.path}: it is the CLIP of the model's own text encoder, by which {steered[0]} made"
        " its edit: name another judge"
    )
    is_own = any(is_text_tower_of(tower, model, part) for part in model.spec.clip_encoders)
    require(not is_own, message, SettingsError)


def announce_judge(judge: Judge | None, pictures: int, tell: ProgressCallback) -> dict[str, str]:
    """Report what judging will cost, before it starts; return the report's note about the judge, if there is one."""
    clips = [f"a CLIP is in your cache: --judge clip-score={name}" for name in cached_clips()[:1]]
    if judge is None:
        tell("; ".join([NOT_JUDGED_NOTE, *clips]), 1, 1)
        return {"judge": NOT_JUDGED_NOTE}
    if not judge.reader.needs_model:
        return {}
    seconds = judge.open().seconds_per_picture()
    total = f"{pictures} pictures, {seconds * pictures / 60:.2g} minutes"
    cost = f"{judge.scorer} takes about {seconds:.2g} s a picture by one timed step: {total}"
    tell("; ".join([cost, *clips]), 1, 1)
    return {"judge": f"judged by {judge.scorer}: {judge.reader.caveat}"}


def judge_caveat(judge: Judge | None) -> str:
    """The sentence that stands with every rate of a judge that is not independent; "" for any other."""
    return f"Counted by {judge.scorer}: {judge.reader.caveat}." if judge is not None and judge.reader.caveat else ""
