"""Artwork file, text lessons, truths, chance, questions, pools and the course: each on values known beforehand."""

import json
import math
import random
import shutil
from io import BytesIO

import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from unconcept.models.vision.judge_answers import object_centres, object_words
from unconcept.models.vision.judge_net import Answers, ConvJudge, JudgeLabels, PatchJudge
from unconcept.worlds.scenes import LEFT, RIGHT, scene_words
from unconcept.worlds.table import concept_table
from world import pool, ship
from world.artwork import load, write
from world.autoencoder import build, edges
from world.captions import Caption, Captions, Subject
from world.chance import figures, new_share, pixel_distance, two_sample
from world.composition import batch_of, compose
from world.course import ROUNDS, Record, next_rung, take_rounds
from world.lessons import Facts, Lesson, draw_lesson, label_tokens
from world.place import Place, generator, normal, world_hash
from world.questions import REPORT_SEEDS, questions
from world.scenes import RUNGS, Placement, Scene, Sprite, scene_at
from world.spread import effective_rank, object_ranks
from world.tokenizer import LENGTH, train_clip_tokenizer, train_t5_tokenizer
from world.truth import NOT_ASKED, truth_of
from world.vocabulary import vocabulary


def scene_with(*sprites, background="white", style="noto"):
    caption = Caption("", tuple(Subject(sprite.name, sprite.name) for sprite in sprites))
    return Scene(caption, style, scene_words()[background], sprites)


def sprite(name, *place):
    return Sprite(name, name, concept_table()[name].icons[0], Placement(*place))


def test_the_artwork_file_keeps_pixels_names_and_words(tmp_path):
    pictures = []
    for alpha in (0, 128, 255):
        out = BytesIO()
        Image.new("RGBA", (64, 64), (200, 100, 50, alpha)).save(out, "WEBP", lossless=True, exact=True)
        pictures.append(out.getvalue())
    keys = [("fox", "noto"), ("fox", "ink"), ("key", "noto")]
    write(tmp_path / "a.safetensors", keys, pictures, {"fox": ["fox", "animal"], "key": ["key"]})
    read = load(tmp_path / "a.safetensors")
    assert read.index == {key: i for i, key in enumerate(keys)}
    assert read.words["fox"] == ["fox", "animal"]
    assert read.pixels[1, :, 0, 0].tolist() == [100, 50, 25, 128]
    assert read.pixels[0].max() == 0
    assert len(read.hash) == 64


def words_of(artwork):
    texts = {icon: [icon.replace("-", " "), "thing"] for icon in artwork.words}
    return vocabulary(concept_table(), texts | {"abacus": ["abacus", "calculation"], "star": ["star", "glow"]})


def test_the_vocabulary_keeps_the_tables_words(artwork):
    words = words_of(artwork)
    assert words.classes[: len(concept_table().objects)] == tuple(entry.name for entry in concept_table().objects)
    assert len(set(words.classes)) == len(words.classes)
    assert words.meanings["calculation"] == ("icon:abacus",)
    assert len(words.meanings["thing"]) > 100
    assert "fox" not in words.meanings


@pytest.mark.parametrize("kind", [train_clip_tokenizer, train_t5_tokenizer])
def test_tokens_must_tell_what_the_caption_says_so_far(artwork, kind):
    words, facts = words_of(artwork), Facts.of(concept_table(), scene_words())
    captions = Captions(concept_table(), scene_words(), 2)
    rng = random.Random(1)
    tokenizer = kind([captions.draw(rng).text for _ in range(3000)] + list(words.meanings))
    subjects = (Subject("fox", "fox"), Subject("key", "key"))
    text = "a fox above a key in outline style on a blue background"
    said = Caption(text, subjects, 1, None, "above", "ink", "outline", "blue")
    labels = label_tokens([Lesson(said, (("fox",), ("key",)))], tokenizer, words.numbers, facts)
    ends = [end for _, end in tokenizer(text, return_offsets_mapping=True)["offset_mapping"]]
    at = {word: ends.index(text.index(word) + len(word)) for word in ("fox", "key", "style", "background")}
    fox, key = words.numbers["fox"], words.numbers["key"]
    assert labels.concepts[0, at["fox"]].nonzero().flatten().tolist() == [fox]
    assert labels.concepts[0, at["key"]].nonzero().flatten().tolist() == [key]
    assert labels.concepts[0, LENGTH - 1, [fox, key]].tolist() == [0.5, 0.5]
    assert labels.facts["slot"][0, [at["fox"], at["key"]]].tolist() == [0, 1]
    relation = facts.class_of("relation", "above")
    assert labels.facts["relation"][0, [at["fox"], at["key"]]].tolist() == [NOT_ASKED, relation]
    assert labels.facts["style"][0, at["key"]] == 0
    assert labels.facts["style"][0, at["style"]] == facts.class_of("style", "ink")
    assert labels.facts["background"][0, at["style"]] == 0
    assert labels.facts["background"][0, at["background"]] == facts.class_of("background", "blue")
    assert labels.facts["count"][0, at["key"]] == 0


