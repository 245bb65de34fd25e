"""The weights that ship: small together, of this table, complete, and drawn by the stock pipelines as by ours."""

import json
from importlib import resources
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from safetensors import safe_open
from transformers import CLIPTextModel, CLIPTokenizer

from unconcept.evaluation.sampling import draw_prompts, initial_noise, spec_for
from unconcept.models import open_model
from unconcept.prompts.checks import Prompt
from unconcept.scorers.moji_judge import JudgeScore
from unconcept.worlds import folder
from unconcept.worlds.registry import JUDGE_WEIGHTS, METHOD_JUDGE_WEIGHTS, worlds
from unconcept.worlds.scenes import scene_words
from unconcept.worlds.table import concept_table
from world.spread import object_ranks

WORLDS = Path(str(resources.files("unconcept.worlds")))


def test_all_weights_together_are_small() -> None:
    files = [*WORLDS.rglob("*.safetensors")]
    assert len(files) == 7
    assert sum(path.stat().st_size for path in files) < 95_000_000
    for path in files:
        with safe_open(path, "pt") as file:
            assert {file.get_tensor(name).dtype for name in file.keys()} <= {torch.float16, torch.int64}


@pytest.mark.parametrize("path", [JUDGE_WEIGHTS, METHOD_JUDGE_WEIGHTS], ids=lambda path: path.stem)
def test_judges_know_the_tables(path) -> None:
    with safe_open(path, "pt") as file:
        told = file.metadata()
    assert (told["table"], told["scenes"]) == (concept_table().hash, scene_words().hash)


def test_states_of_objects_fill_many_directions() -> None:
    place = folder("moji")
    tokenizer = CLIPTokenizer.from_pretrained(place / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(place / "text_encoder", dtype=torch.float32).eval()
    assert min(object_ranks(tokenizer, encoder).values()) >= 140


def test_the_flow_model_shares_what_moji_ships() -> None:
    place, moji = folder("moji-flow"), folder("moji")
    index = json.loads((place / "model_index.json").read_text(encoding="utf-8"))
    parts = [part for part, kind in index.items() if isinstance(kind, list) and kind[0] is not None]
    assert sorted(parts) == sorted(path.name for path in place.iterdir() if path.is_dir())
    for part in ("vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        assert (place / part).read_bytes() == (moji / part).read_bytes()
    assert json.loads((place / "vae/config.json").read_text(encoding="utf-8"))["shift_factor"] == 0.0
    assert not {"vae", "text_encoder", "tokenizer"} & {
        path.name for path in worlds["moji-flow"].shipped_folder.iterdir()
    }


def test_the_stock_pipeline_draws_what_the_flow_model_draws() -> None:
    view, scale = open_model("moji-flow", "cpu", "float32"), spec_for("moji-flow").guidance_scale
    prompts = [Prompt("a fox in ink style", 1), Prompt("two keys on a blue background", 2)]
    spec = spec_for("moji-flow", steps=3)
    ours = draw_prompts(view, prompts, spec)
    pipe = FluxPipeline.from_pretrained(folder("moji-flow"), dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.stack([initial_noise(prompt.seed, view.latent_shape) for prompt in prompts])
    (theirs,) = pipe(
        [prompt.text for prompt in prompts],
        negative_prompt=["", ""],
        true_cfg_scale=scale,
        height=64,
        width=64,
        max_sequence_length=32,
        num_inference_steps=3,
        latents=FluxPipeline._pack_latents(noise, *noise.shape),
        output_type="pt",
        return_dict=False,
    )
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("name", list(worlds))
def test_pictures_show_what_captions_say_and_chance_decides_the_rest(name) -> None:
    """Of three seeds most show the object and all differ, though nothing but the noise does."""
    view, judge = open_model(name, "cpu", "float32"), JudgeScore()
    few = spec_for(name, steps=min(8, spec_for(name).steps))
    pictures = draw_prompts(view, [Prompt("a fox in noto style", 1_000_000 + seed) for seed in range(3)], few)
    said = [judge.answer(row, "object") for row in judge.score(pictures, ["scene"] * 3)]
    assert said.count("fox") >= 2
    assert torch.pdist(pictures.flatten(1)).min() / pictures[0].numel() ** 0.5 > 0.02
    assert torch.pdist(pictures.flatten(1)).mean() / pictures[0].numel() ** 0.5 > 0.1
