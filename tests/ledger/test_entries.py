"""Settings as entries hold them, and back."""

import pytest

from tests.methods.quick import QUICK
from unconcept.core.errors import SettingsError
from unconcept.core.recipe import load_recipe, recipes
from unconcept.core.settings import build_settings
from unconcept.ledger.entry import canonical_settings, method_from_settings
from unconcept.ledger.ledger import EntryNote
from unconcept.ledger.storage.entry_log import ENTRIES_FILE
from unconcept.methods import methods

RECIPES = {name: load_recipe(name) for name in recipes()}
SETTINGS = {name: (recipe.method, recipe.settings) for name, recipe in RECIPES.items() if recipe.method} | {
    name: (name, QUICK[name]) for name in QUICK
}


def is_second_stage(name: str) -> bool:
    """Whether these settings train a method that is closed form without them."""
    method, settings = SETTINGS[name]
    info = methods[method]
    return info.mechanism_of(build_settings(info.settings, settings)) != info.mechanism


SECOND_STAGES = [name for name in SETTINGS if is_second_stage(name)]


@pytest.mark.parametrize("name", SECOND_STAGES)
def test_a_trained_stage_of_a_closed_form_is_refused(name) -> None:
    method, settings = SETTINGS[name]
    with pytest.raises(SettingsError, match="these settings train a second stage"):
        canonical_settings(methods[method], settings)


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in SECOND_STAGES])
def test_settings_come_back_as_they_were(name) -> None:
    """Also those of a method that looks at one setting beside another, as Sculpting Memory does."""
    method, settings = SETTINGS[name]
    stored = canonical_settings(methods[method], settings)
    assert not any(
        isinstance(one, float) for value in stored.values() for one in (value if isinstance(value, list) else [value])
    )
    assert method_from_settings(methods[method], stored) == build_settings(methods[method].settings, settings)


def test_what_is_no_number_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="setting lamb = 'much': input should be a valid number"):
        method_from_settings(methods["uce"], {"lamb": "much"})


def test_nothing_is_written_that_could_not_be_read(book) -> None:
    before = (book.folder / ENTRIES_FILE).read_bytes()
    with book.write_lock(), pytest.raises(AssertionError, match=r"\(revoke\) has a form .* see its ask"):
        book.append("revoke", EntryNote())
    assert (book.folder / ENTRIES_FILE).read_bytes() == before
