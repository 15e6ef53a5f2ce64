"""A model in one file, in parts, or with a head that is stored with scales: the same head and the same model."""

import json
import re
from pathlib import Path

import gguf
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from lib.data import checkpoints, tensors

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 97}
NAMES = {  # in a GGUF
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers": "blk",
    "self_attn.o_proj": "attn_output",
    r"self_attn.([qkv])_proj": r"attn_\1",
    r"mlp.(\w+)_proj": r"ffn_\1",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> transformers.PreTrainedModel:
    monkeypatch.setenv("BOOK_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SMALL, num_key_value_heads=2)).eval()


@pytest.fixture
def folder(model: transformers.PreTrainedModel, tmp_path: Path) -> Path:
    words = Tokenizer(models.WordLevel({f"w{index}": index for index in range(97)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w0").save_pretrained(tmp_path / "model")
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def write_gguf(path: Path, model: transformers.PreTrainedModel, tied: bool = False, parts: int = 0) -> None:
    """As llama.cpp writes it, in one file or split into parts."""
    settings = model.config
    size = {"split_max_tensors": 10} if parts else {}
    writer = gguf.GGUFWriter(path, "qwen2", **size)
    writer.add_block_count(settings.num_hidden_layers)
    writer.add_context_length(64)
    writer.add_embedding_length(settings.hidden_size)
    writer.add_feed_forward_length(settings.intermediate_size)
    writer.add_head_count(settings.num_attention_heads)
    writer.add_head_count_kv(settings.num_key_value_heads)
    writer.add_layer_norm_rms_eps(settings.rms_norm_eps)
    writer.add_rope_freq_base(settings.rope_parameters["rope_theta"])
    writer.add_vocab_size(settings.vocab_size)
    writer.add_tokenizer_model("gpt2")
    words = ["<e>", "w", "0", "w0", *(chr(ord("Ā") + index) for index in range(settings.vocab_size - 4))]
    writer.add_token_list(words)
    writer.add_token_merges(["w 0"])
    writer.add_eos_token_id(0)
    for name, tensor in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        for ours, theirs in NAMES.items():
            name = re.sub(ours, theirs, name)
        kind = gguf.GGMLQuantizationType.Q8_0 if tensor.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quantize(tensor.numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def same(address: Path, model: transformers.PreTrainedModel, tolerance: float = 0) -> None:
    loaded, tokenizer = checkpoints.load(str(address))
    head, ids = checkpoints.head(str(address)), torch.arange(9)[None]
    assert torch.equal(head.float(), loaded.get_output_embeddings().weight)
    assert torch.equal(checkpoints.head(str(address), rows=5), head[:5])
    with torch.no_grad():
        assert torch.allclose(loaded(ids).logits, model(ids).logits, atol=tolerance + 1e-6)
    assert tokenizer.vocab_size == 97


@pytest.mark.parametrize("tied", [False, True])
def test_a_gguf_is_a_model(model: transformers.PreTrainedModel, tmp_path: Path, tied: bool) -> None:
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    write_gguf(tmp_path / "a.gguf", model, tied)
    same(tmp_path / "a.gguf", model, 0.01)
    first = checkpoints.fingerprint(str(tmp_path / "a.gguf"))
    model.lm_head.weight.data += 1
    write_gguf(tmp_path / "a.gguf", model, tied)
    assert checkpoints.fingerprint(str(tmp_path / "a.gguf")) != first


def test_any_part_of_a_split_gguf_is_the_model(model: transformers.PreTrainedModel, tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", model, parts=3)
    parts = sorted(tmp_path.glob("*.gguf"))
    assert len(parts) > 1
    same(parts[-1], model, 0.01)
    parts[0].unlink()
    with pytest.raises(ValueError, match=f"{parts[0].name} is absent though .* finish the download"):
        checkpoints.head(str(parts[1]))


def test_a_gguf_that_was_cut_short_is_told(model: transformers.PreTrainedModel, tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", model)
    whole = (tmp_path / "a.gguf").read_bytes()
    for size in (0, 3, 200, len(whole) // 2):
        (tmp_path / "a.gguf").write_bytes(whole[:size])
        for read in (checkpoints.head, checkpoints.load):
            with pytest.raises(ValueError, match=r"a.gguf is corrupt .*fetch it again"):
                read(str(tmp_path / "a.gguf"))
    with pytest.raises(ValueError, match="there is no file .*expected a GGUF or .safetensors file"):
        checkpoints.head(str(tmp_path / "b.gguf"))


def test_one_file_of_safetensors_is_a_model(folder: Path, model: transformers.PreTrainedModel) -> None:
    file = (folder / "model.safetensors").rename(folder / "best.safetensors")
    save_file({"other.weight": torch.ones(3)}, folder / "model.safetensors")
    same(file, model)
    assert checkpoints.available(str(file)) and checkpoints.revisions(str(file)) == []
    before = checkpoints.fingerprint(str(file))
    model.config.update({"rms_norm_eps": 0.1})
    model.config.save_pretrained(folder)
    assert checkpoints.fingerprint(str(file)) != before
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="best.safetensors|model.safetensors"):
        checkpoints.load(str(file))


def test_shards_are_a_model_and_one_of_them_is_none(folder: Path, model: transformers.PreTrainedModel) -> None:
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    same(folder, model)
    shard = min(folder.glob("model-*.safetensors"))
    with pytest.raises(ValueError, match="one of several files: expected the folder that holds them"):
        checkpoints.head(str(shard))


@pytest.mark.parametrize("scales", ["one", "rows", "blocks"])
@pytest.mark.parametrize("ending", tensors.SCALES)
def test_a_head_in_float8_is_its_numbers_times_their_scales(folder: Path, scales: str, ending: str) -> None:
    state = load_file(folder / "model.safetensors")
    shape = {"one": (), "rows": (97, 1), "blocks": (4, 2)}[scales]
    scale = torch.rand(shape) + 0.5
    spread = {"one": lambda: scale, "rows": lambda: scale.expand(97, 32), "blocks": lambda: blocks(scale)}[scales]()
    stored = state.pop("lm_head.weight").to(torch.float8_e4m3fn)
    save_file(state | {"lm_head.weight": stored}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="float8_e4m3fn without scales .*save the model dequantised"):
        checkpoints.head(str(folder))
    save_file(state | {"lm_head.weight": stored, f"lm_head.weight{ending}": scale}, folder / "model.safetensors")
    if scales == "blocks":
        settings = json.loads((folder / "config.json").read_text())
        settings["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [32, 16]}
        (folder / "config.json").write_text(json.dumps(settings))
    assert torch.equal(checkpoints.head(str(folder)), stored.float() * spread)
    assert torch.equal(checkpoints.head(str(folder), rows=3), stored[:3].float() * spread.expand(97, 32)[:3])


def blocks(scale: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.stack([scale[row // 32, column // 16] for column in range(32)]) for row in range(97)])


def test_a_head_that_is_quantised_in_another_way_is_told_with_its_method(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["lm_head.weight"] = torch.zeros(97, 16, dtype=torch.uint8)
    save_file(state, folder / "model.safetensors")
    settings = json.loads((folder / "config.json").read_text())
    settings["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(settings))
    for read in (checkpoints.head, checkpoints.load):
        with pytest.raises(ValueError, match="quantised by bitsandbytes in a way that can't be undone here"):
            read(str(folder))


def test_a_head_is_read_without_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a checkpoint in Pythia-410M's shape at a quarter of its sides: the head and a header, at most 2 % more."""
    torch.manual_seed(0)
    shape = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4}
    settings = transformers.GPTNeoXConfig(**shape, vocab_size=12576)
    model = transformers.GPTNeoXForCausalLM(settings).half()
    model.save_pretrained(tmp_path)
    count, opened = [0], Path.open

    def counting(path: Path, *arguments: object) -> object:
        stream = opened(path, *arguments, buffering=0) if path.suffix == ".safetensors" else opened(path, *arguments)
        if path.suffix == ".safetensors":
            stream = Counted(stream, count)
        return stream

    monkeypatch.setattr(Path, "open", counting)
    head = checkpoints.head(str(tmp_path))
    assert torch.equal(head, model.lm_head.weight)
    assert head.nbytes <= count[0] <= 1.02 * head.nbytes


class Counted:
    """A file that counts the bytes read."""

    def __init__(self, file: object, count: list[int]) -> None:
        self.file, self.count = file, count

    def __getattr__(self, name: str) -> object:
        return getattr(self.file, name)

    def __enter__(self) -> "Counted":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def read(self, *size: int) -> bytes:
        data = self.file.read(*size)
        self.count[0] += len(data)
        return data

    def readinto(self, buffer: memoryview) -> int:
        count = self.file.readinto(buffer)
        self.count[0] += count
        return count
