"""Models by address: a head read without its body equals the model's own, and hostile files are refused."""

import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from lib.data import checkpoints, named, tensors, weights

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=100, **SMALL)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=100, n_embd=16, n_layer=2, n_head=2)),
    "opt": lambda: OPTForCausalLM(OPTConfig(vocab_size=100, ffn_dim=32, word_embed_proj_dim=16, **SMALL)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(vocab_size=100, **SMALL)),
    "llama-tied": lambda: LlamaForCausalLM(LlamaConfig(vocab_size=100, tie_word_embeddings=True, **SMALL)),
}


def save(folder: Path, model: PreTrainedModel, layout: str) -> None:
    """Write a model in one of the layouts found on the hub."""
    if layout in ("safetensors", "shards"):
        model.save_pretrained(folder, max_shard_size="8KB" if layout == "shards" else "1GB")
        assert (folder / "model.safetensors.index.json").exists() == (layout == "shards")
        return
    model.config.save_pretrained(folder)
    state = {
        key: value
        for key, value in model.state_dict().items()
        if not (model.config.tie_word_embeddings and key == "lm_head.weight")
    }
    if layout == "bin-shards":
        files = {key: f"pytorch_model-0000{number % 2 + 1}-of-00002.bin" for number, key in enumerate(state)}
        for name in set(files.values()):
            torch.save(OrderedDict((key, state[key]) for key in state if files[key] == name), folder / name)
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    else:
        torch.save(OrderedDict(state), folder / "pytorch_model.bin", _use_new_zipfile_serialization=layout == "bin")


