"""A tiny random instance of any causal language model class: the sizes in its configuration, made small by their names.

Rules (layers, heads, widths, ...) are for all classes at once; no class has one of its own.
Configurations whose parts must fit together in another way get the next of a few sets of rules.
"""

import copy
import dataclasses
import re

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from lib.data import named

KINDS = tuple(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)  # model types
VOCABULARY, WIDTH = 203, 32
LARGEST = 30_000_000  # parameters of what is still made
LAYERS, HEADS, GROUPS = r".*(layers?|depth|num_blocks)", r".*heads?", r".*(kv|key_value|query_groups).*(heads|num).*"
SIZES = {
    r".*vocab(_size)?(_.*)?": VOCABULARY,
    r".*(first_k_dense|num_dense|dense_layers).*": 1,
    r".*shared_layers": 0,
    LAYERS: 2,
    r".*(per_tok|top_?k|moe_k|n_group|expert_group).*": 1,
    r".*experts.*": 4,
    GROUPS: 2,
    r".*(head_dim|head_size|kv_channels|headdim|d_head|d_kv|rotary_dim|rank|state_size|d_state).*": 8,
    HEADS: 4,
    r".*(intermediate_size|ffn_dim|ffn_hidden_size|n_inner|d_ff|hidden_dim|d_ssm).*": 64,
    r".*(hidden_size|embed_dim|embedding_size|n_embd|d_model|width|word_embed_proj_dim|emb_dim|embds_dim).*": WIDTH,
    r"n_positions|n_ctx|max_position_embeddings|.*max_seq_len.*": 64,
}
CHANGES = ({}, {HEADS: 8}, {GROUPS: 4}, {LAYERS: 6}, {LAYERS: 3})
TRIES = [(SIZES | change, *way) for way in ((False, None), (True, None), (False, -2), (True, 2)) for change in CHANGES]


def made(kind: str) -> PreTrainedModel:
    """A model of that type, in evaluation mode. Raises ValueError with the first reason where none can be made."""
    reasons = []
    for sizes, unset, kept in TRIES:
        try:
            return _alive(_model(kind, sizes, unset, kept))
        except ImportError as error:
            raise ValueError(named.line(error)) from error
        except Exception as error:  # each class refuses sizes in its own way
            reasons.append(f"{type(error).__name__}: {named.line(error)}")
    raise ValueError(reasons[0])


def _model(kind, sizes, unset, kept):
    default = AutoConfig.for_model(kind)
    found = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING[type(default)]
    settings = type(default)(**_small(default, sizes, unset, kept))
    settings = settings if found.config_class is type(settings) else settings.get_text_config()
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in found(copy.deepcopy(settings)).parameters())
    if count > LARGEST:
        raise ValueError(f"it has {count:,} parameters")
    torch.manual_seed(0)
    return found(settings).eval()


def _small(settings, sizes, unset, kept):
    """Fields of a configuration made small; unset: also those without a default; kept: the part kept of a list."""
    small = {}
    for field in dataclasses.fields(settings):
        value = vars(settings).get(field.name)
        size = next((size for pattern, size in sizes.items() if re.fullmatch(pattern, field.name)), None)
        if isinstance(value, PreTrainedConfig):
            small[field.name] = {"model_type": value.model_type} | _small(value, sizes, unset, kept)
        elif field.name.endswith("token_id") and isinstance(value, int) and value >= VOCABULARY:
            small[field.name] = 1
        elif field.name in ("is_decoder", "causal"):
            small[field.name] = True
        elif field.name == "layer_types" and value is None and unset:
            small[field.name] = ["full_attention"] * sizes[LAYERS]
        elif size is not None and type(field.default) is int and field.default:
            small[field.name] = size if size == VOCABULARY or type(value) is not int else min(size, value)
        elif size and unset and (value is None or type(value) is int):
            small[field.name] = size
        elif size and isinstance(value, list | tuple) and 0 < len(value) <= size and {int} == set(map(type, value)):
            small[field.name] = [size // len(value)] * len(value)
        elif kept and isinstance(value, list) and isinstance(value[0], list):
            small[field.name] = [[names, 1] for names, _ in value]
        elif kept and isinstance(value, list | tuple) and len(value) > abs(kept):
            small[field.name] = list(value[kept:] if kept < 0 else value[:kept])
    return small


@torch.no_grad()
def _alive(model):
    """The model with logits of a trained model's size, if it has logits."""
    ids = torch.arange(3, 27).view(2, 12)
    kept = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for factor in (5, 2, 1):
        for name, parameter in model.named_parameters():
            parameter.copy_(kept[name] * (factor if parameter.ndim == 2 else 1))
        logits = model(ids, use_cache=False).logits
        if logits.isfinite().all():
            break
    if logits.shape[-1] != VOCABULARY:
        raise ValueError(f"it has {logits.shape[-1]} logits for {VOCABULARY} tokens")
    return model
