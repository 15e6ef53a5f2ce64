"""The hub, through the real client in a process of its own, against a server on loopback that fails on demand."""

import io
import json
import multiprocessing
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
import torch
from safetensors.torch import load, save
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    OPTConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3_5Config,
)

from lib.data import checkpoints, corpora, hub
from tests.hub_server import Fault, Hub, Repository, settle

ROWS, WIDTH = 4000, 16
HEAD = ROWS * WIDTH * 4  # bytes
NUMBER = count()


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    started = Hub()
    yield started
    started.close()


@pytest.fixture(scope="module")
def start(server: Hub) -> Iterator[Callable]:
    """Start a process whose hub is the server, with given caches and settings; it runs calls one after another."""
    pools = []

    def started(folder: Path, **settings: str) -> Callable:
        environment = {
            "HF_ENDPOINT": server.endpoint,
            "HF_HOME": str(folder / "hf"),
            "TQDM_DISABLE": "1",
            "BOOK_CACHE": str(folder / "book"),
            "NO_PROXY": "*",
        } | settings
        pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), settle, (environment,))
        pools.append(pool)
        return lambda function, *arguments: pool.submit(function, *arguments).result(timeout=120)

    yield started
    for pool in pools:
        pool.shutdown()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def call(start: Callable, home: Path) -> Callable:
    return start(home)


@pytest.fixture(scope="module")
def offline(start: Callable, home: Path) -> Callable:
    return start(home, HF_HUB_OFFLINE="1")


def model(seed: int = 0) -> GPTNeoXForCausalLM:
    torch.manual_seed(seed)
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=ROWS,
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            dtype=torch.float32,
        )
    )


def old_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The keys of Pythia's own files."""
    return {
        key.replace("lm_head", "embed_out").replace("model.", "gpt_neox.", 1): value.clone()
        for key, value in state.items()
    }


def files(saved: GPTNeoXForCausalLM, layout: str) -> dict[str, bytes]:
    """What a repository of the model holds, in one of the layouts found on the hub."""
    with tempfile.TemporaryDirectory() as name:
        folder, state = Path(name), old_names(saved.state_dict())
        saved.config.save_pretrained(folder)
        words = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
        PreTrainedTokenizerFast(tokenizer_object=words, eos_token="a").save_pretrained(folder)
        if layout == "shards":
            saved.save_pretrained(folder, max_shard_size="300KB")
        elif layout == "safetensors":
            (folder / "model.safetensors").write_bytes(save(state, {"format": "pt"}))
        elif layout == "bin-shards":
            parts = {key: f"pytorch_model-0000{1 + number % 2}-of-00002.bin" for number, key in enumerate(state)}
            for part in set(parts.values()):
                torch.save({key: state[key] for key in state if parts[key] == part}, folder / part)
            (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": parts}))
        elif layout != "none":
            torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=layout == "bin")
        return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def repository(server: Hub) -> Iterator[tuple[str, Repository]]:
    """An empty repository under a name not used before, on a server in good health."""
    name = f"org/tiny-{next(NUMBER)}"
    server.faults.clear()
    server.requests.clear()
    yield name, server.model(name)
    server.faults.clear()


def sent(server: Hub) -> int:
    return sum(request.sent for request in server.requests)


def head(address: str, rows: int | None = None) -> np.ndarray:
    return checkpoints.head(address, rows).numpy()


def decoded(address: str) -> str:
    return checkpoints.tokenizer(address).decode([0])


def first_logits(address: str) -> np.ndarray:
    loaded, _ = checkpoints.load(address)
    with torch.no_grad():
        return loaded(torch.arange(8)[None]).logits.numpy()


