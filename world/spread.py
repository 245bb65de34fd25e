"""How many directions the text states of the objects fill: `python -m world.spread [--model FOLDER]`.

The state of an object is that of its name's last token. The effective rank is the exponential of the entropy of the
centred states' spectrum (energies, summing to 1).
"""

import argparse
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, PreTrainedTokenizerBase, T5EncoderModel

from unconcept.worlds.scenes import one_phrase
from unconcept.worlds.table import concept_table

from .tokenizer import LENGTH


def spectrum_entropy(states: Tensor) -> Tensor:
    """Entropy of the spectrum of centred states (n, d), differentiable."""
    centred = states - states.mean(0)
    gram = centred @ centred.T if len(states) <= states.shape[1] else centred.T @ centred
    energy = torch.linalg.eigvalsh(gram).clamp_min(0)
    share = energy / energy.sum()
    return -(share * share.clamp_min(1e-12).log()).sum()


def effective_rank(states: Tensor) -> float:
    """Directions that centred states (n, d) fill, from 1 to n - 1."""
    return float(spectrum_entropy(states.double()).exp())


@torch.no_grad()
def name_states(
    tokenizer: PreTrainedTokenizerBase, encoder: CLIPTextModel | T5EncoderModel, texts: list[str]
) -> Tensor:
    """The state of the last token before the end of each text."""
    coded = tokenizer(texts, padding="max_length", max_length=LENGTH)
    last = torch.tensor(coded["attention_mask"]).sum(1) - 2
    ids = torch.tensor(coded["input_ids"], device=encoder.device)
    return encoder(ids).last_hidden_state[torch.arange(len(texts)), last].float().cpu()


def object_ranks(tokenizer: PreTrainedTokenizerBase, encoder: CLIPTextModel | T5EncoderModel) -> dict[str, float]:
    """Effective ranks of the objects' states, without and with an article."""
    names = [entry.name for entry in concept_table().objects]
    texts = {"NAME": names, "a NAME": [one_phrase(name) for name in names]}
    return {form: effective_rank(name_states(tokenizer, encoder, members)) for form, members in texts.items()}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shipped = Path(str(resources.files("unconcept.worlds"))) / "moji" / "model"
    parser.add_argument("--model", type=Path, default=shipped, help="folder with tokenizer and text_encoder")
    args = parser.parse_args(argv)
    tokenizer = CLIPTokenizer.from_pretrained(args.model / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(args.model / "text_encoder", dtype=torch.float32).eval()
    width = encoder.config.hidden_size
    for form, rank in object_ranks(tokenizer, encoder).items():
        print(f"effective rank of the objects, {form!r}: {rank:.1f} of {width}")


if __name__ == "__main__":
    main()
