"""A name comes out of every context as it went in, and nothing in it acts there."""

import ast
import html
import json
import subprocess

import pytest

from unconcept.core.escapes import html_text, json_text, markdown_text, shell_text, visible_text, yaml_text

markdown_it = pytest.importorskip("markdown_it")  # with rich
yaml = pytest.importorskip("yaml")  # with transformers

NASTY_NAMES = (
    "[/b]",
    "[red]x[/red] :smile: [link=https://example.org]y[/link]",
    "<script>alert(1)</script>",
    "\" onload='x' & <b>",
    "$(touch gone) `touch gone` ; rm -rf x | cat",
    'it\'s "quoted" \\ back',
    "a: b # c\n---\nlicense: mit",
    "- list {flow: [seq]} %tag",
    "12) item",
    "===",
    "| cell | ![image](https://example.org/x.png) **bold** _it_ ~~x~~",
    "```\ncode\n```",
    "\x1b]0;title\x07\x1b[31mred\x9b31m\r\b",
    "right\u202eto left\u2066 \u200b\ufeff",
    "tag \U000e0041 and noncharacter \uffff",
    "Zoé, 犬の顔, 🐶‍🦺",
    "--out",
    "",
    " ",
    "{{ 7 * 7 }} {% raw %}",
    "=1+1",
    "null",
)


@pytest.mark.parametrize("name", [*NASTY_NAMES, "surrogate \udcff"])
def test_one_printable_line(name) -> None:
    line = visible_text(name)
    assert line.encode().decode() == line
    assert all(char.isprintable() or char == "\u200d" for char in line)
    assert visible_text(line) == line
    for context in (html_text, markdown_text, shell_text, yaml_text, json_text):
        text = context(name)
        assert text == visible_text(text)
        text.encode()


@pytest.mark.parametrize("name", NASTY_NAMES)
def test_every_context_gives_the_name_back(name) -> None:
    assert yaml.safe_load(f"key: {yaml_text(name)}\nlist: [{yaml_text(name)}]") == {"key": name, "list": [name]}
    assert json.loads(json_text([name, {name: 1}], indent=2)) == [name, {name: 1}]
    assert html.unescape(html_text(name)) == visible_text(name)
    assert not set("<>\"'") & set(html_text(name))
    plain = visible_text(name)
    assert markdown_text(name).replace("\\", "") == plain.replace("\\", "")


@pytest.mark.parametrize("name", [*NASTY_NAMES, "surrogate \udcff"])
def test_a_shell_reads_one_word(name, tmp_path) -> None:
    script = f"printf %s {shell_text(name)}"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, check=True, timeout=10)
    assert done.stdout == name.encode("utf-8", "surrogateescape")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NASTY_NAMES)
def test_markdown_shows_the_text_and_nothing_else(name) -> None:
    parser = markdown_it.MarkdownIt("gfm-like", {"linkify": False}).disable("linkify")
    (paragraph,) = [one for one in parser.parse(f"Targets: {markdown_text(name)}.") if one.type == "inline"]
    assert {one.type for one in paragraph.children} == {"text"}
    assert "".join(one.content for one in paragraph.children) == f"Targets: {visible_text(name)}."
    for before, blocks in (("- ", 6), ("", 2), ("text\n", 2)):
        tokens = parser.parse(
            f"{before}{markdown_text(name)}x" if not name.strip() else f"{before}{markdown_text(name)}"
        )
        assert len([one for one in tokens if one.type != "inline"]) == blocks
    row = parser.render(f"| a | b |\n|---|---|\n| {markdown_text(name)} | end |\n")
    assert row.count("<td>") == 2
    assert "<td>end</td>" in row


def test_plain_names_stay_as_they_are() -> None:
    for context in (visible_text, html_text, markdown_text):
        assert context("Van Gogh, 1889 (oil)") == "Van Gogh, 1889 (oil)"
    assert shell_text("fox") == "fox"
    assert ast.literal_eval(f'"{visible_text("a" + chr(27))}"') == "a\x1b"