@pytest.mark.parametrize("layout", ["safetensors", "shards", "bin", "bin-shards", "legacy-bin"])
def test_head_and_model_come_from_every_layout(call: Callable, server: Hub, repository: tuple, layout: str) -> None:
    name, repo = repository
    saved = model()
    repo.add("step512", files(saved, layout))
    assert np.array_equal(call(head, f"{name}@step512"), saved.lm_head.weight.detach().numpy())
    if layout != "legacy-bin":
        assert sent(server) <= 1.02 * HEAD + (1 << 20)
        assert not [request for request in server.requests if "/other-host/" in request.path and not request.range]
    asked = len(server.requests)
    assert call(head, f"{name}@step512", 7).shape == (7, WIDTH)
    assert len(server.requests) == asked  # kept: no second request, whatever the rows
    with torch.no_grad():
        expected = saved(torch.arange(8)[None]).logits.numpy()
    np.testing.assert_allclose(call(first_logits, f"{name}@step512"), expected, atol=1e-5)


def test_revisions_are_sorted_by_step(call: Callable, repository: tuple) -> None:
    name, repo = repository
    for branch in ("main", "step1000", "step0", "step512", "step143000"):
        repo.add(branch, {"config.json": branch.encode()})
    assert call(checkpoints.revisions, name) == ["step0", "step512", "step1000", "step143000", "main"]


def test_revisions_hold_different_weights(call: Callable, repository: tuple) -> None:
    name, repo = repository
    for seed in (1, 2):
        repo.add(f"step{seed}", files(model(seed), "safetensors"))
    for seed in (1, 2):
        assert np.array_equal(call(head, f"{name}@step{seed}"), model(seed).lm_head.weight.detach().numpy())


def test_a_revision_is_resolved_once_and_never_moves(call: Callable, server: Hub, repository: tuple) -> None:
    name, repo = repository
    first = repo.add("main", files(model(1), "safetensors"))
    assert call(checkpoints.fingerprint, name) == f"{name}@{first}"
    repo.add("main", files(model(2), "safetensors"))
    server.requests.clear()
    assert call(checkpoints.fingerprint, name) == f"{name}@{first}" and not server.requests
    assert call(hub.recorded)[f"models/{name}@main"] == first
    assert np.array_equal(call(head, name), model(1).lm_head.weight.detach().numpy())


def test_a_tied_head_is_the_input_embedding(call: Callable, repository: tuple) -> None:
    name, repo = repository
    stored = files(model(), "safetensors")
    state = load(stored["model.safetensors"])
    embedding = state.pop("embed_out.weight")
    state["gpt_neox.embed_in.weight"] = embedding
    stored["model.safetensors"] = save(state)
    stored["config.json"] = json.dumps(json.loads(stored["config.json"]) | {"tie_word_embeddings": True}).encode()
    repo.add("main", stored)
    assert np.array_equal(call(head, name), embedding.numpy())


def test_download_sizes_are_stated_before(call: Callable, server: Hub, repository: tuple) -> None:
    name, repo = repository
    stored = files(model(), "safetensors")
    repo.add("main", stored)
    assert call(checkpoints.download_size, name) == {"head": HEAD, "model": len(stored["model.safetensors"])}
    assert sent(server) < HEAD / 2
    call(head, name)
    call(first_logits, name)
    assert call(checkpoints.download_size, name) == {"head": 0, "model": 0}


def saved_files(saved: PreTrainedModel, **options: object) -> dict[str, bytes]:
    """What save_pretrained writes, and a tokenizer."""
    with tempfile.TemporaryDirectory() as name:
        saved.save_pretrained(name, **options)
        tokenizer = {key: body for key, body in files(model(), "none").items() if "token" in key}
        return {path.name: path.read_bytes() for path in Path(name).iterdir()} | tokenizer