def test_every_lesson_fits_and_is_labelled(artwork):
    words, facts = words_of(artwork), Facts.of(concept_table(), scene_words())
    captions = [Captions(concept_table(), scene_words(), rung) for rung in RUNGS]
    rng = random.Random(2)
    tokenizer = train_clip_tokenizer([captions[4].draw(rng).text for _ in range(3000)] + list(words.meanings))
    lessons = [draw_lesson(captions[i % 5], words, rng) for i in range(500)]
    assert max(len(ids) for ids in tokenizer([one.caption.text for one in lessons])["input_ids"]) <= LENGTH
    labels = label_tokens(lessons, tokenizer, words.numbers, facts)
    sums = labels.concepts.sum(-1)
    torch.testing.assert_close(sums[sums > 0], torch.ones(int((sums > 0).sum())))
    assert (sums[:, -1] > 0.99).all()


def test_effective_rank_counts_equal_directions():
    basis = torch.linalg.qr(torch.randn(64, 5))[0].T
    states = torch.cat([basis, -basis]) + torch.randn(64)
    assert effective_rank(states) == pytest.approx(5, abs=1e-3)
    stretched = torch.cat([basis, -basis]) * torch.tensor([100.0, 1, 1, 1, 1] * 2)[:, None]
    assert effective_rank(stretched) == pytest.approx(1, abs=0.05)


def test_an_export_takes_the_place_of_what_ships(tmp_path):
    export, worlds = tmp_path / "export", tmp_path / "worlds"
    for part in ship.INSTALLED:
        is_file = part.endswith(".safetensors")
        file = export / part if is_file else export / part / "weights.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"new!")
    (export / "vae" / ship.ROUND).write_text("of the round")
    (export / "judge-second.safetensors").write_bytes(b"a judge of judges")
    old = worlds / "moji/model/vae/shards/old.safetensors"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"old")
    assert ship.shipped_bytes(export) == 4 * len(ship.INSTALLED)
    ship.install(export, worlds)
    assert not old.parent.exists()
    assert {path.read_bytes() for path in worlds.rglob("*") if path.is_file()} == {b"new!"}
    assert len([path for path in worlds.rglob("*") if path.is_file()]) == len(ship.INSTALLED)
    (export / "judge-third.safetensors").unlink()
    with pytest.raises(SystemExit, match=r"is incomplete: judge-third\.safetensors"):
        ship.install(export, worlds)


def test_truths_of_a_scene_of_two():
    words = JudgeLabels.of(concept_table(), scene_words())
    scene = scene_with(sprite("fox", 0.25, 0.5, 0.5), sprite("key", 0.75, 0.5, 0.5), background="pink")
    truth = truth_of([scene], words)
    fox, key, nothing = words.objects.index("fox"), words.objects.index("key"), len(words.objects)
    assert truth.cells[0, 4, 1:3].tolist() == [fox, fox]
    assert truth.cells[0, 4, 5:7].tolist() == [key, key]
    assert (truth.cells[0, [0, 1, 6, 7]] == nothing).all()
    assert words.backgrounds[truth.background[0]] == "pink"
    assert (words.styles[truth.style[0]], int(truth.count[0])) == ("noto", 2)
    assert NOT_ASKED in truth.cells[0]


def test_words_come_from_the_cells_of_a_part():
    words = JudgeLabels.of(concept_table(), scene_words())
    scene = scene_with(sprite("fox", 0.25, 0.5, 0.5), sprite("key", 0.75, 0.25, 0.4))
    cells = truth_of([scene], words).cells
    cells[cells == NOT_ASKED] = len(words.objects)
    logits = 20 * torch.nn.functional.one_hot(cells, len(words.objects) + 1).permute(0, 3, 1, 2).float()
    sure = Answers(logits, torch.zeros(1, 9), torch.zeros(1, 9), 20 * torch.eye(4)[[2]])
    assert object_words(sure, words, LEFT) == ["fox"]
    assert object_words(sure, words, RIGHT) == ["key"]
    assert object_words(sure, words) == ["fox"]
    centre = object_centres(sure)[0, words.objects.index("key")]
    torch.testing.assert_close(centre, torch.tensor([0.75, 0.25]), atol=0.05, rtol=0)
    none = Answers(logits, sure.style, sure.background, 20 * torch.eye(4)[[0]])
    assert object_words(none, words) == ["nothing"]


