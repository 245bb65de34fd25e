"""The policy of a ledger: how requests of trained methods combine into one state."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from ..core.errors import require
from ..core.settings import build_settings, default_settings
from ..edits.base import validate_strength
from ..edits.merge import MergeSettings
from ..training.regularisers import NO_REGULARISERS, Regularisers
from .entry import FoldRule, parse_decimal

LedgerTeacher = Literal["previous", "pretrained"]
_FLOAT_REGULARISERS = [name for name, value in default_settings(Regularisers).items() if isinstance(value, float)]
_RETAIN_POLICY = (
    "union of typed sets, and of default ones less what is withheld, less all targets"  # in entries: never reword
)


@dataclass(frozen=True)
class LedgerPolicy:
    """How requests of trained methods combine into one state.

    Closed forms always fold exactly, except under `sequential`, which is how the literature edits continually.
    """

    rule: FoldRule = "recompute"
    merge: MergeSettings = field(default_factory=MergeSettings)  # for the rule merge
    # For the rule sequential: the model before the request, or before all requests.
    teacher: LedgerTeacher = "previous"
    regularisers: Regularisers = NO_REGULARISERS  # for every training

    def data(self) -> dict[str, Any]:
        """Plain data of the settings that matter under the rule."""
        told: dict[str, Any] = {"rule": self.rule, "retain": _RETAIN_POLICY}
        if self.rule == "merge":
            told["merge"] = _decimals(asdict(self.merge))
        if self.regularisers != NO_REGULARISERS:
            told["regularisers"] = _decimals(self.regularisers.data())
        return told | ({"teacher": self.teacher} if self.rule == "sequential" else {})

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "LedgerPolicy":
        """Build a policy from `data`; `SettingsError` names a setting that is invalid."""
        merge = build_settings(
            MergeSettings,
            {name: value if name == "how" else parse_decimal(value) for name, value in data.get("merge", {}).items()},
            "merge",
        )
        held = {
            name: parse_decimal(value) if name in _FLOAT_REGULARISERS else value
            for name, value in data.get("regularisers", {}).items()
        }
        bare = build_settings(cls, {name: data[name] for name in ("rule", "teacher") if name in data}, "policy")
        return replace(bare, merge=merge, regularisers=build_settings(Regularisers, held, "regulariser"))


def resolve_policy(rule: str, merge: Mapping[str, Any], teacher: str | None, amplify: bool = False) -> LedgerPolicy:
    """Build a policy from options, None for the default; `SettingsError` for one without effect under the rule.

    A scale of merged changes is a strength: a negative one needs `amplify`.
    """
    given = {name: value for name, value in merge.items() if value is not None}
    policy = build_settings(
        LedgerPolicy, {"rule": rule} | ({"teacher": teacher} if teacher is not None else {}), "option"
    )
    merging = build_settings(MergeSettings, given, "merge")
    validate_strength(merging.scale, amplify)
    require(
        not given or policy.rule == "merge",
        f"merge {', '.join(given)} has no effect under rule {rule}: choose rule merge, or leave it out",
    )
    idle = {"uniform": ("scale", "topk"), "task-arithmetic": ("topk",), "ties": ()}[merging.how]
    vain = [name for name in idle if name in given]
    require(not vain, f"merge {', '.join(vain)} has no effect on {merging.how}: leave it out")
    require(
        teacher is None or policy.rule == "sequential",
        f"teacher has no effect under rule {rule}: choose rule sequential, or leave it out",
    )
    return replace(policy, merge=merging)


def _decimals(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert floats to decimal texts, as entries store them."""
    return {name: repr(value) if isinstance(value, float) else value for name, value in values.items()}
