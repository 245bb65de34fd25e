"""Options of `protect`. Nothing heavy is imported here."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, ClassVar

from ...core.errors import SettingsError, require
from ...core.seeds import SEED_BOUND, check_seed
from ..options import CheckedOptions, Flag, ModelOptions, OutputOptions, Paths, PythonOnly, SettingOptions, Texts


@dataclass(frozen=True, kw_only=True)
class ChangeOptions(CheckedOptions):
    """How far a picture may be changed."""

    help_group: ClassVar[str] = "budget"

    budget: float = 0.05
    """Largest distance between a picture and its protected copy."""
    distance: str = "pixels"
    """Distance of the budget: pixels (root mean square), moji-judge-features, lpips=FILE; see `unconcept scorers`."""
    psnr: float = 0.0
    """Smallest PSNR in decibels, beside the distance; 0 sets none."""

    def __post_init__(self) -> None:
        message = f"--budget {self.budget}: give a distance above 0, such as 0.05; at 0 nothing may change"
        require(0 < self.budget < float("inf"), message, SettingsError)
        require(
            0 <= self.psnr < 200, f"--psnr {self.psnr}: give 0 (no limit) to 200 decibels, such as 30", SettingsError
        )
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class ProveOptions(CheckedOptions):
    """How it is proven that the pictures became harder to learn."""

    help_group: ClassVar[str] = "proof"

    prove: Annotated[bool, Flag("--prove")] = False
    """Learn the subject of all pictures, clean and protected, from the same seeds, and count copies recognised."""
    adaptive: Annotated[bool, Flag("--adaptive")] = False
    """With --prove: also learn from pictures cleaned by scaling, JPEG and the model itself, and ten times as long."""
    other_base: Annotated[str | None, Flag("--other-base", metavar="MODEL", show_default=False)] = None
    """With --prove: also learn with another model."""
    learners: Annotated[Texts, Flag("--learner", str, repeats=True)] = ("textual-inversion", "lora")
    """Learner of --prove: textual-inversion or lora; repeatable.  [default: both]"""
    learning_steps: Annotated[int | None, Flag(least=1, show_default=False)] = None
    """Steps of each learner; a power of two for lora.  [default: those of the model's recipe]"""
    copies: Annotated[int, Flag(least=1, most=1000)] = 24
    """Copies that each learner draws."""
    word: str = "sks"
    """Word that a learner has for the subject."""
    kind: str = "object"
    """Kind of the subject: object, style, person or character; chooses the prompts of the copies."""
    features: Annotated[str | None, Flag(show_default=False)] = None
    """Features by which copies are recognised, such as clip-embedding=FOLDER; moji has its own."""
    others: Annotated[Paths, Flag("--others", Path, repeats=True, show_default=False)] = ()
    """Pictures of other things, to one of which a copy may be nearer; files or folders, repeatable."""

    def __post_init__(self) -> None:
        own = [each for each in fields(ProveOptions) if each.name != "prove"]
        changed = [each.name for each in own if getattr(self, each.name) != each.default]
        wanted = ["--learner" if name == "learners" else f"--{name.replace('_', '-')}" for name in changed]
        message = f"{' and '.join(wanted)} without --prove: add --prove"
        require(self.prove or not wanted, message, SettingsError)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class ProtectOptions(OutputOptions, ModelOptions, SettingOptions, ProveOptions, ChangeOptions):
    """Options of `protect`."""

    pictures: Annotated[Paths, Flag(kind=Path, repeats=True, position=0)] = field(kw_only=False)
    """Pictures of the model's own size, or folders of them."""
    method: str = "trajectory-shift"
    """Protection or control; see `unconcept protections`."""
    text: str = ""
    """Text under which the pictures would be learned; empty: any."""
    seed: Annotated[int, Flag(least=0, most=SEED_BOUND - 1)] = 0
    """Seed of the noise on which the pictures are made hard to learn."""
    store: Annotated[Path | None, PythonOnly()] = None
    """Folder in which networks are kept that serve all pictures of a model; None for `UNCONCEPT_STORE` or the cache."""

    def __post_init__(self) -> None:
        check_seed("--seed", self.seed)
        super().__post_init__()