@pytest.mark.parametrize("network", [ConvJudge, PatchJudge])
def test_judges_answer_all_questions(network):
    net = network(274, 8, 8).eval()
    answers = net(torch.rand(2, 3, 64, 64))
    assert answers.objects.shape == (2, 275, 8, 8)
    assert (answers.style.shape, answers.background.shape, answers.count.shape) == ((2, 9), (2, 9), (2, 4))
    assert net.embed(torch.rand(2, 3, 64, 64)).shape == (2, 256)


def test_distance_of_seeds():
    assert pixel_distance(torch.full((5, 3, 8, 8), 0.3)) == 0
    assert pixel_distance(torch.stack([torch.zeros(3, 8, 8), torch.full((3, 8, 8), 0.5)])) == pytest.approx(0.5)


def test_figures_of_a_bar():
    picture = torch.full((1, 3, 64, 64), 0.8)
    picture[..., 16:24, 8:40] = 0.1
    bar = figures(picture)
    assert float(bar.area) == pytest.approx(8 * 32 / 64**2)
    assert (float(bar.x), float(bar.y)) == (pytest.approx(0.375), pytest.approx(0.3125))
    assert float(bar.angle) == pytest.approx(0, abs=1e-3)
    assert abs(float(figures(picture.mT).angle)) == pytest.approx(90, abs=1e-3)


def test_two_samples_of_one_kind_agree_and_others_do_not():
    g = torch.Generator().manual_seed(0)
    one, same = torch.randn(2, 300, generator=g)
    assert two_sample(one, same)[1] > 0.05
    assert two_sample(one, same + 1)[1] < 1e-6


def test_copies_are_found():
    shown = torch.rand(40, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert new_share(shown[:10] + 0.001, shown) == 0
    assert new_share(torch.rand(10, 3, 64, 64) * 0.2, shown) == 1


@pytest.mark.parametrize("rung", RUNGS)
def test_questions_ask_what_a_rung_can_show_and_keep_held_out_pairs_apart(rung):
    asked = questions(concept_table(), scene_words(), 40, rung)
    assert all(question.seed >= REPORT_SEEDS for question in asked)
    assert all(
        question.seed < REPORT_SEEDS for question in questions(concept_table(), scene_words(), 5, rung, tuning=True)
    )
    lines = {question.line for question in asked}
    assert ("count" in lines) == ("left and right" in lines) == (rung >= 2)
    assert ("background" in lines) == (rung >= 1)
    labels = {label: entry for entry in concept_table().objects for label in entry.labels}
    for question in asked:
        entries = [labels[part[0]] for _, part in question.objects]
        if question.style:
            is_unseen = any(question.style in entry.unseen for entry in entries)
            assert is_unseen == (question.line == "unseen style")
        if question.background:
            unseen = scene_words()[question.background].unseen
            assert any(entry.name in unseen for entry in entries) == (question.line == "unseen background")


def test_pools_come_again_and_with_workers(artwork, monkeypatch):
    monkeypatch.setattr(pool, "PART", 12)
    vae = build((8, 8, 8, 8), 4).eval()

    def read(texts):
        return (torch.tensor([[float(len(text))] for text in texts]),)

    captions = Captions(concept_table(), scene_words(), 2)
    parts = (captions, artwork, vae, read, pool.Supply(8, 20, 6), 5, Place())
    one, other = pool.Pools(*parts), pool.Pools(*parts)
    assert one.size == 24
    last = one.size * 6 // 8
    one.at(0)
    torch.testing.assert_close(one.at(last).latents, other.at(last).latents)
    assert not torch.equal(one.at(last).latents, other.at(0).latents)
    texts, batch = other.drawer.scenes(other._seed(0))
    scenes = [scene_at(captions, other._seed(0), i) for i in range(24)]
    assert texts == [scene.caption.text for scene in scenes]
    expected = compose(artwork.pixels, batch_of(artwork.index, scenes))
    torch.testing.assert_close(compose(artwork.pixels, batch), expected)
    z, (lengths,) = pool.sample(other.at(0), 4000, 0.25, generator(3))
    assert z.shape == (4000, 4, 8, 8)
    assert float((lengths == 0).float().mean()) == pytest.approx(0.25, abs=0.03)


def test_random_numbers_depend_on_their_generator_alone():
    torch.testing.assert_close(normal((2, 3), generator(1, 2), "cpu"), normal((2, 3), generator(1, 2), "cpu"))
    assert not torch.equal(normal((2, 3), generator(1, 2), "cpu"), normal((2, 3), generator(2, 1), "cpu"))


def test_edges_are_differences_of_neighbours():
    x = torch.arange(6.0).view(1, 1, 2, 3)
    down, across = edges(x)
    assert down.flatten().tolist() == [3, 3, 3]
    assert across.flatten().tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("done", "top", "left", "rung"),
    [
        ([], 2, 4, 0),
        ([(0, 0.95)], 2, 3, 1),
        ([(0, 0.5)], 2, 3, 0),
        ([(0, 0.5), (0, 0.6)], 2, 2, 1),
        ([(0, 0.5), (0, 0.6), (1, 0.6)], 2, 1, 2),
        ([(0, 0.95), (1, 0.95), (2, 0.95)], 2, 1, 2),
    ],
)
def test_the_ladder_is_climbed_when_objects_stand_or_time_is_due(done, top, left, rung):
    slices = [{"rung": r, "objects": share} for r, share in done]
    assert next_rung(slices, top, left) == rung


