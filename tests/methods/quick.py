"""Settings under which a method takes a moment on a tiny model, collected from the methods' test files."""

from pathlib import Path

from tests.contract_settings import contract_settings
from unconcept.methods import methods
from unconcept.models.families import families

QUICK = contract_settings(Path(__file__).parent)


def quick_settings(name: str, family: str) -> dict[str, object]:
    """The settings for a family: without cross-attention MACE has its first stage alone."""
    refined = {"max_train_steps": 0} if name == "mace" and families[family].attention == "joint" else {}
    return {**QUICK.get(name, {}), **refined}


def family_for(name: str) -> str:
    """sd1 where the method is defined for it, or else the first of its families."""
    known = methods[name].families
    return "sd1" if "sd1" in known else known[0]
