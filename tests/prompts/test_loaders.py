"""Published forms, user files, and the ways a file can be wrong: one clear line each."""

import csv
import io
import os
import time
import tracemalloc
from pathlib import Path

import pytest

from unconcept.core.errors import DataError, UnknownName
from unconcept.prompts.forms import prompt_forms
from unconcept.prompts.loaders import load_prompts, read_prompts

I2P = """,prompt,categories,hard,inappropriate_percentage,nudity_percentage,\
sd_seed,sd_guidance_scale,sd_image_width,sd_image_height
0,"a king, on his throne","violence, hate",0,10.0,0.0,2868251644,7,512,768
1,two men fight ,violence,1,60.0,0.0,222008037,7.5,512,512
"""
ATTACK = (
    "case_number,prompt,evaluation_seed,evaluation_guidance\n0,Old stone church in countryside.,69922,7.5\n1,Modern"
    " church.,42726,7.5\n"
)
MACE = """,type,prompt,evaluation_seed
0,erased,A portrait of Anselm Drave,1
1,erased,An image capturing Anselm Drave at a public event,2
2,others,Orrin Pell in an official photo,1
"""
ARTISTS = (
    ",type,artist,prompt,evaluation_seed\n0,0,Corvin Hale,Art inspired by Corvin Hale,1\n1,1,Q.R.Maddern,Painting in"
    " the style of Q.R.Maddern,1\n"
)
SPEED = (
    "type,concept,prompt,seed\nerase,Anselm Drave,A sketch of Anselm Drave,1\nretain,Orrin Pell,A sketch of Orrin"
    " Pell,1\n"
)
COCO = (
    'case_number,source,prompt,evaluation_seed,coco_id\n0,coco-30k,A bicycle.,41337,203564\n1,coco-30k,"A dog, on a'
    ' stool\n",64297,482917\n'
)
HUB_LINES = 'Snoopy on a branch\n"Snoopy, his ears ""flapping"", runs."\n\nSnoopy on a branch\n'
HUB_LANGUAGES = (
    'Original,Spanish,French,German,Italian,Portuguese,Index\nSnoopy runs,Snoopy corre,"Snoopy court, vite",Snoopy'
    " rennt,Snoopy va,Snoopy foge,9\n"
)
HUB_PINPOINT = "noun,similarity\n" + "".join(f"george_{i},0.{i}\n" for i in range(130))
HUB_SELECTIVE = '[{"prompt": "Snoopy in a park", "nouns": ["park ", "wind", "park"], "index": 4}]'
ERASE_EVAL = '{"Van Gogh style": "a dream of wheat in the strokes of Van Gogh style"}'
TABLE = "prompt,concept,group,seed,guidance_scale,note\na dog,dog,direct,1,7.5,x\na hound,dog,synonym,,,y\n"
LIST = '["a dog", {"prompt": "a hound", "group": "synonym", "seed": 3, "guidance_scale": 7}]'


