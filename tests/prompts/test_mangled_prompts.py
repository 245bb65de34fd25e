"""Mangled prompt files: whatever they hold, only our errors come out, one line each."""

import csv
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.prompts.test_loaders import (
    ARTISTS,
    ATTACK,
    COCO,
    ERASE_EVAL,
    HUB_LANGUAGES,
    HUB_LINES,
    HUB_SELECTIVE,
    I2P,
    LIST,
    MACE,
    SPEED,
    TABLE,
    put,
)
from unconcept.core.errors import DataError, UnconceptError
from unconcept.prompts.forms import prompt_forms
from unconcept.prompts.loaders import load_prompts

GOOD = {
    "a.csv": I2P,
    "b.csv": ATTACK,
    "c.csv": MACE,
    "d.csv": ARTISTS,
    "e.csv": SPEED,
    "f.csv": COCO,
    "g.csv": HUB_LANGUAGES,
    "h.json": HUB_SELECTIVE,
    "protocol1.json": ERASE_EVAL,
    "j.csv": TABLE,
    "k.json": LIST,
    "l.txt": HUB_LINES,
}


def survives(path: Path, form: str | None) -> None:
    """Load, or raise one of ours."""
    said = ""
    try:
        load_prompts(path, form, concept="dog", limit=1000)
    except UnconceptError as error:
        said = str(error)
    assert "\n" not in said


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_mangled_files_raise_our_errors_only(tmp_path_factory, data) -> None:
    name = data.draw(st.sampled_from(sorted(GOOD)))
    content = bytearray(GOOD[name].encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        new = data.draw(
            st.binary(max_size=3)
            | st.sampled_from(
                [b'"', b",", b"\n", b"\r", b"\0", b"\xff", b"\xef\xbb\xbf", b"-1", b"nan", b"[", b"{", b"null"]
            )
        )
        content[at : at + data.draw(st.integers(0, 8))] = new
    path = put(tmp_path_factory.mktemp("mangled"), name, bytes(content))
    survives(path, data.draw(st.none() | st.sampled_from(sorted(prompt_forms))))


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=3), x, max_size=3),
)
ENTRY = st.dictionaries(
    st.sampled_from(["prompt", "nouns", "seed", "guidance_scale", "group", "concept", "explicit", "id"]),
    ODD | st.just("direct"),
    max_size=4,
)


@settings(max_examples=200)
@given(
    st.lists(ENTRY | ODD, max_size=3) | st.dictionaries(st.text(max_size=3), ENTRY | ODD, max_size=3),
    st.none() | st.sampled_from(sorted(prompt_forms)),
)
def test_odd_json_raises_our_errors_only(tmp_path_factory, value, form) -> None:
    survives(put(tmp_path_factory.mktemp("odd"), "protocol2.json", json.dumps(value)), form)


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip), st.none() | st.integers(0, 2**63 - 1)
        ),
        min_size=1,
        max_size=6,
    )
)
def test_tables_that_csv_writes_are_read_back(tmp_path_factory, asked) -> None:
    path = tmp_path_factory.mktemp("round") / "t.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("prompt", "seed", "concept"), *((text, seed, "dog") for text, seed in asked)])
    if any("\0" in text for text, _ in asked):
        with pytest.raises(DataError, match="zero bytes"):
            load_prompts(path)
    else:
        assert [(item.text, item.seed) for item in load_prompts(path)] == [(text.strip(), seed) for text, seed in asked]
