"""Settings under which a method takes a moment on a tiny model, collected from the methods' test files."""

from pathlib import Path

from tests.contract_settings import contract_settings

QUICK = contract_settings(Path(__file__).parent)
