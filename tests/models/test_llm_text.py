"""Language models as text encoders: states are those of transformers, and a text's tokens are found in its template."""

from dataclasses import replace
from functools import cache
from weakref import ReferenceType, ref

import pytest
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from tests import toy_text
from unconcept.core.errors import ModelError, RequestError
from unconcept.models.family import TextEncoderSpec, TextTemplate
from unconcept.models.text.llm_encoder import LlmEncoder
from unconcept.models.text.llm_skeleton import language_tensors
from unconcept.models.text.templates import load_chat_tokenizer
from unconcept.models.text.tokenizer import TextTokenizer
from unconcept.models.text.vocabulary import pad_ids, special_ids, text_of_ids, untypable_ids, word_ids

CHAT = TextTemplate(options={"add_generation_prompt": True, "enable_thinking": True})
PLAIN = TextTemplate("<|im_start|>system\nLook:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n", cut=4)
TEXTS = ["dog", "", " a dog's caf\u00e9", "x" * 40]
SPEC = TextEncoderSpec("text_encoder", kind="llm", length=64, is_masked=True)


def tokens_of(template: TextTemplate = CHAT, spec: TextEncoderSpec = SPEC) -> TextTokenizer:
    return TextTokenizer.of(toy_text.chat_tokenizer("user", "assistant"), template).given_to(spec)


@cache
def language_model(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if kind == "qwen3":
        return toy_text.qwen3(32, layers=4)[0].eval()
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0)
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    text = {"vocab_size": 300, "num_hidden_layers": 2, "rope_parameters": rope, **shape, **ids}
    vision = {"depth": 1, "hidden_size": 16, "out_hidden_size": 32, "num_heads": 2, "fullatt_block_indexes": [0]}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision)).eval()


def encoder_of(model: torch.nn.Module, tokens: TextTokenizer, layers: tuple[int, ...]) -> LlmEncoder:
    return LlmEncoder(tokens, dict(model.named_parameters()), model.config.to_dict(), layers)


@torch.no_grad()
@pytest.mark.parametrize("template", [CHAT, PLAIN], ids=["chat", "cut"])
@pytest.mark.parametrize("kind", ["qwen3", "qwen2.5-vl"])
def test_states_are_those_of_transformers(kind, template) -> None:
    """Of texts of several lengths in one padded batch, whatever is read of them; nothing is computed of padding."""
    model, tokens = language_model(kind), tokens_of(template)
    cut = torch.tensor([tokens.cut] * len(TEXTS), dtype=torch.long)
    ids, mask = (torch.tensor(rows) for rows in (tokens(TEXTS).padded(), tokens(TEXTS).mask()))
    whole, seen = torch.cat([cut, ids], 1), torch.cat([torch.ones_like(cut), mask], 1)
    states = model(whole, attention_mask=seen, output_hidden_states=True).hidden_states
    for layers in ((-2,), (-1,), (0, 1, 2)):
        encoder = encoder_of(model, tokens, layers)
        theirs = torch.cat([states[k] for k in layers], -1)[:, cut.shape[1] :] * mask[..., None]
        assert torch.allclose(encoder.embed(TEXTS, "all"), theirs, atol=1e-6)
        for at in ("last_subject", "first_eot"):
            index = tokens(TEXTS).index(at)
            assert torch.allclose(encoder.embed(TEXTS, at), theirs[range(len(TEXTS)), index], atol=1e-6)


@torch.no_grad()
def test_padding_that_is_read_is_computed() -> None:
    """As by FLUX.2, whose states are of several layers side by side, padding and all."""
    model, tokens = language_model("qwen3"), replace(tokens_of(), reads_padding=True)
    ids, mask = (torch.tensor(rows) for rows in (tokens(TEXTS).padded(), tokens(TEXTS).mask()))
    states = model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    found = encoder_of(model, tokens, (1, 2, 3)).embed(TEXTS, "all")
    assert torch.allclose(found, torch.cat([states[k] for k in (1, 2, 3)], -1), atol=1e-6)


@torch.no_grad()
def test_padding_before_a_text_is_computed_once(monkeypatch) -> None:
    """It attends to nothing. What the states are is tested against FLUX.2's pipeline."""
    plain, counts = tokens_of(spec=replace(SPEC, length=2048)), list[int]()
    assert plain.frame is not None
    tokens = replace(plain, reads_padding=True, frame=replace(plain.frame, pads_left=True))
    layers = LlmEncoder._layers

    def counted(encoder, blocks):
        counts.extend(block.ids.numel() for block in blocks)
        return layers(encoder, blocks)

    monkeypatch.setattr(LlmEncoder, "_layers", counted)
    states = encoder_of(language_model("qwen3"), tokens, (1,)).embed(TEXTS, "all")
    assert states.shape[:2] == (len(TEXTS), 2048)
    assert torch.equal(states[0, 0], states[3, 1000])
    assert sum(counts) < 1024


