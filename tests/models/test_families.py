"""A family is one value in one file, and nothing else asks for its name."""

import ast
from collections.abc import Iterator
from inspect import signature
from pathlib import Path

import pytest

import unconcept
from tests import tiny
from unconcept.core.errors import SettingsError
from unconcept.core.source import imported_modules
from unconcept.models.families import FAMILIES, families, require_families
from unconcept.models.loading import LOADING
from unconcept.models.views import view_class

ROOT = Path(unconcept.__file__).parent
FILES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT / "models/families")
every_family = pytest.mark.parametrize("family", FAMILIES)


def constants(node: ast.AST) -> Iterator[str]:
    """Strings in a tree, but for those that tell a decorator which families an entry is defined for."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.keyword) and child.arg == "families":
            continue
        if isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield child.value
        yield from constants(child)


def test_no_file_outside_of_the_families_names_one() -> None:
    """Neither in a comparison nor as the key of a table."""
    found = {str(path.relative_to(ROOT)): set(constants(ast.parse(path.read_text("utf-8")))) for path in FILES}
    assert not {path: strings & set(FAMILIES) for path, strings in found.items() if strings & set(FAMILIES)}


def test_what_the_test_above_finds() -> None:
    tree = ast.parse('@method("a", families=("sd1",))\nclass A: ...\nif model.family == "flux": ...\nB = {"sd3": 1}')
    assert set(constants(tree)) & set(FAMILIES) == {"flux", "sd3"}


@every_family
def test_a_family_is_the_one_of_its_pipeline(family) -> None:
    view, spec = tiny.shared(family), families[family]
    assert view.spec is spec
    assert type(view) is view_class(spec)
    assert type(view.pipeline).__name__ == spec.pipeline
    assert all(
        view.checkpoint.has(encoder.part) and encoder.tokenizer in vars(view.pipeline) for encoder in spec.encoders
    )
    assert {f"{spec.denoiser}.{name}" for name, _ in spec.required_maps(view.checkpoint.config(spec.denoiser))} >= {
        *view.text_maps()
    }


@every_family
def test_names_in_other_tools_are_there_where_the_original_layout_is_known(family) -> None:
    spec = families[family]
    told = [spec.vae_prefix, spec.kohya_base]
    for encoder in spec.encoders:
        told += [encoder.single_file, encoder.kohya, encoder.comfyui]
    assert all(bool(name) == bool(spec.denoiser_names) for name in told)


@every_family
def test_the_page_of_families_says_what_a_row_is_and_what_is_left(family) -> None:
    page = (ROOT.parents[1] / "docs/families.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("|") and f"`{family}`" in line.split("|")[1]]
    assert len(rows) == 2


def test_content_keys_follow_every_family_and_its_view() -> None:
    """They are imported by name."""
    seen = imported_modules(LOADING)
    views = {f"unconcept.models.views.{families[family].view.partition(':')[0]}" for family in FAMILIES}
    assert {f"unconcept.models.families.{family}" for family in FAMILIES} | views <= seen


def test_no_header_is_of_two_families() -> None:
    bases = [families[name].kohya_base for name in FAMILIES if families[name].kohya_base]
    assert not [(one, other) for one in bases for other in bases if one != other and one.startswith(other)]
    assert len(set(bases)) == len(bases)


def test_an_unknown_family_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="method x: unknown family"):
        require_families(("sd1", "sd9"), "method x")


@pytest.mark.parametrize("family", [name for name in tiny.PIPELINES if families[name].first_encoder.is_masked])
def test_a_denoiser_masks_texts_by_the_argument_that_its_spec_names(family) -> None:
    forward = type(tiny.shared(family).modules("denoiser")).forward
    is_list = family == "zimage"  # Its texts are lists without padding.
    assert (families[family].text_mask_input in signature(forward).parameters) != is_list
