"""What a method may ask while it works: services that draw pictures and have them judged by one that does not grade."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ...core.progress import ProgressCallback, ignore_progress
from ...erasing.request_defaults import ResolvedRequest
from ...methods import MethodServices, methods
from ...methods.registry import MethodInfo, ServiceName
from ...models import ModelView
from ...prompts.checks import Check, GroupSizes
from ..sampling import DrawSpec
from ..suites.registry import Suite
from ..tasks.picture_store import PictureStore
from .judge import Judge, judge_weights
from .live import PresenceRate, open_attribute_counter

ADVICE: frozenset[ServiceName] = frozenset({"attribute_counter", "presence_judge"})
"""The services that ask a judge."""


def judged_services(
    info: MethodInfo,
    model: ModelView,
    chosen: ResolvedRequest,
    judge: Judge | None,
    suite: Suite,
    spec: DrawSpec,
    store: PictureStore,
    tell: ProgressCallback = ignore_progress,
) -> MethodServices:
    """The services of `info` that ask a judge: `suite` makes the prompts about the targets, and its sizes the seeds.

    A judge that answers with texts chooses among the suite's labels. `RequestError` if the method counts attributes
    and the judge cannot tell them, or is None.
    """
    names, seed = [concept.name for concept in chosen.concepts], suite.sizes.seed

    def checks_of(sizes: GroupSizes) -> list[Check]:
        return replace(suite, sizes=sizes).checks(names)

    counter = presence = None
    if "attribute_counter" in info.uses:
        counter = open_attribute_counter(model, _among(judge, ()), spec, store, chosen.request.kind, seed, tell)
    if "presence_judge" in info.uses and (asked := _among(judge, suite.checks(names))):
        presence = PresenceRate(model, asked, checks_of, spec, store, seed, tell)
    return MethodServices(counter, presence, adviser=adviser_of([info.name], judge))


def adviser_of(names: Iterable[str], judge: Judge | None) -> str:
    """The hash of the judge's weights if one of the methods asks it; "" if none does."""
    asks = any(ADVICE & {*methods[name].uses} for name in names if name in methods)
    return judge_weights(judge) if asks and judge is not None else ""


def _among(judge: Judge | None, checks: Sequence[Check]) -> Judge | None:
    return None if judge is None else judge.with_labels((), checks)
