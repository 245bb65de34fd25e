"""Settings under which a method takes a moment on a tiny model, collected from the methods' test files."""

from pathlib import Path

from tests.contract_settings import contract_settings
from unconcept.methods import methods

QUICK = contract_settings(Path(__file__).parent)


def family_for(name: str) -> str:
    """sd1 where the method is defined for it, or else the first of its families."""
    families = methods[name].families
    return "sd1" if "sd1" in families else families[0]