def put(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def rows(path: Path, form: str | None = None, **given) -> list[tuple]:
    return [(i.text, i.concept, i.group, i.seed, i.guidance_scale, i.tag) for i in load_prompts(path, form, **given)]


def test_i2p(tmp_path) -> None:
    path = put(tmp_path, "i2p.csv", I2P)
    first = ("a king, on his throne", "violence, hate", "indirect", 2868251644, 7.0, "violence, hate")
    assert rows(path) == [first, ("two men fight", "violence", "indirect", 222008037, 7.5, "violence")]
    assert {row[1] for row in rows(path, concept="nudity")} == {"nudity"}


def test_i2p_is_asked_about_one_of_its_categories(tmp_path) -> None:
    """Rows of the others are about theirs, so that no judge looks for violence in them."""
    path = put(tmp_path, "i2p.csv", I2P)
    assert [row[1] for row in rows(path, concept="Hate")] == ["Hate", "violence"]
    assert [row[1] for row in rows(path, concept="violence")] == ["violence"] * 2
    assert [row[1] for row in rows(path, concept="sexual")] == ["violence, hate", "violence"]


def test_unlearndiffatk_and_files_named_after_concepts(tmp_path) -> None:
    path = put(tmp_path, "garbage_truck.csv", ATTACK)
    assert rows(path)[0] == ("Old stone church in countryside.", "garbage truck", "direct", 69922, 7.5, "")
    assert rows(path, concept="church")[1][1] == "church"
    assert [
        item.concept
        for item in load_prompts(
            put(tmp_path, "b.csv", ",case_number,prompt,evaluation_seed,class\n0,0,Image of a tench,4,tench\n")
        )
    ] == ["tench"]


def test_mace_celebrities_and_artists(tmp_path) -> None:
    found = rows(put(tmp_path, "m.csv", MACE))
    assert [row[1:4] for row in found] == [
        ("Anselm Drave", "direct", 1),
        ("Anselm Drave", "direct", 2),
        ("Orrin Pell", "near", 1),
    ]
    assert [row[1:3] for row in rows(put(tmp_path, "a.csv", ARTISTS))] == [
        ("Corvin Hale", "direct"),
        ("Q.R.Maddern", "near"),
    ]
    assert {row[1] for row in rows(tmp_path / "m.csv", concept="dog")} == {"Anselm Drave", "Orrin Pell"}
    with pytest.raises(DataError, match="form mace contains groups itself: leave out `group`"):
        load_prompts(tmp_path / "m.csv", group="direct")
    with pytest.raises(DataError, match=r"line 2: 'A bust of X' follows none of MACE's templates.*: A portrait of"):
        load_prompts(put(tmp_path, "x.csv", "type,prompt,evaluation_seed\nerased,A bust of X,1\n"))
    with pytest.raises(DataError, match=r"type 'kept': allowed are erased, 0, others, 1"):
        load_prompts(put(tmp_path, "x.csv", MACE.replace("others", "kept")))


def test_mace_counts_are_the_files(tmp_path) -> None:
    """100 names x 5 templates x 5 seeds, as in the published files."""
    names = [f"Person {i}" for i in range(100)]
    forms_of = (
        "A portrait of {}",
        "An image capturing {} at a public event",
        "An oil painting of {}",
        "A sketch of {}",
        "{} in an official photo",
    )
    lines = [f"others,{form.format(name)},{seed}\n" for name in names for form in forms_of for seed in range(1, 6)]
    made = load_prompts(put(tmp_path, "m.csv", "type,prompt,evaluation_seed\n" + "".join(lines)))
    assert (len(made), {item.concept for item in made}) == (2500, {*names})


def test_speed_and_coco(tmp_path) -> None:
    assert [row[1:4] for row in rows(put(tmp_path, "s.csv", SPEED))] == [
        ("Anselm Drave", "direct", 1),
        ("Orrin Pell", "near", 1),
    ]
    assert rows(put(tmp_path, "c.csv", COCO))[1] == ("A dog, on a stool", "", "far", 64297, None, "")


def test_hub(tmp_path) -> None:
    lines = load_prompts(put(tmp_path, "target_image/Snoopy.csv", HUB_LINES))
    assert [(item.text, item.concept, item.replicate) for item in lines] == [
        ("Snoopy on a branch", "Snoopy", 0),
        ('Snoopy, his ears "flapping", runs.', "Snoopy", 0),
        ("Snoopy on a branch", "Snoopy", 1),
    ]
    assert len(load_prompts(put(tmp_path, "elsewhere/Snoopy.csv", HUB_LINES), "hub-lines")) == 3
    spoken = rows(put(tmp_path, "multilingual_robustness/Snoopy.csv", HUB_LANGUAGES))
    assert spoken[1] == ("Snoopy court, vite", "Snoopy", "other-language", None, None, "french")
    assert len(spoken) == 5
    near = rows(put(tmp_path, "pinpoint_ness/Fenn Arlo.csv", HUB_PINPOINT))
    assert (len(near), near[7]) == (100, ("a photo of george_7", "george 7", "near", None, None, "Fenn Arlo"))
    things = rows(put(tmp_path, "selective_alignment/Snoopy.json", HUB_SELECTIVE))
    assert [row[:3] for row in things] == [
        ("Snoopy in a park", "park", "co-occurring"),
        ("Snoopy in a park", "wind", "co-occurring"),
    ]


def test_erase_eval(tmp_path) -> None:
    for name, group in (("protocol1", "direct"), ("protocol2", "indirect")):
        assert [row[1:3] for row in rows(put(tmp_path, f"{name}.json", ERASE_EVAL))] == [("Van Gogh style", group)]
    path = put(tmp_path, "cache.json", ERASE_EVAL)
    assert rows(path, group="indirect")[0][2] == "indirect"
    with pytest.raises(DataError, match=r"key 'Van Gogh style': the group of the file is unknown"):
        load_prompts(path)
    both = put(
        tmp_path,
        "both.json",
        '{"Snoopy": {"explicit": "Snoopy runs", "implicit": "a beagle on a red roof", "accepted_rate": 0.8}}',
    )
    assert [row[:3] for row in rows(both)] == [
        ("Snoopy runs", "Snoopy", "direct"),
        ("a beagle on a red roof", "Snoopy", "indirect"),
    ]


def test_files_of_ones_own(tmp_path) -> None:
    assert rows(put(tmp_path, "t.csv", TABLE)) == [
        ("a dog", "dog", "direct", 1, 7.5, ""),
        ("a hound", "dog", "synonym", None, None, ""),
    ]
    assert [row[:5] for row in rows(put(tmp_path, "l.json", LIST), concept="dog")] == [
        ("a dog", "dog", "direct", None, None),
        ("a hound", "dog", "synonym", 3, 7.0),
    ]
    plain_text = put(tmp_path, "p.txt", "# my prompts\na dog\n\n  a hound  \r\n")
    assert [row[:3] for row in rows(plain_text, concept="dog", group="near")] == [
        ("a dog", "dog", "near"),
        ("a hound", "dog", "near"),
    ]
    assert [row[1] for row in rows(plain_text, group="far")] == ["", ""]


# Headers as authors ship them, with a row whose prompt is `p`, and what it is about where the caller asks for "dog".
PUBLISHED = {
    "esd artists": (",case_number,prompt,evaluation_seed,artist", "0,0,p,1,Lund", "Lund"),
    "unlearndiffatk": ("Unnamed: 0,case_number,prompt,evaluation_seed,artist", "0,0,p,1,Lund", "Lund"),
    "esd imagenette": (",case_number,prompt,evaluation_seed,class", "0,0,p,1,tench", "tench"),
    "salun": ("case_number,prompt,evaluation_seed,class,classidx", "0,p,1,tench,0", "tench"),
    "diffusion classifier": ("prompt,classname,classidx", "p,tench,0", "tench"),
    "labels": ("case_number,prompt,label,label_str,evaluation_seed", "0,p,0,tench,1", "tench"),
    "uce professions": ("case_number,prompt,evaluation_seed,profession", "0,p,1,baker", "baker"),
    "targets": ("case_number,prompt,evaluation_seed,target", "0,p,1,Ann Bee", "Ann Bee"),
    "mace artists": (",type,prompt,sim,artist,evaluation_seed", "0,0,p,1.0,Lund,1", "Lund"),
    "speed": ("type,concept,prompt", "erase,Ann Bee,p", "Ann Bee"),
    "own": ("prompt,concept", "p,Ann Bee", "Ann Bee"),
    "no concept": (",prompt,evaluation_seed,case_number", "1,p,2345,1", "dog"),
    "coco": ("case_number,source,prompt,evaluation_seed,coco_id", "0,coco,p,1,9", ""),
    "coco images": ("image_id,prompt,evaluation_seed,width,height", "9,p,1,512,512", ""),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_row_says_what_it_is_about(tmp_path, name) -> None:
    """Whatever the caller asks for; rows without a prompt are passed over and counted."""
    header, row, about = PUBLISHED[name]
    empty = row.replace("p", " ", 1) if ",p" in row or row.startswith("p") else row
    blank = "," * header.count(",")
    for number, mark in enumerate((",", "\t")):
        text = "\n".join((header, row, empty, blank, row + ",")).replace(",", mark) + "\n"
        read = load_prompts(put(tmp_path, f"t{number}.{'tsv' if mark != ',' else 'csv'}", text), concept="dog")
        assert [(item.text, item.concept) for item in read] == [("p", about)] * 2
        assert read.empty_rows == 2


def test_pairs_of_ring_a_bell(tmp_path) -> None:
    path = put(tmp_path, "dogs.csv", "sensitive prompt,normal prompt\na dog runs,it runs\na dog,\n")
    assert [row[:3] for row in rows(path, concept="dog")] == [
        ("a dog runs", "dog", "direct"),
        ("it runs", "", "far"),
        ("a dog", "dog", "direct"),
    ]


def test_json_lines(tmp_path) -> None:
    path = put(tmp_path, "l.jsonl", '"a dog"\n\n{"prompt": "a cat", "concept": "cat"}\n{"prompt": " "}\n')
    assert [row[:2] for row in rows(path, concept="dog")] == [("a dog", "dog"), ("a cat", "cat")]
    assert load_prompts(path, concept="dog").empty_rows == 1


def test_same_questions_in_another_form_have_the_same_hash(tmp_path) -> None:
    table = load_prompts(put(tmp_path, "t.csv", "prompt,concept\na dog,dog\na hound,dog\n"))
    lines = load_prompts(put(tmp_path, "t.txt", "a hound\na dog\n"), concept="dog")
    assert table.hash == lines.hash
    assert table.hash == load_prompts(put(tmp_path, "t.json", '["a dog", "a hound"]'), concept="dog").hash


@pytest.mark.parametrize(("name", "text"), [("t.csv", TABLE), ("i.csv", I2P), ("l.json", LIST), ("p.txt", "a dog\n")])
def test_utf8_mark_is_passed_over(tmp_path, name, text) -> None:
    assert rows(put(tmp_path, name, b"\xef\xbb\xbf" + text.encode()), concept="dog") == rows(
        put(tmp_path, f"x{name}", text), concept="dog"
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "t.csv",
            "text,seed\na dog,1\n",
            r"the columns are text, seed; needed: prompt; for one prompt a line, name the file .txt",
        ),
        (
            "t.csv",
            "prompt;seed\na dog;1\n",
            r"the columns are prompt;seed; needed: prompt; if ';' separates the columns, use commas",
        ),
        ("t.csv", "prompt\tseed\na dog\t1\n", r"if '\\t' separates"),
        ("t.csv", "prompt,seed,Prompt\na,1,b\n", r"column \['prompt'\] appears twice"),
        (
            "t.csv",
            "prompt,seed\na dog, big,1\n",
            r"line 2: 3 cells, but 2 columns: put prompts that contain commas in double quotes",
        ),
        ("t.csv", 'prompt,seed\n"a dog,1\n', r"close every double quote"),
        ("t.csv", 'prompt,concept\n"a" dog,dog\n', r"line 2: .*double those inside a cell"),
        ("t.csv", "prompt,concept\n  ,dog\n", r"contains no prompts"),
        ("t.jsonl", '"a dog"\n{\n', r"line 2 is not JSON: Expecting"),
        ("t.csv", "prompt,concept,seed\na dog,dog,1.5\n", r"line 2: seed '1.5': give a whole number"),
        ("t.csv", "prompt,concept,seed\na dog,dog,1_0\n", r"seed '1_0'"),
        ("t.csv", "prompt,concept,seed\na dog,dog,-1\n", r"seed '-1'"),
        ("t.csv", f"prompt,concept,seed\na dog,dog,{'9' * 5000}\n", r"seed '9{40}'"),
        ("t.csv", "prompt,concept,seed\na dog,dog,9999999999999999999\n", r"seed 9999999999999999999: allowed are"),
        ("t.csv", "prompt,concept,guidance\na dog,dog,high\n", r"guidance scale 'high': give a number"),
        ("t.csv", "prompt,concept,guidance\na dog,dog,inf\n", r"guidance scale 'inf'"),
        (
            "t.csv",
            "prompt,concept,seed,sd_seed\na dog,dog,1,2\n",
            r"columns sd_seed, seed disagree: '2' and '1'; keep one",
        ),
        ("t.csv", "prompt,concept,group\na dog,dog,implicit\n", r"group 'implicit': allowed are direct"),
        ("t.csv", "prompt,concept,id\na dog,dog,7\na hound,dog,7\n", r"line 3: id '7' is also on line 2"),
        ("t.csv", "prompt\na dog\n", r"line 2: a direct prompt needs a concept: give it in a column `concept`"),
        ("t.csv", "prompt,concept\n", r"contains no prompts"),
        ("t.csv", "", r"is empty: give a header line"),
        ("t.txt", "\n# nothing\n", r"contains no prompts"),
        ("t.json", "[]", r"contains no prompts"),
        ("t.json", "{", r"is not JSON: Expecting"),
        ("t.json", "3", r"single JSON int: give a list"),
        ("t.json", "[" * 100_000, r"is not JSON"),
        ("t.json", '{"a": "x", "a": "y"}', r"key 'a' appears twice"),
        ("t.json", '[{"text": "a dog"}]', r"entry 1: prompt 'None': give a string; the keys are text"),
        ("t.json", '[{"prompt": "a dog", "concept": "dog", "seed": "1"}]', r"seed '1': give a number without quotes"),
        ("t.json", '[{"prompt": "a dog", "concept": "dog", "seed": 1.5}]', r"seed 1.5: give a number"),
        ("t.json", '[{"prompt": "a dog", "concept": "dog", "guidance_scale": NaN}]', r"guidance scale 'nan'"),
        ("t.json", '["a \\ud83d dog"]', r"surrogate"),
        ("t.json", '[{"a\\nb": 1}]', r"entry 1: prompt 'None': give a string; the keys are a b"),
        ("t.csv", '"a\nb",c\n1,2\n', r"the columns are a b, c; needed"),
        ("t.json", "[3]", r"entry 1: '3' is not an object"),
        (
            "t.csv",
            "prompt,concept\na café,x\n".encode("latin-1"),
            r"line 2: byte 0xe9 is not UTF-8; if the file is Latin-1, convert it with `iconv -f LATIN1",
        ),
        ("t.csv", b"prompt,concept\n" + b"a dog,dog\n" * 5000 + b"caf\xe9,x\n", r"line 5002: byte 0xe9"),
        ("t.json", '["café"]'.encode("latin-1"), r"line 1: byte 0xe9"),
        ("t.csv", TABLE.encode("utf-16"), r"is UTF-16 text: convert it with `iconv -f UTF-16 -t UTF-8 t.csv"),
        ("t.csv", TABLE.encode("utf-16-le"), r"zero bytes"),
        ("t.txt", "a" * 200_000, r"line 1: longer than 131,072 characters"),
        ("t.csv", 'prompt\n"' + "a\n" * 100_000, r"field larger than field limit"),
    ],
)
def test_bad_files_say_what_to_do(tmp_path, name, content, said) -> None:
    path = put(tmp_path, name, content)
    with pytest.raises(DataError, match=said) as caught:
        load_prompts(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_paths_that_are_no_files(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, said in (
        (tmp_path, "is a folder or a device"),
        (tmp_path / "pipe", "is a folder or a device"),
        (tmp_path / "no.csv", "does not exist"),
    ):
        with pytest.raises(DataError, match=said):
            load_prompts(path)
    with pytest.raises(DataError):
        load_prompts("a\0b.csv")


def test_forms_by_name(tmp_path) -> None:
    path = put(tmp_path, "t.csv", TABLE)
    with pytest.raises(UnknownName, match="no prompt form 'i2pp'; did you mean 'i2p'"):
        load_prompts(path, "i2pp")
    with pytest.raises(
        DataError,
        match=(
            r"the columns are prompt, concept, group, seed, guidance_scale, note; needed: type, prompt, evaluation_seed"
            r" \(form mace\)"
        ),
    ):
        load_prompts(path, "mace")
    assert len(load_prompts(path, "lines", group="far")) == 3
    assert all(prompt_forms[name].summary for name in prompt_forms)


def test_the_cap_says_how_to_raise_it(tmp_path) -> None:
    path = put(tmp_path, "t.txt", "a dog\n" * 11)
    with pytest.raises(
        DataError,
        match=(
            r"more than 10 prompts: split it, or from Python give load_prompts a larger `limit`; the flag `--limit`"
            r" does not"
        ),
    ):
        load_prompts(path, concept="dog", limit=10)
    assert len(load_prompts(path, concept="dog", limit=11)) == 11
    with pytest.raises(DataError, match="limit 0"):
        load_prompts(path, limit=0)
    with pytest.raises(DataError, match="group 'implicit'"):
        load_prompts(path, group="implicit")


def test_a_long_file_is_streamed(tmp_path) -> None:
    """20,000 rows in a few MB and a second, so a million take the same memory and less than a minute."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["prompt", "concept", "seed"])
    writer.writerows([f"a photo of thing {i}, in a park", "thing", i] for i in range(20_000))
    path = put(tmp_path, "big.csv", buffer.getvalue())
    begun = time.process_time()
    assert sum(1 for _ in read_prompts(path)) == 20_000
    assert time.process_time() - begun < 2
    tracemalloc.start()
    for _ in zip(range(8_000), read_prompts(path), strict=False):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**21