@pytest.mark.parametrize("layout", ["safetensors", "shards", "bin", "bin-shards", "legacy-bin"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_head_is_the_models_own(tmp_path: Path, name: str, layout: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().to(dtype)
    save(tmp_path, model, layout)
    expected = model.get_output_embeddings().weight.detach()
    head = checkpoints.head(str(tmp_path))
    assert head.dtype == dtype and torch.equal(head, expected)
    assert torch.equal(checkpoints.head(str(tmp_path), rows=7), expected[:7])
    for rows in (0, 101):
        with pytest.raises(ValueError, match=f"rows = {rows}: expected 1 to 100"):
            checkpoints.head(str(tmp_path), rows=rows)


def test_the_body_is_not_read(tmp_path: Path) -> None:
    model = MODELS["neox"]()
    save(tmp_path, model, "bin")

    class Counting:
        def __init__(self, path: Path) -> None:
            self.file, self.count = path.open("rb"), 0

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

        def read(self, *size: int) -> bytes:
            data = self.file.read(*size)
            self.count += len(data)
            return data

        def readinto(self, buffer: memoryview) -> int:
            count = self.file.readinto(buffer)
            self.count += count
            return count

    counting = Counting(tmp_path / "pytorch_model.bin")
    _, file, place = tensors.find_head(["pytorch_model.bin"], lambda _: counting, named.head(model.config).choose)
    before = counting.count
    tensors.read(file, place)
    assert counting.count - before == place.bytes == 100 * 16 * 4
    assert counting.count < 0.5 * (tmp_path / "pytorch_model.bin").stat().st_size


def test_gpt_neox_files_of_old_name_their_head_otherwise(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MODELS["neox"]()
    model.config.save_pretrained(tmp_path)
    old = {
        key.replace("lm_head", "embed_out").replace("model.", "gpt_neox.", 1): value.contiguous()
        for key, value in model.state_dict().items()
    }
    save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(checkpoints.head(str(tmp_path)), model.lm_head.weight)


class Payload:
    """Runs code when unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return exec, (f"open({str(self.trace)!r}, 'w')",)


def bin_file(path: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED, storage: bytes = b"\0" * 64) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", storage)


def test_a_malicious_pickle_is_refused_without_running(tmp_path: Path) -> None:
    MODELS["neox"]().config.save_pretrained(tmp_path)
    trace = tmp_path / "ran"
    bin_file(tmp_path / "pytorch_model.bin", pickle.dumps({"embed_out.weight": Payload(trace)}, protocol=2))
    with pytest.raises(ValueError, match="no plain state dict .*asks for exec.*refused without running"):
        checkpoints.head(str(tmp_path))
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"embed_out.weight": Payload(trace)}, protocol=2))
    with pytest.raises(ValueError, match="no plain state dict"):
        checkpoints.head(str(tmp_path))
    assert not trace.exists()


def test_a_pickle_that_would_reserve_memory_is_refused(tmp_path: Path) -> None:
    MODELS["neox"]().config.save_pretrained(tmp_path)
    bin_file(tmp_path / "pytorch_model.bin", b"\x80\x02}r" + struct.pack("<I", 2**31) + b".")
    with pytest.raises(ValueError, match="holds no head"):
        checkpoints.head(str(tmp_path))


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    MODELS["neox"]().config.save_pretrained(tmp_path)
    bin_file(tmp_path / "pytorch_model.bin", b"\0" * 10_000_000, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="is compressed"):
        checkpoints.head(str(tmp_path))


@pytest.mark.parametrize("target", ["../a.safetensors", "/etc/passwd", "a/b.bin", "..", "c:\\x.bin", "config.json"])
def test_shards_stay_in_their_folder(tmp_path: Path, target: str) -> None:
    MODELS["neox"]().config.save_pretrained(tmp_path)
    index = {"weight_map": {"lm_head.weight": target}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="points at .*expected the name of a file beside it"):
        checkpoints.head(str(tmp_path))


def corrupt(header: dict | bytes, body: bytes = b"\0" * 64) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff" * 100, "not a safetensors file"),
        (corrupt(b"{not json"), "is corrupt"),
        (corrupt({"lm_head.weight": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 32]}}), "disagree"),
        (
            corrupt({"lm_head.weight": {"dtype": "F32", "shape": [8, 4], "data_offsets": [0, 128]}}),
            "file ends 64 bytes",
        ),
        (
            corrupt({"lm_head.weight": {"dtype": "I8", "shape": [8, 8], "data_offsets": [0, 64]}}),
            "is stored as I8: expected one of",
        ),
        (corrupt({"lm_head.weight": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}}), "expected a matrix"),
        (corrupt({"other.weight": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}}), "holds no head"),
        (b"", "not a safetensors file"),
    ],
)
def test_a_corrupt_file_is_told_in_one_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    MODELS["neox"]().config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        checkpoints.head(str(tmp_path))


def test_a_truncated_bin_is_told(tmp_path: Path) -> None:
    save(tmp_path, MODELS["neox"](), "bin")
    whole = (tmp_path / "pytorch_model.bin").read_bytes()
    (tmp_path / "pytorch_model.bin").write_bytes(whole[:-2000])
    with pytest.raises(ValueError, match="is corrupt .*expected a checkpoint; fetch it again"):
        checkpoints.head(str(tmp_path))


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BOOK_CACHE", str(tmp_path))
    torch.manual_seed(0)
    for step in (0, 8, 64):
        folder = tmp_path / "suite" / "runs" / "a" / f"step{step}"
        MODELS["neox"]().save_pretrained(folder)
        words = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
        PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    index = {"nano-16-seed0": {"path": "runs/a", "key": "0f", "steps": [0, 64, 8], "width": 16, "seed": 0, "arm": ""}}
    (tmp_path / "suite" / "index.json").write_text(json.dumps(index))
    return tmp_path / "suite" / "runs" / "a"


def test_the_suite_is_found_by_its_index(suite: Path) -> None:
    expected = GPTNeoXForCausalLM.from_pretrained(suite / "step8").lm_head.weight
    assert torch.equal(checkpoints.head("suite:nano-16-seed0@step8"), expected)
    assert torch.equal(checkpoints.head("suite:nano-16-seed0"), checkpoints.head("suite:nano-16-seed0@step64"))
    assert checkpoints.revisions("suite:nano-16-seed0") == ["step0", "step8", "step64"]
    assert checkpoints.available("suite:nano-16-seed0@step8") and not checkpoints.available("suite:other")
    prints = {checkpoints.fingerprint(f"suite:nano-16-seed0@step{step}") for step in (0, 8, 64)}
    assert len(prints) == 3
    with pytest.raises(ValueError, match="no run 'other' .*trained are nano-16-seed0.*run `make suite`"):
        checkpoints.load("suite:other")
    with pytest.raises(ValueError, match="@step9 was not kept: expected one of step0, step8, step64"):
        checkpoints.head("suite:nano-16-seed0@step9")


def test_a_head_gets_the_bias_that_it_was_trained_with(suite: Path) -> None:
    plain, _ = checkpoints.load("suite:nano-16-seed0@step8")
    bias = torch.randn(100)
    save_file({"bias": bias}, suite / "step8" / weights.BIAS)
    biased, _ = checkpoints.load("suite:nano-16-seed0@step8")
    ids = torch.arange(10)[None]
    assert torch.allclose(biased(ids).logits, plain(ids).logits + bias, atol=1e-5)


def test_revisions_of_a_folder_are_its_subfolders(suite: Path) -> None:
    assert checkpoints.revisions(str(suite)) == ["step0", "step8", "step64"]
    assert torch.equal(checkpoints.head(f"{suite}@step8"), checkpoints.head("suite:nano-16-seed0@step8"))


def test_fingerprints_of_folders_change_with_their_weights(tmp_path: Path) -> None:
    save(tmp_path, MODELS["neox"](), "safetensors")
    first = checkpoints.fingerprint(str(tmp_path))
    assert checkpoints.fingerprint(str(tmp_path)) == first
    save(tmp_path, MODELS["neox"](), "safetensors")
    assert checkpoints.fingerprint(str(tmp_path)) != first


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("EleutherAI/pythia-70m@step3000", ("hub", "EleutherAI/pythia-70m", "step3000")),
        ("gpt2", ("hub", "gpt2", None)),
        ("./my-model", ("folder", "./my-model", None)),
        ("/a/b@step5", ("folder", "/a/b", "step5")),
        ("package:smollm2-135m", ("package", "smollm2-135m", None)),
        ("suite:nano-16-seed0@step512", ("suite", "nano-16-seed0", "step512")),
    ],
)
def test_addresses_have_four_forms(address: str, parts: tuple) -> None:
    parsed = checkpoints.parse(address)
    assert (parsed.kind, parsed.name, parsed.revision) == parts and str(parsed) == address


@pytest.mark.parametrize(
    "address",
    [
        "",
        "a b",
        "a/b/c",
        "org/name@",
        "package:nothing",
        "package:smollm2-135m@main",
        "suite:",
        "http://host/model",
        "other:thing",
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="no address of a model|unknown model"):
        checkpoints.load(address)


def test_missing_folders_and_weights_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder"):
        checkpoints.load(str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="holds no config.json"):
        checkpoints.head(str(tmp_path))
    MODELS["neox"]().config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="there are no weights: expected one of model.safetensors"):
        checkpoints.head(str(tmp_path))
    with pytest.raises(ValueError, match="a tokenizer only"):
        checkpoints.load("package:gpt2")


@pytest.mark.parametrize("name", ["neox-20b", "gpt2"])
def test_packaged_tokenizers_return_the_text(name: str) -> None:
    tokenizer = checkpoints.tokenizer(f"package:{name}")
    text = "Hello  world, été 2024\n\n\tdon't <tag> 日本"
    assert tokenizer.decode(tokenizer(text).input_ids, clean_up_tokenization_spaces=False) == text
    assert tokenizer.eos_token == "<|endoftext|>" and tokenizer.eos_token_id in (0, 50256)


def test_smollm2_predicts_and_its_head_is_its_embedding() -> None:
    model, tokenizer = checkpoints.load("package:smollm2-135m")
    assert not model.training and model.dtype == torch.float32
    with torch.no_grad():
        ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
        assert tokenizer.decode(model(ids).logits[0, -1].argmax()).strip() == "Paris"
    head = checkpoints.head("package:smollm2-135m")
    assert head.shape == (49152, 576) and torch.equal(head, model.get_input_embeddings().weight)
