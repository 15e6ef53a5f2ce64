"""A model is loaded with every one of its weights, and its head is read the same; or one sentence says what to do."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from lib.data import checkpoints

TINY = {"vocab_size": 97, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA = TINY | {"intermediate_size": 32}
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"


def made(kind: str, **settings: object) -> PreTrainedModel:
    torch.manual_seed(0)
    config = {"llama": transformers.LlamaConfig, "neox": transformers.GPTNeoXConfig}[kind](**LLAMA, **settings)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(params=["neox", "tied"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return made("llama", tie_word_embeddings=True) if request.param == "tied" else made("neox")


@pytest.fixture
def folder(tmp_path: Path, model: PreTrainedModel) -> Path:
    words = Tokenizer(models.WordLevel({f"w{index}": index for index in range(97)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w0").save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    return tmp_path


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def write(folder: Path, state: dict, name: str = "model.safetensors") -> None:
    """Put that in the place of the weights; a .bin holds whatever it is given."""
    (folder / "model.safetensors").unlink()
    if name.endswith(".safetensors"):
        save_file(state, folder / name, {"format": "pt"})
    else:
        torch.save(state, folder / name, _use_new_zipfile_serialization="legacy" not in name)


def configure(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def same(folder: Path, model: PreTrainedModel) -> None:
    """What is loaded gives the model's logits, and what is read is its head."""
    ids = torch.arange(9)[None]
    loaded, _ = checkpoints.load(str(folder))
    assert not loaded.training
    with torch.no_grad():
        assert torch.allclose(loaded(ids).logits, model(ids).logits, atol=1e-6)
    assert torch.equal(checkpoints.head(str(folder)), model.get_output_embeddings().weight)


def refused(folder: Path, message: str, head: bool = True) -> None:
    """One sentence, the same from the head as from the model."""
    for read in (checkpoints.load, checkpoints.head)[: 1 + head]:
        with pytest.raises(ValueError, match=message) as error:
            read(str(folder))
        assert "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda key: key,
        lambda key: f"_orig_mod.{key}",
        lambda key: f"module.{key}",
        lambda key: f"model.{key}",
        lambda key: f"model._orig_mod.{key}",
        lambda key: f"_forward_module.module.model.{key}",
        lambda key: key.replace("layers.1.", "layers.1._orig_mod."),
        lambda key: key.replace("model.", "model._orig_mod.", 1),
        lambda key: re.sub(r"(layers\.\d+)", r"_fsdp_wrapped_module.\1._checkpoint_wrapped_module", key),
        lambda key: f"anything.at.all.{key}",
    ],
)
def test_wrappers_are_taken_off(folder: Path, model: PreTrainedModel, wrap: Callable, name: str) -> None:
    write(folder, {wrap(key): tensor for key, tensor in state_of(folder).items()}, name)
    same(folder, model)


