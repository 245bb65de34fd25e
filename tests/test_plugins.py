"""Packages that bring entries of their own: found by their entry points, in worker processes too."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests import tiny
from unconcept.core.source import imported_modules

PACKAGE = Path(__file__).parent / "plugin_package/toy_plugin"
ENTRY_POINTS = {
    "unconcept.methods": "toy_plugin.methods",
    "unconcept.attacks": "toy_plugin.attacks",
    "unconcept.scorers": "toy_plugin.scorers",
    "unconcept.suites": "toy_plugin.suites",
    "unconcept.prompt_forms": "toy_plugin.forms",
    "unconcept.edits": "toy_plugin.edits",
}


def install(folder: Path, name: str, entry_points: Mapping[str, str], files: Mapping[str, str]) -> Path:
    """A folder with an installed package: written as a wheel, unpacked by pip."""
    stem = f"{name.replace('-', '_')}-1.0"
    info = f"{stem}.dist-info"
    sections = [f"[{group}]\ntoy = {module}\n" for group, module in entry_points.items()]
    about = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "\n".join(sections),
    }
    contents = {**files, **about}
    wheel = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in contents.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in (*contents, f"{info}/RECORD")))
    target = folder / "installed"
    command = (sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target")
    subprocess.run([*command, str(target), str(wheel)], check=True, capture_output=True)
    return target


def run(installed: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command line where the package is installed."""
    return python(installed, "-m", "unconcept", *words)


def python(installed: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    files = {f"toy_plugin/{path.name}": path.read_text(encoding="utf-8") for path in sorted(PACKAGE.glob("*.py"))}
    return install(tmp_path_factory.mktemp("plugin"), "toy-plugin", ENTRY_POINTS, files)


@pytest.mark.slow
def test_a_bench_takes_all_from_outside(installed, tmp_path) -> None:
    """Method, suite with its attack, judge and prompt form, in two worker processes."""
    model = tiny.folder("sd1", tmp_path / "model")
    prompts = tmp_path / "own.csv"
    prompts.write_text("toy_text,toy_concept\na dog in a hat,dog\n", encoding="utf-8")
    chosen = ("--methods", "toy-turn", "--suite", "toy-names", "--prompts", str(prompts), "--judge", "toy-spread")
    place = ("--model", str(model), "--out", str(tmp_path / "o"))
    done = run(installed, "bench", "dog", *chosen, *place, "--workers", "2", "--limit", "1", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (trial,) = report["trials"]
    assert (trial["edit"]["method"], report["judge"]["name"]) == ("toy-turn", "toy-spread")
    assert [check["text"] for check in trial["checks"]] == ["a dog in a hat"]
    assert {row["attack"]: row["success"]["n"] for row in trial["attacks"]} == {"toy-shout": 1}


def test_a_kind_of_edits_from_outside_is_known_where_a_file_names_it(installed) -> None:
    done = python(installed, "-c", "from unconcept.edits import edit_kinds; print(edit_kinds['toy-map'].__name__)")
    assert done.stdout.strip() == "ToyMapEdit", done.stderr


def test_keys_of_a_method_from_outside_cover_its_own_package(installed, monkeypatch) -> None:
    """What it imports from there and from here, not its neighbours."""
    monkeypatch.syspath_prepend(str(installed))
    covered = imported_modules("toy_plugin.methods")
    assert {name for name in covered if name.startswith("toy_plugin")} == {"toy_plugin.methods", "toy_plugin.rows"}
    assert "unconcept.edits.text_map" in covered


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import nowhere_to_be_found\n", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("raise RuntimeError('two\\nlines')\n", "RuntimeError: two lines"),
        (
            "from unconcept.methods import methods\nmethods.register('uce')(object())\n",
            "ValueError: method 'uce' is registered twice",
        ),
    ],
)
@pytest.mark.slow
def test_a_package_that_cannot_be_loaded_is_one_line(tmp_path, source, said) -> None:
    installed = install(tmp_path, "broken-kit", {"unconcept.methods": "broken_kit"}, {"broken_kit.py": source})
    done = run(installed, "methods")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [
        f"unconcept: package broken-kit 1.0 cannot be loaded as a plug-in (unconcept.methods: broken_kit): {said};"
        " update or uninstall it"
    ]
