"""A language model's layer whose matrices are read one after another computes what transformers' layer does."""

from weakref import ReferenceType, ref

import pytest
import torch

from tests.models.test_llm_text import language_model
from unconcept.models.text import llm_layer
from unconcept.models.text.llm_layer import LlmLayer
from unconcept.models.text.llm_skeleton import language_skeleton


class _Read(dict):
    """Tensors by name that count which of a layer's matrices are alive together."""

    def __init__(self, tensors) -> None:
        super().__init__(tensors)
        self.alive, self.together = list[tuple[str, ReferenceType]](), set[frozenset[str]]()

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = super().__getitem__(name).detach().clone()
        self.alive.append((name.split(".")[-2], ref(tensor)))
        matrices = (part for part, reference in self.alive if reference() is not None and part.endswith("proj"))
        self.together.add(frozenset(matrices))
        return tensor


@torch.no_grad()
@pytest.mark.parametrize("kind", ["qwen3", "qwen2.5-vl"])
def test_the_states_are_those_of_the_whole_layer_to_the_bit(kind, monkeypatch) -> None:
    model = language_model(kind)
    skeleton, rotary = language_skeleton(model.config.to_dict())
    layer = skeleton.get_submodule("layers.1")
    whole = {name: tensor for name, tensor in model.named_parameters() if ".layers.1." in f".{name}"}
    prefix = next(iter(whole)).partition("layers.1.")[0] + "layers.1."
    states = [torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(seed)) for seed in range(5)]
    places = torch.arange(8)[None]
    turns = [rotary(states[0], places.expand(3, -1, -1) if kind == "qwen2.5-vl" else places)] * 5
    masks = [None, *[torch.ones(8, 8, dtype=torch.bool).tril()[None, None]] * 4]
    wanted = [
        torch.func.functional_call(
            layer,
            {name.removeprefix(prefix): tensor for name, tensor in whole.items()},
            (each,),
            {"attention_mask": mask, "position_embeddings": turn},
        )
        for each, mask, turn in zip(states, masks, turns, strict=True)
    ]
    inner = layer.get_submodule("mlp.gate_proj").get_parameter("weight").shape[0]
    monkeypatch.setattr(llm_layer, "_INNER_BYTES", 2 * 16 * inner * 4)
    read = _Read(whole)
    LlmLayer(layer, read, prefix).forward(states, masks, turns)
    for found, each in zip(states, wanted, strict=True):
        assert torch.equal(found, each)
    mlp = {frozenset([name]) for name in ("gate_proj", "up_proj", "down_proj")}
    assert {each for each in read.together if not each.isdisjoint({"gate_proj", "up_proj", "down_proj"})} == mlp
    assert sum(part == "up_proj" for part, _ in read.alive) == 3  # Two blocks, two blocks and one.