@pytest.mark.parametrize("nest", ["state_dict", "model", "model_state_dict", "module"])
@pytest.mark.parametrize("legacy", [False, True])
def test_weights_beside_what_a_trainer_keeps_are_read(
    folder: Path, model: PreTrainedModel, nest: str, legacy: bool
) -> None:
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.95)}]}
    whole = {"epoch": 3, "step": torch.tensor(7), nest: state_of(folder), "optimizer": optimizer}
    (folder / "model.safetensors").unlink()
    torch.save(whole, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    same(folder, model)


@pytest.mark.parametrize(
    "beside",
    [
        torch.float16,
        torch.zeros(3, dtype=torch.complex64),
        torch.zeros(3, dtype=torch.uint16),
        torch.zeros(3, dtype=torch.uint64),
        torch.zeros(3).to(torch.float8_e4m3fn),
        torch.Size([3]),
        torch.device("cpu"),
        3,
        1 + 2j,
        {1, 2},
        "text",
    ],
    ids=str,
)
def test_what_pytorch_allows_beside_the_weights_is_allowed(
    folder: Path, model: PreTrainedModel, beside: object
) -> None:
    """As buffers that the model has none of they are told by the model; in what a trainer keeps they do no harm."""
    whole = {"model": state_of(folder), "beside": beside}
    write(folder, whole, "pytorch_model.bin")
    assert torch.is_tensor(torch.load(folder / "pytorch_model.bin", weights_only=True)["model"].popitem()[1])
    same(folder, model)


@pytest.mark.parametrize(
    "beside", [np.float64(3), np.zeros(3), Path("x"), frozenset([1])], ids=lambda item: str(type(item))
)
def test_what_pytorch_refuses_is_refused(folder: Path, beside: object) -> None:
    write(folder, state_of(folder) | {"beside": beside}, "pytorch_model.bin")
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(folder / "pytorch_model.bin", weights_only=True)
    refused(folder, r"no plain state dict \(it asks for .*\): refused .*save the tensors alone")


def damage(change: Callable[[dict], dict]) -> Callable[[Path], None]:
    return lambda folder: write(folder, change(state_of(folder)))


def first(state: dict, ending: str) -> str:
    return min(key for key in state if key.endswith(ending))


def without(ending: str) -> Callable[[Path], None]:
    return damage(lambda state: {key: state[key] for key in state if key != first(state, ending)})


def resized(ending: str, *shape: int) -> Callable[[Path], None]:
    return damage(lambda state: state | {first(state, ending): torch.ones(shape)})


def shard(folder: Path) -> None:
    """As after an interrupted download: without the file that does not hold the head."""
    made("neox").save_pretrained(folder, max_shard_size="8KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    (folder / index["embed_in.weight" if "embed_in.weight" in index else "gpt_neox.embed_in.weight"]).unlink()


BODY = {
    "a tensor missing": (without("norm.weight"), r"1 missing, such as .*norm\.weight"),
    "a layer more": (
        damage(
            lambda state: state | {key.replace("s.1.", "s.2."): t.clone() for key, t in state.items() if "s.1." in key}
        ),
        r"left over, such as .*layers\.2",
    ),
    "a bias more": (
        damage(lambda state: state | {first(state, "norm.weight").replace("weight", "extra_bias"): torch.ones(16)}),
        "1 left over, such as .*extra_bias",
    ),
    "another width of a part": (resized("norm.weight", 15), r"1 of another shape, such as .* \(15,\) for \(16,\)"),
    "a scalar": (resized("norm.weight"), r"of another shape, such as .* \(\) for \(16,\)"),
    "fewer layers than configured": (lambda folder: configure(folder, num_hidden_layers=3), "missing, such as"),
    "another architecture": (
        lambda folder: configure(folder, model_type="gpt2", n_embd=16, n_head=2),
        "GPT2LMHeadModel has it",
    ),
    "another width": (lambda folder: configure(folder, hidden_size=32), "of another shape"),
    "impossible": (lambda folder: configure(folder, num_attention_heads=0), "config.json"),
}


@pytest.mark.parametrize("kind", BODY)
def test_no_model_without_all_of_its_weights(folder: Path, kind: str) -> None:
    """A head can be read where the body is not the configuration's; a model cannot."""
    change, message = BODY[kind]
    change(folder)
    refused(folder, message, head=False)


def pointer(name: str) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        if "model" in name:
            (folder / "model.safetensors").unlink()
        (folder / name).write_text(POINTER)

    return put


def adapter(folder: Path) -> None:
    for name in ("model.safetensors", "config.json"):
        (folder / name).unlink()
    base = {"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 8}
    (folder / "adapter_config.json").write_text(json.dumps(base))
    save_file({"base_model.model.x.lora_A.weight": torch.ones(2, 2)}, folder / "adapter_model.safetensors")


def index_without_file(folder: Path) -> None:
    state = state_of(folder)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {key: "model-00001-of-00001.safetensors" for key in state}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def text(name: str, content: str) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        for file in folder.glob("model*"):
            file.unlink() if name.startswith(("model", "pytorch")) else None
        (folder / name).write_text(content)

    return put


def dtype(kind: torch.dtype, name: str) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        state = state_of(folder)
        heads = [key for key in state if key.endswith(("lm_head.weight", "embed_out.weight"))]
        key = heads[0] if heads else first(state, "embed_tokens.weight")
        write(folder, state | {key: state[key].to(kind)}, name)

    return put


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


BOTH = {
    "a pointer for safetensors": (pointer("model.safetensors"), "model.safetensors is a Git LFS pointer.*git lfs pull"),
    "a pointer for a .bin": (pointer("pytorch_model.bin"), "pytorch_model.bin is a Git LFS pointer"),
    "a pointer for an index": (pointer("model.safetensors.index.json"), "index.json is a Git LFS pointer"),
    "a pointer for the configuration": (pointer("config.json"), "config.json is a Git LFS pointer"),
    "an index without its file": (index_without_file, "00001.safetensors is absent .* finish the download"),
    "an index of nothing": (text("model.safetensors.index.json", "{}"), "index of the shards is corrupt"),
    "an index that is a list": (text("model.safetensors.index.json", "[]"), "index of the shards is corrupt"),
    "an index that is no JSON": (text("pytorch_model.bin.index.json", "<html>"), "index of the shards is corrupt"),
    "an index with numbers": (
        text("model.safetensors.index.json", '{"weight_map": {"lm_head.weight": 1}}'),
        "index of the shards is corrupt",
    ),
    "only an adapter": (adapter, "adapter of 'org/base': .*merge_and_unload"),
    "nothing": (empty, "holds no config.json"),
    "a page for safetensors": (text("model.safetensors", "<html>not found</html>"), "not a safetensors file"),
    "a page for a .bin": (text("pytorch_model.bin", "<html>not found</html>"), "no plain state dict"),
    "nothing in a .bin": (text("pytorch_model.bin", ""), "no plain state dict"),
    "a configuration that is no JSON": (text("config.json", "{'a': 1}"), "config.json is no JSON"),
    "a configuration that is a list": (text("config.json", "[]"), "config.json holds a list: expected an object"),
    "a configuration without a type": (text("config.json", "{}"), "model_type in .* is None"),
    "an unknown type": (lambda folder: configure(folder, model_type="mine"), "model_type in .* is 'mine'"),
    "a type that is a list": (
        lambda folder: configure(folder, model_type=["llama"]),
        r"model_type in .* is \['llama'\]",
    ),
    "code of its own": (
        lambda folder: configure(folder, model_type="mine", auto_map={"AutoConfig": "mine.Config"}),
        "no code of a model is run",
    ),
    "a word for a number": (lambda folder: configure(folder, hidden_size="wide"), "config.json can't be used"),
    "an encoder": (lambda folder: configure(folder, model_type="bert"), "type bert: expected a causal language model"),
    "an encoder and decoder": (lambda folder: configure(folder, model_type="t5"), "type t5: expected a causal"),
    "a decoder with an encoder": (lambda folder: configure(folder, model_type="bart"), "type bart: expected a causal"),
    "of images": (lambda folder: configure(folder, model_type="vit"), "type vit: expected a causal"),
    "float8": (
        dtype(torch.float8_e4m3fn, "model.safetensors"),
        "is stored as torch.float8_e4m3fn without scales .*expected one of float64",
    ),
    "float8 in a .bin": (dtype(torch.float8_e4m3fn, "pytorch_model.bin"), "is stored as torch.float8_e4m3fn"),
    "float8 of old": (dtype(torch.float8_e5m2, "pytorch_model.bin"), "is stored as torch.float8_e5m2"),
    "integers": (dtype(torch.int8, "model.safetensors"), "is stored as I8"),
    "complex": (dtype(torch.complex64, "pytorch_model.bin"), "is stored as torch.complex64"),
    "a list in a .bin": (
        lambda folder: write(folder, [1, 2], "pytorch_model.bin"),
        "no plain state dict .*it is a list",
    ),
    "a tensor in a .bin": (lambda folder: write(folder, torch.ones(3), "pytorch_model.bin"), "it is a Tensor"),
    "an empty .bin": (lambda folder: write(folder, {}, "pytorch_model.bin"), "holds no head"),
    "an optimizer": (lambda folder: write(folder, {"state": {0: {}}}, "pytorch_model.bin"), "holds no head"),
}


@pytest.mark.parametrize("kind", BOTH)
def test_what_cannot_be_read_is_told_once_for_head_and_model(folder: Path, kind: str) -> None:
    change, message = BOTH[kind]
    change(folder)
    refused(folder, message)


def test_a_head_that_is_not_there_is_refused_alike(folder: Path, model: PreTrainedModel) -> None:
    configure(folder, tie_word_embeddings=False)
    if not model.config.tie_word_embeddings:
        without("lm_head.weight" if any("lm_head" in key for key in state_of(folder)) else "embed_out.weight")(folder)
    refused(folder, "holds no head: expected .*weight, as the")


def test_a_shard_that_is_not_there_is_named(folder: Path) -> None:
    shard(folder)
    refused(folder, r"model-0000\d-of-0000\d.safetensors is absent", head=False)
    assert checkpoints.head(str(folder)).shape == (97, 16)
    assert not checkpoints.available(str(folder))


@pytest.mark.parametrize("rows", [80, 104])
def test_an_embedding_resized_after_its_configuration_was_written_is_read(
    folder: Path, model: PreTrainedModel, rows: int
) -> None:
    written = (folder / "config.json").read_text()
    model.resize_token_embeddings(rows, mean_resizing=False)
    model.save_pretrained(folder)
    (folder / "config.json").write_text(written)
    same(folder, model)
    assert checkpoints.load(str(folder))[0].config.vocab_size == rows


def test_a_head_resized_alone_is_read_and_its_model_refused(folder: Path, model: PreTrainedModel) -> None:
    if model.config.tie_word_embeddings:
        configure(folder, tie_word_embeddings=False)
        write(folder, state_of(folder) | {"lm_head.weight": torch.ones(104, 16)})
    else:
        resized("embed_out.weight" if "embed_out.weight" in state_of(folder) else "lm_head.weight", 104, 16)(folder)
    refused(folder, r"of another shape, such as .* \(104, 16\) for \(97, 16\)", head=False)
    assert checkpoints.head(str(folder)).shape == (104, 16)


def test_a_head_beside_the_embedding_that_it_is_tied_to(tmp_path: Path) -> None:
    """Where both are there and differ the two ways to the head must not."""
    model = made("llama")
    model.save_pretrained(tmp_path)
    configure(tmp_path, tie_word_embeddings=True)
    with torch.no_grad():
        head = checkpoints.head(str(tmp_path))
    loaded = checkpoints.weights.load(tmp_path, torch.float32)
    assert torch.equal(head, loaded.get_output_embeddings().weight)


@pytest.mark.parametrize("wrap", ["", "module.", "_orig_mod."])
def test_buffers_that_models_once_stored_do_no_harm(folder: Path, model: PreTrainedModel, wrap: str) -> None:
    state, layers = state_of(folder), "gpt_neox.layers" if "neox" in str(type(model)) else "model.layers"
    old = {
        f"{layers}.0.attention.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool),
        f"{layers}.0.attention.masked_bias": torch.tensor(-1e9),
        f"{layers}.0.attention.rotary_emb.inv_freq": torch.ones(4),
        f"{layers}.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "model.embeddings.position_ids": torch.arange(8),
    }
    write(folder, {wrap + key: tensor for key, tensor in (state | old).items()})
    same(folder, model)


def test_a_wrapped_and_a_plain_name_of_one_tensor_are_refused(folder: Path) -> None:
    state = state_of(folder)
    write(folder, state | {f"_orig_mod.{key}": tensor + 1 for key, tensor in state.items()})
    refused(folder, "could each be the head: keep the model's tensors alone")


def test_a_head_that_is_not_stored_row_by_row_is_told(tmp_path: Path) -> None:
    model = made("neox")
    model.save_pretrained(tmp_path)
    state = {
        key: tensor.T.contiguous().T if "out" in key or "lm_head" in key else tensor
        for key, tensor in state_of(tmp_path).items()
    }
    write(tmp_path, state, "pytorch_model.bin")
    refused(tmp_path, r"transposed or with gaps: save it again as .contiguous\(\)")


def no_vocabulary(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_vocabulary, "holds no tokenizer: expected tokenizer.json; copy it there from the base model"),
        (pointer("tokenizer.json"), "tokenizer.json is a Git LFS pointer"),
        (text("tokenizer.json", "<html>"), "the tokenizer in .* can't be read"),
        (text("tokenizer.json", "{}"), "the tokenizer in .* can't be read"),
        (text("tokenizer_config.json", "[]"), "the tokenizer in .* can't be read"),
    ],
)
def test_a_tokenizer_that_is_not_there_is_told(folder: Path, change: Callable, message: str) -> None:
    change(folder)
    refused(folder, message, head=False)
    with pytest.raises(ValueError, match=message):
        checkpoints.tokenizer(str(folder))
    assert checkpoints.available(str(folder)) == (change is not no_vocabulary)


def test_a_tokenizer_needs_no_model(folder: Path) -> None:
    for file in folder.glob("*"):
        if "token" not in file.name:
            file.unlink()
    assert checkpoints.tokenizer(str(folder))("w3 w5").input_ids
    assert not checkpoints.available(str(folder))


@pytest.mark.parametrize("size", [96, 98])
def test_a_bias_of_another_head_is_refused(folder: Path, size: int) -> None:
    save_file({"bias": torch.ones(size)}, folder / checkpoints.weights.BIAS)
    refused(folder, f"output_bias.safetensors holds {size} numbers: expected one for each of the 97 rows", head=False)


def test_safetensors_go_before_a_bin_for_head_and_model(folder: Path, model: PreTrainedModel) -> None:
    torch.save({key: tensor + 1 for key, tensor in state_of(folder).items()}, folder / "pytorch_model.bin")
    same(folder, model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_a_model_is_float32_whatever_its_files_and_its_configuration_say(folder: Path, dtype: torch.dtype) -> None:
    write(folder, {key: tensor.to(dtype) for key, tensor in state_of(folder).items()})
    configure(folder, dtype="float16")
    loaded, _ = checkpoints.load(str(folder))
    head = checkpoints.head(str(folder))
    assert loaded.dtype == torch.float32 and head.dtype == dtype
    assert torch.equal(loaded.get_output_embeddings().weight, head.float())


RARE = {
    "narrow": lambda: transformers.OPTConfig(**TINY, ffn_dim=32, word_embed_proj_dim=8, max_position_embeddings=32),
    "biased": lambda: transformers.PhiConfig(**TINY, intermediate_size=32),
    "first GPT": lambda: transformers.OpenAIGPTConfig(vocab_size=97, n_embd=16, n_layer=2, n_head=2),
    "mamba": lambda: transformers.FalconMambaConfig(vocab_size=97, hidden_size=16, num_hidden_layers=2, state_size=4),
    "experts": lambda: transformers.MixtralConfig(**LLAMA, num_key_value_heads=2, num_local_experts=4),
    "decoder of a decoder": lambda: transformers.BertConfig(**LLAMA, is_decoder=True),
    "text of several media": lambda: transformers.Qwen3_5Config(
        text_config=LLAMA | {"num_key_value_heads": 2, "head_dim": 8, "layer_types": ["full_attention"] * 2}
    ),
}


@pytest.mark.parametrize("kind", RARE)
def test_rare_models_are_read(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(RARE[kind]()).eval()
    model.save_pretrained(tmp_path)
    loaded = checkpoints.weights.load(tmp_path, torch.float32)
    ours = dict(loaded.named_parameters())
    assert all(torch.equal(ours[name], tensor) for name, tensor in model.named_parameters())
    assert torch.equal(checkpoints.head(str(tmp_path)), model.get_output_embeddings().weight)


def test_weights_of_integers_are_no_weights(folder: Path) -> None:
    """They would be read as the numbers that they look like."""
    state = load_file(folder / "model.safetensors")
    name = next(key for key in state if "mlp" in key and state[key].ndim == 2)
    save_file(state | {name: state[name].mul(20).round().to(torch.int8)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=f"{name} .*int8: expected floating-point weights"):
        checkpoints.load(str(folder))


def test_the_head_is_the_one_that_the_models_class_has_and_not_a_namesake(folder: Path) -> None:
    """Those of a running mean and of a part of the model have its name too; alone beside each other none is chosen."""
    state = state_of(folder)
    own = checkpoints.head(str(folder))
    (name,) = {"lm_head.weight", "embed_out.weight", "model.embed_tokens.weight"} & state.keys()
    save_file(state | {f"ema.{name}": own + 1, f"speech.{name}": own + 2}, folder / "model.safetensors")
    assert torch.equal(checkpoints.head(str(folder)), own)
    save_file({f"ema.{name}": own + 1, f"student.{name}": own + 2}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="holds no head: expected"):
        checkpoints.head(str(folder))


def test_a_tokenizer_is_that_of_its_file_whatever_the_type_of_the_model(folder: Path) -> None:
    backend = Tokenizer(models.BPE(vocab={"<e>": 0, "Ġ": 1, "a": 2, "b": 3}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<e>").save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": "GPT2TokenizerFast"}))
    assert checkpoints.tokenizer(str(folder)).encode("ab") == backend.encode("ab").ids
