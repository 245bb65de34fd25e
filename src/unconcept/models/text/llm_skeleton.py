"""Language models without weights, by their configs: what is computed, and which tensors it needs."""

import json
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from ...core.errors import ModelError, require

TOKEN_TABLE = "embed_tokens.weight"


def language_skeleton(config: Mapping[str, Any]) -> tuple[nn.Module, nn.Module]:
    """The language model of a config.json without weights, and its rotary embedding, which has none."""
    return _skeleton(json.dumps(config, sort_keys=True, default=str))


def language_tensors(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a language model's tensors by its config.json."""
    for name, parameter in language_skeleton(config)[0].named_parameters():
        yield name, tuple(parameter.shape)


@lru_cache(maxsize=4)
def _skeleton(config: str) -> tuple[nn.Module, nn.Module]:
    from transformers import AutoModel

    told = language_config(json.loads(config))
    with torch.device("meta"):
        model = AutoModel.from_config(told).eval()
    return model, type(model.rotary_emb)(config=told)


def language_config(config: Mapping[str, Any]) -> Any:
    """transformers' config of the language model in a config.json; `ModelError` if it does not know it."""
    from transformers import AutoConfig

    given = deepcopy(dict(config))
    kind = str(given.pop("model_type", None))
    try:
        told = AutoConfig.for_model(kind, **given).get_text_config()
    except Exception as error:  # Any value of a config may be anything.
        reason = str(error).strip().partition("\n")[0][:200]
        message = f"the text encoder's config.json, of kind {kind!r}, is none of a language model ({reason})"
        raise ModelError(f"{message}: give the model's own one") from None
    return told


def language_prefix(names: Mapping[str, object]) -> str:
    """What stands before the names of a language model's tensors: several classes and releases nest it differently."""
    found = [name.removesuffix(TOKEN_TABLE) for name in names if re.search(rf"(^|\.){re.escape(TOKEN_TABLE)}$", name)]
    require(len(found) == 1, f"the text encoder has {len(found)} tables named {TOKEN_TABLE}: give one", ModelError)
    return found[0]
