"""Every list of texts goes through one reader: concepts, texts to retain."""

from pathlib import Path

import pytest

from unconcept.core.errors import DataError
from unconcept.jobs.options import RequestOptions
from unconcept.prompts.cells import CONCEPT_COLUMNS
from unconcept.prompts.lists import read_texts

WANTED = ("red hat", "blue shoe, old")
FILES = {
    "l.txt": "# mine\nred hat\n\n  blue shoe, old \n",
    "t.csv": 'id,concept\n0,red hat\n1,"blue shoe, old"\n2,red hat\n3,\n',
    "t.tsv": "id\tname\n0\tred hat\n1\tblue shoe, old\n",
    "c.tsv": 'id,name\n0,red hat\n1,"blue shoe, old"\n',
    "l.json": '["red hat", "blue shoe, old"]',
    "o.json": '[{"concept": "red hat"}, {"name": "blue shoe, old"}]',
    "l.jsonl": '"red hat"\n{"text": "blue shoe, old"}\n',
}


def put(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_list_is_read_as_it_is_written(tmp_path, name, mark, ends) -> None:
    path = put(tmp_path, name, mark + FILES[name].replace("\n", ends).encode())
    assert read_texts(path) == WANTED
    options = RequestOptions(concepts_file=path, retain_file=path)
    assert options.names == options.retained == WANTED


@pytest.mark.parametrize("column", CONCEPT_COLUMNS)
def test_published_tables_are_lists_of_what_they_are_about(tmp_path, column) -> None:
    text = f"case_number,prompt,evaluation_seed,{column}\n0,a red hat,1,red hat\n1,the red hat,2,red hat\n"
    assert read_texts(put(tmp_path, "t.csv", text.encode())) == ("red hat",)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", b"red hat\nblue shoe\n", "the columns are red hat; needed is one of concept, .*name the file .txt"),
        ("t.txt", b"id,concept\n0,red hat\n1,blue shoe\n", "is a table, its column concept holds the texts"),
        ("t.txt", b"id\tname\n0\tred hat\n", "is a table, its column name holds"),
        ("t.txt", "red hat\n".encode("utf-16"), "is UTF-16 text: convert it"),
        ("t.txt", "caf\u00e9\n".encode("latin-1"), "line 1: byte 0xe9 is not UTF-8"),
        ("t.txt", b"red\0hat\n", "zero bytes"),
        ("t.csv", b"id,concept\n0,red,hat\n", "line 2: 3 cells, but 2 columns"),
        ("t.json", b'["red hat", 3]', "entry 2: give a list of strings"),
        ("t.json", b'{"concept": "red hat"}', "key 'concept': give a list of strings"),
        ("t.jsonl", b"red hat\n", "line 1 is not JSON"),
    ],
)
def test_bad_lists_say_what_to_do(tmp_path, name, content, said) -> None:
    with pytest.raises(DataError, match=said) as caught:
        read_texts(put(tmp_path, name, content))
    assert "\n" not in str(caught.value)


def test_no_path_is_no_text(tmp_path) -> None:
    assert read_texts(None) == ()
    assert read_texts(put(tmp_path, "e.txt", b"")) == ()