@torch.no_grad()
def test_a_state_does_not_depend_on_the_texts_beside_it() -> None:
    encoder = encoder_of(language_model("qwen3"), tokens_of(), (-2,))
    for at in ("all", "last_subject"):
        whole = encoder.embed(TEXTS, at)
        for i, text in enumerate(TEXTS):
            assert torch.equal(whole[i : i + 1], encoder.embed([text], at))


def test_layers_after_the_last_one_used_are_not_read() -> None:
    model = language_model("qwen3")
    read = {name: tensor for name, tensor in model.named_parameters() if not name.startswith(("layers.3", "norm"))}
    LlmEncoder(tokens_of(), read, model.config.to_dict(), (-2,)).embed(TEXTS, "last_subject")
    assert {name: tuple(t.shape) for name, t in model.named_parameters()} == dict(
        language_tensors(model.config.to_dict())
    )


def test_one_layer_is_in_memory_at_a_time() -> None:
    """And of the table of words, which may be larger than a layer, no tensor stays."""
    model, alive = language_model("qwen3"), list[tuple[str, ReferenceType]]()

    class Read(dict):
        def __getitem__(self, name):
            held = {other.split(".")[1] for other, tensor in alive if tensor() is not None}
            assert held <= {name.split(".")[1]}
            tensor = super().__getitem__(name).detach().clone()
            alive.append((name, ref(tensor)))
            return tensor

    with torch.no_grad():
        LlmEncoder(tokens_of(), Read(model.named_parameters()), model.config.to_dict(), (1, 3)).embed(TEXTS, "all")
    assert sum(name.endswith("q_proj.weight") for name, _ in alive) == 3


@pytest.mark.parametrize("template", [CHAT, PLAIN], ids=["chat", "cut"])
def test_a_text_is_found_in_its_template(template) -> None:
    """Its own ids are between the template's; the empty text has the first token after it as subject."""
    tokens = tokens_of(template)
    front, back = tokens.around
    assert tokens.end == back[0] == tokens.tokenizer.token_to_id("<|im_end|>")
    assert tokens([""]).ids == ((*front, *back),) == (special_ids(tokens),)
    assert tokens([""]).index("last_subject") == tokens([""]).index("first_eot") == [len(front)]
    (row,) = tokens(["dog"]).ids
    assert word_ids(tokens, "dog") == row[len(front) : -len(back)]
    assert text_of_ids(tokens, word_ids(tokens, "a dog's caf\u00e9")) == "a dog's caf\u00e9"
    assert row[tokens(["dog"]).index("last_subject")[0]] == tokens.tokenizer.token_to_id("g")
    assert row[tokens(["dog"]).index("first_eot")[0]] == tokens.end
    assert pad_ids(tokens, [word_ids(tokens, "dog")]).tolist() == tokens(["dog"]).padded()
    for form in ("{}", "a {} in", "{}s", "of {}"):
        (whole,) = tokens([form.replace("{}", "dog")]).ids
        assert tokens.tokenizer.decode([whole[i] for i in tokens.span(form, "dog")]) == "dog"
    assert {tokens.end, tokens.pad} <= {*untypable_ids(tokens)}


def test_a_word_that_is_merged_with_its_space_is_found_by_its_characters() -> None:
    tokens = TextTokenizer.of(toy_text.chat_tokenizer("user", " dog"), CHAT).given_to(SPEC)
    (whole,) = tokens(["a dog"]).ids
    assert [tokens.tokenizer.decode([whole[i]]) for i in tokens.span("a {}", "dog")] == [" dog"]
    assert whole[tokens(["a dog"]).index("last_subject")[0]] == tokens.tokenizer.token_to_id("\u0120dog")


def test_bad_templates_and_texts(tmp_path) -> None:
    loaded = toy_text.chat_tokenizer("user")
    with pytest.raises(ModelError, match="puts 11 tokens before a prompt, and the pipeline drops the first 34"):
        TextTokenizer.of(toy_text.chat_tokenizer("user"), TextTemplate("<|im_start|>user\nLook up {}", cut=34))
    loaded.chat_template = "{% for m in messages %}{{ m.role }}{% endfor %}"
    with pytest.raises(ModelError, match="chat template leaves out or changes the prompt"):
        TextTokenizer.of(loaded, CHAT)
    loaded.chat_template = None
    with pytest.raises(ModelError, match="has no chat template"):
        TextTokenizer.of(loaded, CHAT)
    merging = TextTokenizer.of(toy_text.chat_tokenizer("user", "\n\n"), PLAIN).given_to(SPEC)
    with pytest.raises(RequestError, match="not found in the model's template"):
        merging(["\ndog"])
    with pytest.raises(RequestError, match="tokens long, the text encoder holds 64"):
        tokens_of()(["x" * 80])
    with pytest.raises(ModelError, match="give a complete diffusers folder"):
        load_chat_tokenizer(tmp_path)
    with pytest.raises(ModelError, match="of kind 'other', is none of a language model"):
        dict(language_tensors({"model_type": "other"}))
