"""Text encoders of every kind at toy size, with their tokenizers."""

import re

from tokenizers import pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTokenizer,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from unconcept.models.families import families

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 24


def tokenizer(pad: str = END) -> CLIPTokenizer:
    """One token a letter; the last letter of a word has its own."""
    words = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "!</w>", START, END]
    return CLIPTokenizer(
        vocab={word: i for i, word in enumerate(words)},
        merges=[],
        model_max_length=LENGTH,
        unk_token=END,
        pad_token=pad,
    )


def text_config(tokens: CLIPTokenizer, width: int, act: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        hidden_act=act,
        projection_dim=width,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )


def t5(width: int) -> tuple[T5EncoderModel, T5TokenizerFast]:
    """T5 v1.1's shape; one token a letter, and one for what stands before a word."""
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0), *((letter, -3.0) for letter in LETTERS)]
    tokens = T5TokenizerFast(vocab=vocab, extra_ids=0, model_max_length=512)
    shape = {"vocab_size": len(tokens), "d_model": width, "d_kv": 8, "d_ff": 2 * width, "num_layers": 2, "num_heads": 4}
    return T5EncoderModel(T5Config(**shape, feed_forward_proj="gated-gelu")), tokens


_CHAT = """{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% endif %}{% endif %}"""


def chat_tokenizer(*words: str) -> Qwen2Tokenizer:
    """Qwen's: one token a byte, or for each of the words, and a chat template; a word may begin with a space."""
    vocab = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = []
    for word in words:
        bytes_of_word = word.replace(" ", "\u0120").replace("\n", "\u010a")  # as byte-pair files write them
        for end in range(2, len(bytes_of_word) + 1):
            merges.append((bytes_of_word[: end - 1], bytes_of_word[end - 1]))
            vocab.setdefault(bytes_of_word[:end], len(vocab))
    turns = ["<|im_start|>", "<|im_end|>"]
    tokens = Qwen2Tokenizer(vocab=vocab, merges=list(dict.fromkeys(merges)), extra_special_tokens=turns)
    tokens.chat_template = _CHAT
    return tokens


def qwen3(width: int, layers: int = 2) -> tuple[Qwen3Model, Qwen2Tokenizer]:
    """Qwen3's shape, with heads that are shared by queries."""
    tokens = chat_tokenizer("user", "assistant")
    shape = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokens.pad_token_id)
    return Qwen3Model(Qwen3Config(vocab_size=len(tokens), **shape, **heads, **special)), tokens


_INSTRUCTIONS = """<s>{% for message in messages %}\
{% set name = "SYSTEM_PROMPT" if message.role == "system" else "INST" %}\
[{{ name }}]{% if message.content is string %}{{ message.content }}{% else %}{{ message.content[0].text }}{% endif %}\
[/{{ name }}]{% endfor %}"""


def mistral3(width: int, layers: int) -> tuple[Mistral3ForConditionalGeneration, Qwen2Tokenizer]:
    """Mistral 3's shape, with a tower for pictures; its tokenizer pads on the left, as the published one."""
    marks = ["[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[IMG]"]
    vocab = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    special = {"bos_token": "<s>", "pad_token": "<pad>", "extra_special_tokens": marks}
    tokens = Qwen2Tokenizer(vocab=vocab, merges=[], padding_side="left", **special)
    tokens.chat_template = _INSTRUCTIONS
    shape = {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": 2}
    own = {"vocab_size": len(tokens), "num_hidden_layers": layers, "num_key_value_heads": 1, "head_dim": 8}
    text = {"model_type": "mistral", **shape, **own}
    vision = {"model_type": "pixtral", "num_hidden_layers": 1, "image_size": 16, "patch_size": 8, **shape}
    image = tokens.convert_tokens_to_ids("[IMG]")
    config = Mistral3Config(text_config=text, vision_config={**vision, "head_dim": width // 2}, image_token_index=image)
    return Mistral3ForConditionalGeneration(config), tokens


def qwen25_vl() -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer]:
    """With one token for each word of Qwen-Image's template, which has 34 of them before the prompt."""
    front = families["qwenimage"].encoders[0].template.text.partition("{}")[0]
    tokens = chat_tokenizer(*re.findall(r" ?[a-zA-Z]+", re.sub(r"<\|im_\w+\|>", "", front)), "assistant")
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokens.pad_token_id)
    shape = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    text = {"vocab_size": len(tokens), "rope_parameters": rope, **shape, **heads, **special}
    vision = {"depth": 1, "hidden_size": 16, "out_hidden_size": 48, "num_heads": 2, "fullatt_block_indexes": [0]}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision | {"intermediate_size": 16})
    return Qwen2_5_VLForConditionalGeneration(config), tokens
