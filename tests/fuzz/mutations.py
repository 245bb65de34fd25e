"""Damages files: their bytes, or the structure of JSON, safetensors headers, TOML and tables, as a seed decides."""

import json
import random
from collections.abc import Callable, Iterator

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None

VALUES: tuple[Json, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        0.5,
        1e308,
        10**30,
        -(2**63),
        "",
        "x",
        " ",
        "\x00",
        "\x1b[31m",
        "[/b]",
        "é" * 300,
    ),
    *("../../x", "/dev/zero", "nan", "1e999", "[]", [], {}, [[]], {"a": 1}, ["x", 1, None], [0] * 50, "\ud800"),
)
TOKENS = (
    *(
        "= ",
        "=",
        "[",
        "]",
        "{",
        "}",
        '"',
        "'",
        "#",
        "\n",
        "\t",
        ",",
        "nan",
        "-inf",
        "1e400",
        "true",
        "0x",
        "2026-01-01",
    ),
    *("99999999999999999999", "-1", '"\\u0000"', '"""', "[[x]]", "a.b.c = 1", "\\", "\u202e", "\x1b[2J", "é", "\ufeff"),
)


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one to three faults of a disk or a transfer."""
    for _ in range(rng.randint(1, 3)):
        data = rng.choice(_BYTE_FAULTS)(data, rng)
    return data


def _flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 8))):
        changed[_place(changed, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.choice((0, 1, 7, 8, 9, len(data) // 2, max(0, len(data) - 1), rng.randint(0, len(data))))]


def _drop(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + data[at + rng.choice((1, 4, 64)) :]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + data[at : at + rng.choice((1, 8, 500))] * 2 + data[at:]


def _blank(data: bytes, rng: random.Random) -> bytes:
    at, count = _place(data, rng), rng.choice((1, 8, 512))
    return data[:at] + rng.choice((b"\0", b"\xff", b" ", b"9", b'"')) * count + data[at + count :]


def _append(data: bytes, rng: random.Random) -> bytes:
    return data + rng.randbytes(rng.choice((1, 8, 4096)))


_BYTE_FAULTS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip,
    _flip,
    _cut,
    _drop,
    _repeat,
    _blank,
    _append,
)


def _place(data: bytes | bytearray, rng: random.Random) -> int:
    """Half of all faults are near the beginning, where headers are."""
    return rng.randrange(min(len(data), rng.choice((1500, len(data)))) or 1)


def mutated_json(data: Json, rng: random.Random) -> Json:
    """The data with one to three nodes replaced, deleted, swapped, renamed or nested."""
    data = json.loads(json.dumps(data))
    for _ in range(rng.randint(1, 3)):
        places = list(_places(data))
        if not places:
            return rng.choice(VALUES)
        holder, key = rng.choice(places)
        _change(holder, key, rng, places)
    return data


def _change(holder: dict | list, key: object, rng: random.Random, places: list) -> None:
    fault = rng.choice(("value", "value", "value", "delete", "swap", "wrap", "rename", "text", "scale"))
    if fault == "value":
        holder[key] = rng.choice(VALUES)
    elif fault == "delete":
        del holder[key]
    elif fault == "swap":
        other, place = rng.choice(places)
        holder[key], other[place] = other[place], holder[key]
    elif fault == "wrap":
        holder[key] = rng.choice(([holder[key]], {"x": holder[key]}, json.dumps(holder[key])))
    elif fault == "rename" and isinstance(holder, dict):
        holder[rng.choice(("", "x", "__metadata__", f"{key} "))] = holder.pop(key)
    elif fault == "text" and isinstance(holder[key], str):
        holder[key] = mutated_text(holder[key], rng)
    elif fault == "scale" and isinstance(holder[key], int | float):
        holder[key] = holder[key] * rng.choice((-1, 0, 2, 1.5, 1000))


def _places(data: Json) -> Iterator[tuple[dict | list, object]]:
    if isinstance(data, dict | list):
        for key in list(data) if isinstance(data, dict) else range(len(data)):
            yield data, key
            yield from _places(data[key])


def mutated_text(text: str, rng: random.Random) -> str:
    """The text with tokens put in or exchanged, and lines dropped, doubled or swapped."""
    for _ in range(rng.randint(1, 3)):
        lines = text.splitlines(keepends=True) or [""]
        at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        fault = rng.choice(("put", "put", "exchange", "drop", "double", "swap"))
        if fault == "put":
            place = rng.randint(0, len(lines[at]))
            lines[at] = lines[at][:place] + rng.choice(TOKENS) + lines[at][place:]
        elif fault == "exchange":
            words = lines[at].split(" ")
            words[rng.randrange(len(words))] = rng.choice(TOKENS)
            lines[at] = " ".join(words)
        elif fault == "drop":
            del lines[at]
        elif fault == "double":
            lines.insert(at, lines[at])
        else:
            lines[at], lines[other] = lines[other], lines[at]
        text = "".join(lines)
    return text


def mutated_safetensors(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file with a changed header of the right length; JSON inside its metadata is changed as JSON."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    metadata = header.get("__metadata__") or {}
    texts = [key for key, value in metadata.items() if value[:1] in ("{", "[")]
    if texts and rng.random() < 0.6:
        key = rng.choice(texts)
        metadata[key] = json.dumps(mutated_json(json.loads(metadata[key]), rng))
    else:
        header = mutated_json(header, rng)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + size :]