NARROW = {"vocab_size": ROWS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZED = {
    "narrower than the states": (
        lambda: OPTConfig(**NARROW, ffn_dim=32, word_embed_proj_dim=8, max_position_embeddings=32),
        ROWS * 8 * 4,
    ),
    "of several media": (
        lambda: Qwen3_5Config(
            text_config=NARROW
            | {"intermediate_size": 32, "num_key_value_heads": 2, "head_dim": 8, "layer_types": ["full_attention"] * 2}
        ),
        ROWS * 32 * 4,
    ),
}


@pytest.mark.parametrize("kind", SIZED)
@pytest.mark.parametrize("shards", ["1GB", "100KB"])
def test_download_sizes_are_those_of_the_files(call: Callable, repository: tuple, kind: str, shards: str) -> None:
    name, repo = repository
    config, size = SIZED[kind]
    torch.manual_seed(0)
    stored = saved_files(AutoModelForCausalLM.from_config(config()), max_shard_size=shards)
    repo.add("main", stored)
    weights = sum(len(body) for path, body in stored.items() if path.endswith(".safetensors"))
    assert call(checkpoints.download_size, name) == {"head": size, "model": weights}
    assert call(head, name).nbytes == size
    assert call(checkpoints.download_size, name) == {"head": 0, "model": weights}
    assert call(first_logits, name).shape == (1, 8, ROWS)
    assert call(checkpoints.download_size, name) == {"head": 0, "model": 0}


@pytest.mark.parametrize("layout", ["safetensors", "shards", "bin-shards"])
def test_a_model_is_available_when_all_of_it_is(
    call: Callable, offline: Callable, server: Hub, repository: tuple, layout: str
) -> None:
    name, repo = repository
    repo.add("main", files(model(), layout))
    assert not call(checkpoints.available, name)
    call(head, name)
    for process in (call, offline):
        assert not process(checkpoints.available, name)
    call(decoded, name)
    for process in (call, offline):
        assert not process(checkpoints.available, name)
    for read in (checkpoints.load, first_logits):
        with pytest.raises(ConnectionError, match=f"{name}@main is not in the cache: unset HF_HUB_OFFLINE once"):
            offline(read, name)
    assert offline(decoded, name) == "a"
    call(first_logits, name)
    server.requests.clear()
    for process in (call, offline):
        assert process(checkpoints.available, name) and process(first_logits, name).shape == (1, 8, ROWS)
    assert not server.requests


def test_revisions_are_found_as_the_hub_finds_them(call: Callable, offline: Callable, repository: tuple) -> None:
    name, repo = repository
    shas = {branch: repo.add(branch, files(model(seed), "bin")) for seed, branch in enumerate(["main", "refs/pr/3"])}
    for address in (f"{name}@refs/pr/3", f"{name}@{shas['refs/pr/3']}", f"{name}@{shas['refs/pr/3'].upper()}"):
        assert call(checkpoints.fingerprint, address) == f"{name}@{shas['refs/pr/3']}"
        assert np.array_equal(call(head, address), model(1).lm_head.weight.detach().numpy())
        with torch.no_grad():
            expected = model(1)(torch.arange(8)[None]).logits.numpy()
        np.testing.assert_allclose(call(first_logits, address), expected, atol=1e-5)
        assert offline(checkpoints.available, address)


def replaced(stored: dict, name: str, body: bytes | None) -> dict[str, bytes]:
    return {path: bytes_ for path, bytes_ in (stored | {name: body}).items() if bytes_ is not None}


def rewritten(change: Callable[[dict], dict]) -> Callable[[dict], dict]:
    return lambda stored: stored | {"model.safetensors": save(change(load(stored["model.safetensors"])))}


WHOLE = {
    "wrapped": rewritten(lambda state: {f"_orig_mod.{key}": tensor for key, tensor in state.items()}),
    "wrapped twice": rewritten(lambda state: {f"module.model.{key}": tensor for key, tensor in state.items()}),
    "odd names of shards": lambda stored: (
        replaced(stored, "model.safetensors", None)
        | {
            "weights.safetensors": stored["model.safetensors"],
            "model.safetensors.index.json": json.dumps(
                {"weight_map": dict.fromkeys(load(stored["model.safetensors"]), "weights.safetensors")}
            ).encode(),
        }
    ),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_what_can_be_read_is_read_from_the_hub(call: Callable, repository: tuple, kind: str) -> None:
    name, repo = repository
    repo.add("main", WHOLE[kind](files(model(), "safetensors")))
    assert np.array_equal(call(head, name), model().lm_head.weight.detach().numpy())
    with torch.no_grad():
        expected = model()(torch.arange(8)[None]).logits.numpy()
    np.testing.assert_allclose(call(first_logits, name), expected, atol=1e-5)


def test_a_tokenizer_comes_from_the_hub_without_a_model(call: Callable, server: Hub, repository: tuple) -> None:
    name, repo = repository
    stored = files(model(), "safetensors")
    repo.add("main", {path: body for path, body in stored.items() if "token" in path})
    repo.add("nothing", {"README.md": b""})
    assert call(decoded, name) == "a"
    server.requests.clear()
    assert call(decoded, name) == "a" and not server.requests
    with pytest.raises(ValueError, match="holds no tokenizer: expected one of tokenizer.json"):
        call(decoded, f"{name}@nothing")
    with pytest.raises(ValueError, match="has no config.json"):
        call(first_logits, name)


def test_the_bias_of_a_head_comes_from_the_hub(call: Callable, repository: tuple) -> None:
    name, repo = repository
    repo.add("plain", files(model(), "safetensors"))
    repo.add("biased", files(model(), "safetensors") | {"output_bias.safetensors": save({"bias": torch.ones(ROWS)})})
    plain, biased = (call(first_logits, f"{name}@{branch}") for branch in ("plain", "biased"))
    np.testing.assert_allclose(biased, plain + 1, atol=1e-5)


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n".encode()
PARTIAL = {
    "a pointer": (lambda stored: stored | {"model.safetensors": POINTER}, "safetensors is a Git LFS pointer", True),
    "a pointer for a .bin": (
        lambda stored: replaced(stored, "model.safetensors", None) | {"pytorch_model.bin": POINTER},
        "pytorch_model.bin is a Git LFS pointer",
        True,
    ),
    "an encoder": (
        lambda stored: stored | {"config.json": b'{"model_type": "bert"}'},
        "type bert: expected a causal language model",
        True,
    ),
    "an adapter": (
        lambda stored: {"adapter_config.json": b'{"base_model_name_or_path": "org/base"}', "adapter_model.bin": b""},
        "an adapter of 'org/base': expected a whole model",
        True,
    ),
    "a shard that is not there": (
        lambda stored: (
            replaced(stored, "model.safetensors", None)
            | {
                "a.safetensors": stored["model.safetensors"],
                "model.safetensors.index.json": json.dumps(
                    {"weight_map": {"embed_out.weight": "a.safetensors", "x": "b.safetensors"}}
                ).encode(),
            }
        ),
        "b.safetensors is absent",
        False,
    ),
    "no head": (
        rewritten(lambda state: {key: state[key] for key in state if "embed_out" not in key}),
        "holds no head: expected lm_head.weight, as the GPTNeoXForCausalLM has it",
        True,
    ),
    "no norm": (
        rewritten(lambda state: {key: state[key] for key in state if "final_layer_norm" not in key}),
        "2 missing, such as .*final_layer_norm",
        False,
    ),
    "no tokenizer": (lambda stored: replaced(stored, "tokenizer.json", None), "holds no tokenizer", False),
}


@pytest.mark.parametrize("kind", PARTIAL)
def test_what_cannot_be_read_from_the_hub_is_told(call: Callable, repository: tuple, kind: str) -> None:
    name, repo = repository
    change, message, with_head = PARTIAL[kind]
    stored = files(model(), "safetensors")
    repo.add("main", change(stored))
    for read in (first_logits, head)[: 1 + with_head]:
        with pytest.raises(ValueError, match=message) as error:
            call(read, name)
        assert "\n" not in str(error.value)


def test_offline_serves_what_is_kept_and_tells_what_is_not(
    call: Callable, offline: Callable, server: Hub, repository: tuple
) -> None:
    name, repo = repository
    saved = model()
    repo.add("step1", files(saved, "safetensors"))
    repo.add("step2", files(saved, "bin"))
    call(head, f"{name}@step1")
    logits = call(first_logits, f"{name}@step1")
    server.requests.clear()
    assert np.array_equal(offline(head, f"{name}@step1"), saved.lm_head.weight.detach().numpy())
    assert np.array_equal(offline(first_logits, f"{name}@step1"), logits)
    assert offline(checkpoints.available, f"{name}@step1") and not offline(checkpoints.available, f"{name}@step2")
    with pytest.raises(ConnectionError, match="@step2 is not in the cache: unset HF_HUB_OFFLINE"):
        offline(head, f"{name}@step2")
    assert not server.requests


def test_a_token_opens_and_stays_on_the_hub(start: Callable, call: Callable, home: Path, server: Hub) -> None:
    name = f"org/private-{next(NUMBER)}"
    server.model(name, private=True).add("main", files(model(), "safetensors"))
    server.requests.clear()
    with pytest.raises(ValueError, match=f"no repository {name} that you may read: check the name, or set HF_TOKEN"):
        call(head, name)
    assert start(home, HF_TOKEN=server.token)(head, name).shape == (ROWS, WIDTH)
    elsewhere = [request for request in server.requests if "/other-host/" in request.path]
    assert elsewhere and all(request.token is None and request.host.startswith("localhost") for request in elsewhere)


def test_gated_models_ask_for_their_licence(call: Callable, server: Hub) -> None:
    name = f"org/gated-{next(NUMBER)}"
    server.model(name, gated=True).add("main", files(model(), "safetensors"))
    with pytest.raises(ValueError, match=f"{name} is gated: accept its licence on its page, then set HF_TOKEN"):
        call(head, name)


def test_what_does_not_exist_is_told(call: Callable, repository: tuple) -> None:
    name, repo = repository
    repo.add("main", files(model(), "safetensors"))
    with pytest.raises(ValueError, match=f"{name} has no revision 'step7': .*revisions.*lists them"):
        call(head, f"{name}@step7")
    with pytest.raises(ValueError, match="has no repository org/nothing that you may read"):
        call(checkpoints.load, "org/nothing")
    without = files(model(), "safetensors")
    del without["model.safetensors"]
    repo.add("bare", without)
    with pytest.raises(ValueError, match="there are no weights: expected one of model.safetensors"):
        call(head, f"{name}@bare")
    del without["config.json"]
    repo.add("empty", without)
    with pytest.raises(ValueError, match="has no config.json at .*: expected a model's repository"):
        call(head, f"{name}@empty")


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET /api/", times=2, status=429, headers={"Retry-After": "0"}),
        Fault("GET /api/", times=2, status=503),
        Fault("GET .*safetensors", times=2, status=503),
        Fault("other-host", times=1, status=429, headers={"Retry-After": "0"}),
        Fault("other-host", times=3, cut=100_000),
        Fault("other-host", times=2, cut=0),
    ],
    ids=["busy", "down", "resolve-down", "cdn-busy", "cut", "cut-at-once"],
)
def test_a_fault_that_passes_is_survived(call: Callable, server: Hub, repository: tuple, fault: Fault) -> None:
    name, repo = repository
    repo.add("main", files(model(), "safetensors"))
    server.faults.append(fault)
    assert np.array_equal(call(head, name), model().lm_head.weight.detach().numpy())
    assert fault.times == 0


