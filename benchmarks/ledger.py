"""CPU seconds of one more request in a ledger of UCE at SD 1.4's text width: `python -m benchmarks.ledger --out
FOLDER`.

A request is appended, the state folded and the text map written, in one process on one thread, after imports. The text
encoder is one layer of CLIP's width, so that what is timed is the ledger; the encoding it still holds is told apart.
The UNet has the 32 text maps of SD 1.4 in name and width d = 768; no closed form on the text reads more of them.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from unconcept.core.request import Request
from unconcept.ledger.fold import fold_requests
from unconcept.ledger.ledger import EntryNote, Ledger, create_ledger
from unconcept.ledger.operations import add_request
from unconcept.ledger.policy import LedgerPolicy
from unconcept.models import find_model
from unconcept.models.views.unet import UNetView
from unconcept.report.environment import peak_memory_bytes

WIDTH = 768
ROUNDS = 3
POINTS = (1, 10, 100, 300, 500, 768, 1000, 1500, 2000, 2500, 3000)


def model() -> UNetView:
    """Random weights; text states of the size that CLIP's have."""
    torch.manual_seed(0)
    tokens = CLIPTokenizer.from_pretrained(find_model("moji") / "tokenizer", local_files_only=True)
    shape = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 12}
    encoder = CLIPTextModel(
        CLIPTextConfig(vocab_size=len(tokens), eos_token_id=tokens.eos_token_id, initializer_range=0.5, **shape)
    ).eval()
    blocks = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    net = UNet2DConditionModel(
        block_out_channels=(32, 32, 32, 32),
        down_block_types=blocks[0],
        up_block_types=blocks[1],
        cross_attention_dim=WIDTH,
    )
    vae = AutoencoderKL(block_out_channels=(32,))
    return UNetView.from_pipeline(
        StableDiffusionPipeline(vae, encoder, tokens, net, DDIMScheduler(), None, None, requires_safety_checker=False),
        "sd14-shape",
    )


def request(number: int) -> Request:
    """Words that no other request has: thousands of targets of one, two or three tokens."""
    letters = "bcdfghklmnprstvw"
    name = "".join(letters[number // 16**i % 16] + "aeiou"[number // 5**i % 5] for i in range(3))
    return Request((f"{name} {number}",), ("art",), ("a tree", "a house", "a person"))


def median_of_each(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The median over rounds of each figure."""
    found = {}
    for name in rounds[0]:
        found[name] = statistics.median([each[name] for each in rounds])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--most", type=int, default=3000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    view, rows = model(), []
    print(f"{len(view.text_maps())} text maps, d = {WIDTH}")
    with TemporaryDirectory() as folder:
        ledger, number, appended = (
            create_ledger(Path(folder) / "ledger", view, "uce", {}, LedgerPolicy(), EntryNote()),
            0,
            0.0,
        )
        for point in [p for p in POINTS if p <= args.most]:
            while number < point - 1:
                one(ledger, view, number := number + 1)
            rounds = [timed(ledger, view, number := number + 1, Path(folder)) for _ in range(ROUNDS)]
            size = sum(path.stat().st_size for path in ledger.folder.rglob("*") if path.is_file())
            found = median_of_each(rounds)
            rows.append({"requests": number - ROUNDS + 1, **found, "disk_bytes_per_request": size / number})
            print(json.dumps(rows[-1]))
        begun = time.process_time()
        cold = Ledger.open(ledger.folder)
        appended = time.process_time() - begun
        begun = time.process_time()
        fold_requests(cold, view)
        print(
            f"opened cold: {appended:.3f} CPU s for {number} requests, folded after {time.process_time() - begun:.3f}"
            " CPU s more"
        )
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "ledger.json").write_text(json.dumps(rows, indent=2))
    print(f"peak memory {peak_memory_bytes() / 2**20:.0f} MiB -> {args.out / 'ledger.json'}")


def one(ledger: Ledger, view: UNetView, number: int) -> None:
    asked = request(number)
    add_request(ledger, view, asked.targets, asked, "uce", {}, EntryNote("benchmark"))


def timed(ledger: Ledger, view: UNetView, number: int, folder: Path) -> dict[str, float]:
    asked, clock = request(number), time.process_time
    begun = clock()
    view.embed(asked.targets)
    encoded = clock() - begun
    begun = clock()
    one(ledger, view, number)
    added = clock() - begun
    begun = clock()
    state = fold_requests(ledger, view)
    folded = clock() - begun
    begun = clock()
    state.edit.save(folder / "edit.safetensors")
    written = clock() - begun
    return {
        "append": added,
        "fold": folded,
        "write": written,
        "all": added + folded + written,
        "encode_one_text": encoded,
    }


if __name__ == "__main__":
    main()
