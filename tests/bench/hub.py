"""Reading one head from a hub on loopback against downloading the whole file: bytes, time, memory."""

import io
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from statistics import median

from tests.bench import forget_peak, resident, row
from tests.hub_server import Hub, settle

ROUNDS = 3
VOCABULARY, WIDTH, LAYERS = 50_304, 1_024, 24  # Pythia-410m, in float16
HEAD = VOCABULARY * WIDTH * 2  # bytes
NAMES = {"safetensors": "model.safetensors", "bin": "pytorch_model.bin"}


def repository() -> dict[str, dict[str, bytes]]:
    """The files of a model of that shape, by layout."""
    import torch
    from safetensors.torch import save
    from transformers import GPTNeoXConfig

    body = {
        f"gpt_neox.layers.{layer}.{part}.weight": torch.zeros(*shape, dtype=torch.float16)
        for layer in range(LAYERS)
        for part, shape in {
            "attention.query_key_value": (3 * WIDTH, WIDTH),
            "attention.dense": (WIDTH, WIDTH),
            "mlp.dense_h_to_4h": (4 * WIDTH, WIDTH),
            "mlp.dense_4h_to_h": (WIDTH, 4 * WIDTH),
        }.items()
    }
    ends = {f"{name}.weight": torch.randn(VOCABULARY, WIDTH).half() for name in ("gpt_neox.embed_in", "embed_out")}
    pickled = io.BytesIO()
    torch.save(body | ends, pickled)
    config = {"config.json": GPTNeoXConfig(vocab_size=VOCABULARY, hidden_size=WIDTH).to_json_string().encode()}
    return {
        "safetensors": config | {NAMES["safetensors"]: save(body | ends)},
        "bin": config | {NAMES["bin"]: pickled.getvalue()},
    }


def head(address: str) -> tuple[float, int]:
    """Seconds, and bytes of memory beyond those before."""
    from lib.data import checkpoints

    forget_peak()
    before, start = resident("VmRSS"), time.perf_counter()
    kept = checkpoints.head(address)
    assert kept.shape == (VOCABULARY, WIDTH)
    return time.perf_counter() - start, resident("VmHWM") - before


def whole(name: str, revision: str, file: str) -> float:
    """Seconds for the download of the file and its loading."""
    import torch
    from huggingface_hub import hf_hub_download
    from safetensors.torch import load_file

    start = time.perf_counter()
    path = hf_hub_download(name, file, revision=revision, force_download=True)
    state = load_file(path) if file.endswith("safetensors") else torch.load(path, weights_only=True)
    assert state["embed_out.weight"].shape == (VOCABULARY, WIDTH)
    return time.perf_counter() - start


def main() -> None:
    """Alternate both ways, several rounds, for each layout."""
    hub = Hub()
    model = hub.model("org/pythia-410m-shaped")
    layouts = repository()
    with tempfile.TemporaryDirectory() as home:
        settings = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": f"{home}/hf",
            "BOOK_CACHE": f"{home}/book",
            "TQDM_DISABLE": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), settle, (settings,)) as client:
            for layout, files in layouts.items():
                heads, wholes, peaks = [], [], []
                for number in range(ROUNDS + 1):  # the first one imports
                    revision = f"{layout}-{number}"
                    model.add(revision, files)
                    hub.requests.clear()
                    seconds, peak = client.submit(head, f"org/pythia-410m-shaped@{revision}").result()
                    fetched = sum(request.sent for request in hub.requests)
                    heads.append(seconds)
                    peaks.append(peak)
                    wholes.append(client.submit(whole, "org/pythia-410m-shaped", revision, NAMES[layout]).result())
                target = 1.02 * HEAD + (1 << 20)
                row(
                    f"bytes fetched by head(), {layout}, 410M-shaped",
                    f"{fetched / HEAD:.4f} x the head",
                    "1.02 x + 1 MiB",
                    fetched <= target,
                )
                ratio = median(wholes[1:]) / median(heads[1:])
                row(f"head() against download and load, {layout}", f"{ratio:.1f} times less", "at least 5", ratio >= 5)
                share = max(peaks[1:]) / HEAD
                row(f"peak memory of head(), {layout}", f"{share:.2f} x the head", "at most 1.5", share <= 1.5)
    hub.close()


if __name__ == "__main__":
    main()