def test_a_cut_range_goes_on_where_it_ended(call: Callable, server: Hub, repository: tuple) -> None:
    name, repo = repository
    repo.add("main", files(model(), "safetensors"))
    server.faults.append(Fault("other-host", times=3, cut=100_000))
    call(head, name)
    assert sent(server) <= 1.02 * HEAD + (1 << 18)


def test_a_wrong_length_is_refused(call: Callable, server: Hub, repository: tuple) -> None:
    name, repo = repository
    stored = files(model(), "safetensors")
    repo.add("short", stored | {"model.safetensors": stored["model.safetensors"][: HEAD // 2]})
    with pytest.raises(ValueError, match="the file ends [0-9]+ bytes before the end of the head"):
        call(head, f"{name}@short")
    repo.add("main", stored)
    server.faults.append(Fault("GET /other-host", whole=True))
    with pytest.raises(ValueError, match="answered 200 .*expected exactly that range"):
        call(head, name)


def test_corrupted_bytes_are_told_and_nothing_is_kept(call: Callable, server: Hub, repository: tuple) -> None:
    name, repo = repository
    repo.add("main", files(model(), "safetensors"))
    server.faults.append(Fault("other-host", times=1, change=lambda body: bytes(255 - byte for byte in body)))
    with pytest.raises(ValueError, match="not a safetensors file: .*fetch it again"):
        call(head, name)
    assert np.array_equal(call(head, name), model().lm_head.weight.detach().numpy())  # the next time is a fresh one


class Payload:
    """Runs code when unpickled."""

    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return exec, (f"open({self.trace!r}, 'w')",)


def test_a_malicious_pickle_is_refused_without_running(call: Callable, repository: tuple, tmp_path: Path) -> None:
    name, repo = repository
    trace = tmp_path / "ran"
    for layout in ("zip", "legacy"):
        torch.save(
            {"embed_out.weight": torch.ones(2, 2), "x": Payload(str(trace))},
            tmp_path / layout,
            _use_new_zipfile_serialization=layout == "zip",
        )
        repo.add(layout, files(model(), "none") | {"pytorch_model.bin": (tmp_path / layout).read_bytes()})
        with pytest.raises(ValueError, match="pickle .*refused without running it"):
            call(head, f"{name}@{layout}")
        with pytest.raises(ValueError, match="pickle .*refused without running it"):
            call(checkpoints.load, f"{name}@{layout}")
    assert not trace.exists()


def test_a_zip_bomb_and_a_path_traversal_are_refused(call: Callable, server: Hub, repository: tuple) -> None:
    name, repo = repository
    config, bomb = files(model(), "none"), io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    repo.add("bomb", config | {"pytorch_model.bin": bomb.getvalue()})
    with pytest.raises(ValueError, match="is compressed, which PyTorch's files are not"):
        call(head, f"{name}@bomb")
    index = json.dumps({"weight_map": {"lm_head.weight": "../../other/model.safetensors"}}).encode()
    repo.add("traversal", config | {"model.safetensors.index.json": index})
    server.requests.clear()
    with pytest.raises(ValueError, match="points at '../../other/model.safetensors'"):
        call(head, f"{name}@traversal")
    assert not [request for request in server.requests if "other/model" in request.path]


def table(texts: list[str]) -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": texts}), buffer)
    return buffer.getvalue()


def corpus(name: str, split: str | None = None) -> list[str]:
    return list(corpora.documents(name, split)["text"])


def test_corpora_come_from_the_hub_once(call: Callable, server: Hub) -> None:
    server.faults.clear()
    lines = [
        line
        for number in range(200)
        for line in (
            f" = Article {number} = \n",
            "",
            f" The text of article {number} . \n",
            " = = Part = = \n",
            " More . \n",
        )
    ]
    readme = (
        "---\nconfigs:\n- config_name: wikitext-103-raw-v1\n  data_files:\n  - split: train\n"
        "    path: wikitext-103-raw-v1/train-*\n---\n"
    )
    wikitext = server.dataset("Salesforce/wikitext")
    first = wikitext.add("main", {"README.md": readme.encode(), "wikitext-103-raw-v1/train-0.parquet": table(lines)})
    server.dataset("EleutherAI/the_pile_deduplicated").add(
        "main",
        {
            f"data/train-0000{shard}-of-00003.parquet": table(
                [f"document {shard} {number} {'x' * 99}" for number in range(50)]
            )
            for shard in range(3)
        },
    )
    articles = call(corpus, "hub:wikitext")
    assert len(articles) == 200 and articles[3].startswith("= Article 3 =") and "More ." in articles[3]
    halves = call(corpus, "hub:wikitext", "train") + call(corpus, "hub:wikitext", "validation")
    assert sorted(halves) == sorted(articles)
    assert len(set(call(corpus, "hub:pile"))) == 150  # fewer than the sample: all of them, streamed
    wikitext.add("main", {"README.md": b"", "train.parquet": table(["moved"])})
    server.requests.clear()
    assert call(corpus, "hub:wikitext") == articles and not server.requests
    assert call(hub.recorded)["datasets/Salesforce/wikitext@main"] == first


def test_a_hub_that_cannot_be_reached_is_told(start: Callable, tmp_path: Path) -> None:
    nobody = start(tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match="http://127.0.0.1:9 cannot be reached for org/any@main .*HF_ENDPOINT"):
        nobody(head, "org/any")
