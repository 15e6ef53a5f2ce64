"""A whole model out of the files of a folder: every tensor is the file's own, or there is one sentence and no model.

transformers fills what a file lacks with random numbers, and only warns.
"""

import copy
import itertools
import json
import re
from pathlib import Path

import torch
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from lib.data import named, tensors

ADAPTER = "adapter_config.json"
BIAS = "output_bias.safetensors"  # beside the weights, where a head was trained with one: transformers' heads have none
VOCABULARIES = (  # one of them makes a tokenizer
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)
# Buffers that were stored once, and that models now compute: masks, and angles of rotary embeddings.
COMPUTED = re.compile(r"(^|\.)((attn|attention)\.(bias|masked_bias)|inv_freq|position_ids|decoder\.version)$")


def load(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The causal language model in a folder, in evaluation mode, with its weights in dtype.

    What wraps the names of all tensors is taken off; where the vocabulary was resized and the configuration was not,
    the head decides. Raises ValueError where any tensor is missing, left over or of another shape.
    """
    settings, head, state = config(folder), read_head(folder), _state(folder)
    if not getattr(settings, "quantization_config", None):
        _refuse_integers(state, named.head(settings).model.state_dict(), folder)
    found = []
    for described, prefix in itertools.product(_sizes(settings, len(head)), tensors.wrappers(state)):
        model, info = _fill(described, {key.removeprefix(prefix): state[key] for key in state}, dtype, folder)
        found.append(_faults(info))
        if not found[-1]:
            break
    else:
        raise ValueError(
            f"the weights in {folder} are not those of the {type(model).__name__} in its config.json ({found[0]}): "
            "expected both as save_pretrained writes them; save the model again, or correct config.json"
        )
    used = model.get_output_embeddings().weight
    if used.shape != head.shape or not torch.allclose(used, head.to(used.dtype), rtol=0, atol=0, equal_nan=True):
        raise ValueError(
            f"the head in {folder} is not the one that transformers uses, with tie_word_embeddings = {tied(settings)} "
            "in config.json: correct that, or save the model again"
        )
    if (folder / BIAS).is_file():
        model.get_output_embeddings().bias = torch.nn.Parameter(_bias(folder, model).to(dtype))
    return model


def read_head(folder: Path, rows: int | None = None) -> torch.Tensor:
    """The head (V, d) in its stored dtype, or its first rows, read without the body. Raises ValueError."""
    settings = config(folder)
    try:
        return named.head(settings).read(
            _names(folder), lambda name: (folder / name).open("rb"), folder.__truediv__, rows
        )
    except ValueError as error:
        if method := quantised(settings):
            raise ValueError(
                f"the head in {folder} is quantised by {method} in a way that can't be undone here ({error}): "
                "save the model dequantised"
            ) from error
        raise


def config(folder: Path) -> PreTrainedConfig:
    """The configuration of the causal language model in a folder; of a model of several media, that of its text.

    Raises ValueError with one sentence where there is none, or it is that of another kind of model.
    """
    if (folder / ADAPTER).is_file():
        base = _read_json(folder / ADAPTER).get("base_model_name_or_path")
        raise ValueError(
            f"{folder} holds an adapter of {base!r}: expected a whole model; "
            "merge the two (merge_and_unload in peft) and save that"
        )
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(f"{folder} holds no config.json: expected a folder as save_pretrained writes it")
    kind = _read_json(file).get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise ValueError(
            f"model_type in {file} is {kind!r}: expected one that transformers knows, as no code of a model is run; "
            "correct it, or use another model"
        )
    try:
        found = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # each class of configurations refuses values in its own way
        raise ValueError(f"{file} can't be used ({named.line(error)}): correct it, or fetch it again") from error
    decodes = any(getattr(found, name, False) for name in ("is_decoder", "causal"))
    encodes = type(found) in MODEL_FOR_MASKED_LM_MAPPING and not decodes
    if encodes or found.is_encoder_decoder or named.causal(found) is None:
        raise ValueError(f"{file} describes a model of type {kind}: expected a causal language model; use another")
    text = found.get_text_config()
    return text if named.causal(found).config_class is type(text) else found


def quantised(settings: PreTrainedConfig) -> str | None:
    """By which method a model is quantised, by its configuration."""
    found = getattr(settings, "quantization_config", None) or {}
    return found.get("quant_method") if isinstance(found, dict) else str(found.quant_method)


def tied(settings: PreTrainedConfig) -> bool:
    """Whether the input embedding serves as the head."""
    return getattr(settings, "tie_word_embeddings", False)


def check_vocabulary(folder: Path) -> None:
    """Raise ValueError where no file of a tokenizer is in a folder; transformers makes an empty one there."""
    present = [name for name in _names(folder) if name in VOCABULARIES]
    if not present:
        raise ValueError(f"{folder} holds no tokenizer: expected tokenizer.json; copy it there from the base model")
    for name in present:
        tensors.open_whole(name, present, lambda part: (folder / part).open("rb")).close()


def complete(folder: Path, weights: bool = True) -> bool:
    """Whether a folder holds a tokenizer and, if asked for, a configuration and every file of the weights."""
    present = set(_names(folder))
    if not present & set(VOCABULARIES):
        return False
    try:
        return not weights or {"config.json", *_shards(folder)} <= present
    except ValueError:
        return False


def _fill(settings, state, dtype, folder):
    """A model with those tensors, and what transformers says of them."""
    try:
        with named.quiet():  # what it would warn of becomes an error with one sentence
            return named.causal(settings).from_pretrained(
                None,
                config=settings,
                state_dict=state,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are told with the rest
            )
    except Exception as error:  # of classes without number, in a model that its configuration makes impossible
        raise ValueError(
            f"transformers can't make the model in {folder} ({named.line(error)}): correct "
            "config.json, or use another model"
        ) from error


def _faults(info):
    """In words, the tensors that the file and the model do not share; nothing where there are none."""
    left = [key for key in info["unexpected_keys"] if not COMPUTED.search(key)]
    shaped = [f"{key} {tuple(stored)} for {tuple(wanted)}" for key, stored, wanted in info["mismatched_keys"]]
    kinds = {"missing": info["missing_keys"], "left over": left, "of another shape": shaped}
    return "; ".join(f"{len(keys)} {kind}, such as {min(keys)}" for kind, keys in kinds.items() if keys)


def _state(folder):
    """Every tensor in the folder by its name, without what torch.compile and the like put into names."""
    present, state = _names(folder), {}
    for name in _shards(folder):
        tensors.open_whole(name, present, lambda part: (folder / part).open("rb")).close()
        state |= tensors.read_file(folder / name)
    plain = {tensors.unwrapped(key): tensor for key, tensor in state.items()}
    if len(plain) < len(state):
        raise ValueError(f"the weights in {folder} hold tensors twice, wrapped and not: save the model again")
    return plain


def _refuse_integers(state, own, folder):
    """Matrices of integers that are none in the model mean nothing without their scales; complex ones are none ever."""
    tables = {key.rpartition(".")[2] for key, tensor in own.items() if not tensor.is_floating_point()}
    odd = [key for key, tensor in state.items() if tensor.ndim > 1 and not tensor.is_floating_point()]
    odd = [key for key in odd if key.rpartition(".")[2] not in tables]
    if odd := [key for key in odd if not COMPUTED.search(key)]:
        raise ValueError(
            f"{min(odd)} in {folder} is stored as {state[min(odd)].dtype}: expected floating-point weights; save the "
            "model dequantised, or with its quantization_config in config.json"
        )


def _sizes(settings, rows):
    """The configuration as it was written and, where the head has other rows than that says, with as many."""
    if getattr(settings.get_text_config(), "vocab_size", rows) == rows:
        return [settings]
    resized = copy.deepcopy(settings)
    resized.get_text_config().vocab_size = rows
    return [settings, resized]


def _bias(folder, model):
    head, bias = model.get_output_embeddings(), tensors.read_file(folder / BIAS)["bias"]
    if head.bias is not None or bias.shape != (len(head.weight),):
        raise ValueError(
            f"{folder / BIAS} holds {len(bias)} numbers: expected one for each of the {len(head.weight)} rows of a "
            "head without a bias of its own; remove it where it is of another model"
        )
    return bias


def _shards(folder):
    return tensors.shards(_names(folder), lambda name: (folder / name).read_bytes())


def _names(folder):
    """The files in a folder, without links to nothing."""
    return [path.name for path in folder.iterdir() if path.is_file()]


def _read_json(file):
    with tensors.open_whole(file.name, [file.name], lambda _: file.open("rb")) as stream:
        try:
            found = json.load(stream)
        except ValueError as error:
            raise ValueError(f"{file} is no JSON ({error}): fetch it again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds a {type(found).__name__}: expected an object of JSON; fetch it again")
    return found
