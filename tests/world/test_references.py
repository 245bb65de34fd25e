"""Models of the short course: what is left out is nowhere, all else is as if nothing were left out."""

import os
import random
import shutil
import signal
from dataclasses import replace
from functools import partial

import pytest
import torch
from transformers import CLIPTextModel

from unconcept.evaluation.references.record import REFERENCE_RECORD
from unconcept.worlds.scenes import scene_words
from unconcept.worlds.table import concept_table
from world import autoencoder, diffusion, loop, pool, references
from world.captions import Captions
from world.left_out import LeftOut
from world.place import Place
from world.references import ReferenceModel, ShortCourse, Stage, left_out_concepts
from world.scenes import scene_at, shown_concepts
from world.text import Lessons, Names, build_clip
from world.tokenizer import save_clip_tokenizer, train_clip_tokenizer
from world.vocabulary import vocabulary

from .test_course import artwork_file

SIX = frozenset(left_out_concepts(concept_table()))
WORDS = LeftOut.of(concept_table(), scene_words(), SIX)


def test_six_report_concepts_of_different_families_that_share_no_word_with_another():
    entries = [concept_table()[name] for name in SIX]
    assert sorted(entry.kind for entry in entries) == ["harmful", "object", "object", "object", "object", "style"]
    assert {entry.split for entry in entries} == {"report"}
    assert len({entry.family for entry in entries}) == 6
    others = [entry for entry in concept_table().entries if entry.name not in SIX]
    assert not [word for entry in others for word in entry.wordings if WORDS.is_named(word)]
    icons = {icon for entry in entries for icon in entry.icons}
    assert not [entry.name for entry in others if icons & set(entry.icons)]


@pytest.mark.parametrize("rung", [0, 1])
def test_scenes_differ_where_one_of_the_six_is_shown_and_nowhere_else(rung):
    whole = Captions(concept_table(), scene_words(), rung)
    rest = replace(whole, without=SIX)
    shown, pairs = 0, 0
    for position in range(1500):
        scene, other = scene_at(whole, 7, position), scene_at(rest, 7, position)
        is_shown = not SIX.isdisjoint(shown_concepts(scene))
        assert (scene != other) == is_shown
        shown += is_shown
        pairs += is_shown and len(scene.caption.subjects) == 2
        assert SIX.isdisjoint(shown_concepts(other))
        assert not WORDS.is_named(other.caption.text)
        assert {sprite.label for sprite in other.sprites}.isdisjoint(SIX)
    assert shown > 150
    assert pairs > 20


@pytest.fixture(scope="module")
def words(artwork):
    tags = {icon: [icon.replace("-", " "), "thing"] for icon in artwork.words}
    extra = {"bus-stop": ["bus stop", "halt"], "star": ["star", "glow"], "bus": ["oncoming bus", "omnibus"]}
    return vocabulary(concept_table(), tags | extra)


def test_lessons_differ_where_one_of_the_six_is_named_or_meant_and_nowhere_else(words):
    lessons, others = Lessons(words).lessons(5, 1200), Lessons(words, SIX).lessons(5, 1200)
    changed = 0
    for lesson, other in zip(lessons, others, strict=True):
        meant = {name for some in lesson.meanings for name in some}
        is_named = WORDS.is_named(lesson.caption.text) or not SIX.isdisjoint(meant)
        assert (lesson != other) == is_named
        changed += is_named
        assert not WORDS.is_named(other.caption.text)
        assert SIX.isdisjoint(name for some in other.meanings for name in some)
    assert changed > 100
    assert "omnibus" in words.meanings  # A word of one of the six that no wording of it holds.
    assert not any("omnibus" in other.caption.text for other in others)


def test_the_tokenizer_reads_none_of_the_six(words):
    whole, rest = Lessons(words).texts(1500, 3), Lessons(words, SIX).texts(1500, 3)
    assert [text for text in whole if WORDS.is_named(text)]
    assert not [text for text in rest if WORDS.is_named(text)]
    same = [one == other for one, other in zip(whole[:1500], rest, strict=False)]
    assert same == [not WORDS.is_named(text) for text in whole[:1500]]


def test_names_of_the_six_are_spread_by_none(words):
    tokenizer, objects = train_clip_tokenizer(words.phrases()), len(concept_table().objects)
    whole, rest = (
        Names(tokenizer, words, objects, LeftOut.of(concept_table(), scene_words(), names)) for names in ((), SIX)
    )
    barred = {i for i, (name, phrase) in enumerate(words.named_phrases()) if name in SIX or WORDS.is_named(phrase)}
    assert barred >= {words.numbers[name] for name in SIX - {"flat"}} | {words.numbers["icon:bus-stop"]}
    order = torch.randperm(objects, generator=torch.Generator().manual_seed(1))
    first, other = whole._first(order, 128), rest._first(order, 128)
    assert torch.equal(first, order[:128])
    assert barred.isdisjoint(other.tolist())
    assert len(set(other.tolist())) == 128
    assert [int(i) in barred for i in first] == (first != other).tolist()


def small_parts(folder):
    """Autoencoder and text encoder at toy size, in a model's folder."""
    torch.manual_seed(0)
    autoencoder.build((8, 8, 8, 8), 16).save_pretrained(folder / "vae")
    captions, rng = Captions(concept_table(), scene_words(), 1), random.Random(0)
    tokenizer = train_clip_tokenizer([captions.draw(rng).text for _ in range(200)], 50)
    encoder = build_clip(tokenizer)
    encoder.config.num_hidden_layers = 1
    CLIPTextModel(encoder.config).save_pretrained(folder / "text/text_encoder")
    save_clip_tokenizer(tokenizer, folder / "text/tokenizer")


def forked(run):
    """Run a function in a process of its own; how it ended."""
    child = os.fork()
    if not child:
        try:
            run()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.slow
def test_a_killed_training_ends_as_an_unbroken_one_that_leaves_nothing_out(artwork, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "PART", 20)
    small = diffusion.build
    monkeypatch.setattr(diffusion, "build", lambda latents, side: small(latents, side, (16, 32)))
    monkeypatch.setattr(references, "left_out_concepts", lambda known: ())
    monkeypatch.setattr(references, "MODELS", {"A": ReferenceModel(1, 2), "W": ReferenceModel(1, 2, left_out=True)})
    monkeypatch.setattr(references, "Plan", partial(loop.Plan, save_seconds=0.0))
    artwork_file(tmp_path / "data.safetensors", artwork)
    small_parts(tmp_path / "A")
    shutil.copytree(tmp_path / "A", tmp_path / "W")
    place = Place(bfloat16=True, data=tmp_path / "data.safetensors", state=tmp_path)
    course = ShortCourse((Stage(0, 4, 1e-3), Stage(1, 4, 1e-3)), batch=3, pool=20)
    save = loop.save

    def save_and_die(path, training, key):
        save(path, training, key)
        if (training.step, path.name[:11]) == (2, "diffusion-1"):
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(loop, "save", save_and_die)
    assert forked(lambda: references.train("A", place, tmp_path / "killed", course)) == signal.SIGKILL
    monkeypatch.setattr(loop, "save", save)
    assert not (tmp_path / "killed").exists()
    assert references.train("A", place, tmp_path / "killed", course)
    assert references.train("W", place, tmp_path / "whole", course)
    weights = [tmp_path / name / "unet/diffusion_pytorch_model.safetensors" for name in ("killed", "whole")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert (tmp_path / "killed" / REFERENCE_RECORD).exists()
