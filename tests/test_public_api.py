"""`__all__` is what is there, and importing costs nothing."""

import subprocess
import sys

import pytest

import unconcept

HEAVY = ("torch", "diffusers", "transformers")


def test_all_is_sorted_and_there() -> None:
    assert unconcept.__all__ == sorted(unconcept.__all__)
    for name in unconcept.__all__:
        assert getattr(unconcept, name).__name__ in (name, "Edit", "RequestSpec")


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = unconcept.nonsense


def loaded(code: str) -> set[str]:
    """Which of the heavy modules a fresh interpreter holds after `code`."""
    script = f"import sys\n{code}\nprint(*[name for name in {HEAVY} if name in sys.modules])"
    return set(
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
        .stdout.splitlines()[-1]
        .split()
    )


def test_import_is_light() -> None:
    assert loaded("import unconcept, unconcept.worlds.table; unconcept.worlds.table.concept_table()") == set()


def test_help_is_light() -> None:
    code = (
        "import contextlib, io\nfrom unconcept.cli import app\nwith contextlib.redirect_stdout(io.StringIO()),"
        " contextlib.suppress(SystemExit): app(['--help'])"
    )
    assert loaded(code) == set()


@pytest.mark.slow
def test_closed_form_edit_needs_torch_alone(tmp_path) -> None:
    """An edit without a report reads safetensors and tokenizers: neither diffusers nor transformers is imported.

    `tests/edits/test_bake.py` asks it of a toy, with the fast tests.
    """
    words = ["erase", "dog face", "--no-report", "--quiet", "--out", str(tmp_path / "o")]
    code = f"import contextlib\nfrom unconcept.cli import app\nwith contextlib.suppress(SystemExit): app({words!r})"
    assert loaded(code) == {"torch"}
    assert (tmp_path / "o" / "edit.safetensors").exists()