def test_the_course_is_of_one_world(tmp_path):
    place = Place(state=tmp_path)
    record = Record(place, "one")
    record.finish("vae")
    record.add_slice("diffusion", 0, 0.5)
    again = Record(place, "one")
    assert again.is_complete("vae")
    assert again.slices("diffusion") == [{"rung": 0, "objects": 0.5}]
    with pytest.raises(SystemExit, match="another table or artwork"):
        Record(place, "two")
    assert json.loads((record.folder / "vae.json").read_text(encoding="utf-8"))["world"] == "one"


def test_a_round_is_taken_for_its_own_artwork_alone(artwork, tmp_path):
    vae = build((8, 8, 8, 8), 4)
    vae.save_pretrained(tmp_path / "rounds/vae")
    told = tmp_path / "rounds/vae/round.json"
    place = Place(state=tmp_path / "state")
    told.write_text(json.dumps({"stands_on": "another"}), encoding="utf-8")
    take_rounds(place, Record(place, "one"), artwork, tmp_path / "rounds")
    assert not (tmp_path / "state/vae").exists()
    told.write_text(json.dumps({"stands_on": artwork.hash}), encoding="utf-8")
    take_rounds(place, Record(place, "one"), artwork, tmp_path / "rounds")
    assert Record(place, "one").is_complete("vae")
    taken = type(vae).from_pretrained(tmp_path / "state/vae")
    torch.testing.assert_close(taken.decoder.conv_in.weight, vae.decoder.conv_in.weight)


def test_the_text_encoder_in_the_repository_spreads_its_objects(artwork, tmp_path):
    rounds, told = tmp_path / "rounds", tmp_path / "rounds/text/round.json"
    shutil.copytree(ROUNDS / "text", rounds / "text")
    place = Place(state=tmp_path / "state")
    take_rounds(place, Record(place, "one"), artwork, rounds)
    assert not (tmp_path / "state/text").exists(), "it stands on other artwork"
    told.write_text(json.dumps({"stands_on": world_hash(artwork)}), encoding="utf-8")
    take_rounds(place, Record(place, "one"), artwork, rounds)
    assert Record(place, "one").is_complete("clip")
    encoder = CLIPTextModel.from_pretrained(tmp_path / "state/text/text_encoder")
    assert encoder.dtype == torch.float32
    ranks = object_ranks(CLIPTokenizer.from_pretrained(tmp_path / "state/text/tokenizer"), encoder)
    assert all(rank > 140 for rank in ranks.values())


def test_the_round_in_the_repository_is_an_autoencoder_of_unit_latents():
    told = json.loads((ROUNDS / "vae/round.json").read_text(encoding="utf-8"))
    vae = AutoencoderKL.from_pretrained(ROUNDS / "vae", dtype=torch.float32).eval()
    assert vae.config.latent_channels == 16
    assert told["decibels"]["rung 2"] > 23
    assert sum(path.stat().st_size for path in (ROUNDS / "vae").iterdir()) < 12_000_000
    with torch.no_grad():
        white = torch.ones(1, 3, 64, 64)
        rebuilt = vae.decode(vae.encode(white).latent_dist.mean).sample
    assert float((rebuilt - white).square().mean()) < 0.01


def test_angles_of_figures_follow_the_drawing():
    picture = torch.full((1, 3, 64, 64), 1.0)
    for i in range(40):
        picture[..., 10 + i, 8 + i : 14 + i] = 0
    assert float(figures(picture).angle) == pytest.approx(45, abs=3)
    assert math.isfinite(float(figures(torch.ones(1, 3, 64, 64)).angle))
