"""T5 driven from its tensors is transformers' own, unmasked padding included."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from transformers import T5Config, T5EncoderModel

from tests import toy_text
from unconcept.core.errors import ModelError, RequestError
from unconcept.models.text.t5_encoder import T5Encoder
from unconcept.models.text.tokenizer import TextTokenizer

TEXTS = ["dog face", "", "a moon in the sky", "dog face"]


def built(kind: str = "gated-gelu", length: int = 40, dtype: torch.dtype = torch.float64, **more: int):
    torch.manual_seed(0)
    tokens = toy_text.t5(16)[1]
    shape = {
        "vocab_size": len(tokens),
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 24,
        "num_layers": 3,
        "num_heads": 2,
        "feed_forward_proj": kind,
    }
    module = T5EncoderModel(T5Config(**shape, **more)).to(dtype).eval()
    return module, T5Encoder(
        replace(TextTokenizer.of(tokens), length=length), dict(module.named_parameters()), module.config.to_dict()
    )


@pytest.mark.parametrize("kind", ["gated-gelu", "relu"])
@pytest.mark.parametrize(
    "more",
    [{}, {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20}],
    ids=["published", "few buckets"],
)
@pytest.mark.parametrize("length", [1, 40, 300])
@torch.no_grad()
def test_states_are_transformers(kind, more, length) -> None:
    """300 is past the farthest distance that has a bucket of its own."""
    module, text = built(kind, length, **more)
    ids = torch.randint(3, 40, (3, length), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(text.states(ids), module(ids)[0], atol=1e-12)


@torch.no_grad()
def test_named_positions() -> None:
    """Without a start token "" has its last subject token at -1, the last pad, as in UCE's script."""
    module, text = built()
    tokens = text.tokenizer(TEXTS)
    assert [len(row) for row in tokens.ids] == [10, 1, 19, 10]  # Letters, one before each word, and the end.
    assert tokens.index("last_subject") == [8, 39, 17, 8]
    assert tokens.index("first_eot") == [9, 0, 18, 9]
    whole = module(torch.tensor(tokens.padded()))[0]
    assert torch.allclose(text.embed(TEXTS, "all"), whole, atol=1e-12)
    for at in ("last_subject", "first_eot"):
        assert torch.allclose(text.embed(TEXTS, at), whole[range(4), tokens.index(at)], atol=1e-12)


@torch.no_grad()
def test_pads_change_every_state() -> None:
    """Why the text is never cut: without its pads it says something else."""
    _, text = built()
    _, shorter = built(length=20)
    assert not torch.allclose(
        text.embed(["dog face"], "last_subject"), shorter.embed(["dog face"], "last_subject"), atol=1e-3
    )


@torch.no_grad()
def test_many_texts_in_parts_are_the_same_states(monkeypatch) -> None:
    _, text = built()
    whole = text.embed(TEXTS, "all")
    monkeypatch.setattr("unconcept.models.text.t5_encoder._TEXTS_PER_BATCH", 2)
    assert torch.equal(text.embed(TEXTS, "all"), whole)


class Counted(Mapping[str, torch.Tensor]):
    def __init__(self, tensors) -> None:
        self.tensors, self.asked = tensors, []

    def __getitem__(self, name):
        self.asked.append(name)
        return self.tensors[name]

    def __contains__(self, name) -> bool:
        return name in self.tensors

    def __iter__(self):
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


@torch.no_grad()
def test_each_layers_tensors_are_asked_for_once_and_in_order() -> None:
    _, text = built()
    counted = Counted(text.weights)
    T5Encoder(text.tokenizer, counted, text.config).states(torch.randint(3, 40, (200, 40)))
    layers = [int(name.split(".")[2]) for name in counted.asked if ".layer." in name and "bias" not in name]
    assert layers == sorted(layers)
    assert len(layers) == len({name for name in counted.asked if ".layer." in name and "bias" not in name})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_keeps_its_sums_wide(dtype) -> None:
    """States that outgrow float16 between layers, as T5-XXL's do, come out finite and near."""
    module, text = built(dtype=torch.float32)
    module.encoder.block[1].layer[1].DenseReluDense.wo.weight.data.mul_(3e5)
    ids = torch.tensor(text.tokenizer(TEXTS).padded())
    exact = text.states(ids)
    half = T5Encoder(text.tokenizer, {name: w.to(dtype) for name, w in text.weights.items()}, text.config)
    if dtype == torch.float16:
        wide = {name: w if "DenseReluDense.wo" in name else w.half() for name, w in text.weights.items()}
        half = T5Encoder(text.tokenizer, wide, text.config)
    found = half.states(ids)
    assert found.dtype == dtype
    assert torch.isfinite(found).all()
    assert (found.float() - exact).norm() / exact.norm() < 0.05


def test_what_it_cannot_do_is_said() -> None:
    _, text = built()
    with pytest.raises(RequestError, match="the text encoder holds 40"):
        text.embed(["a" * 50], "all")
    with pytest.raises(ModelError, match="'gated-silu' is unknown"):
        T5Encoder(text.tokenizer, text.weights, {**text.config, "feed_forward_proj": "gated-silu"}).embed(["a"], "all")


@torch.no_grad()
@pytest.mark.parametrize("at", ["all", "last_subject", "first_eot"])
def test_masked_padding_is_not_attended_to(at) -> None:
    """A named position is read of the text's own tokens, and is a row of the whole all the same."""
    module, ours = built()
    masked = replace(ours, tokenizer=replace(ours.tokenizer, is_masked=True))
    tokens = masked.tokenizer(TEXTS)
    theirs = module(torch.tensor(tokens.padded()), attention_mask=torch.tensor(tokens.mask()))[0]
    wanted = theirs if at == "all" else theirs[range(len(TEXTS)), tokens.index(at)]
    assert torch.allclose(masked.embed(TEXTS, at), wanted, atol=1e-12)
    assert not torch.allclose(ours.embed(TEXTS[:1], at), wanted[:1], atol=1e-3)
    assert tokens.index("last_subject")[1] == 0, "the end token of an empty text, where nothing else is read"
