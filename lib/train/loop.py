"""One training run: from its first checkpoint to its last, resumable after a kill at any moment."""

import contextlib
import dataclasses
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tqdm import tqdm

from lib.data import architecture
from lib.train import neox
from lib.train.mixture import windows

BETAS, EPSILON, DECAY, CLIP = (0.9, 0.95), 1e-8, 0.1, 1.0  # Pythia's
WARMUP, FLOOR = 0.01, 0.1  # Pythia's share of the steps, and its last learning rate over the highest
AT_ONCE = 32768  # tokens whose gradient is taken at once
STANDARD = "tokenizer.json", "tokenizer_config.json"


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that a run is made from, but for its text."""

    name: str
    width: int
    heads: int
    layers: int
    vocabulary: int
    context: int  # tokens
    tokens_per_step: int
    steps: int
    learning_rate: float  # the highest
    save_every: int  # steps, after step 512
    evaluations: int  # evenly spaced, besides those at the checkpoints
    validation_tokens: int
    seed: int  # of the initial weights and of the order of the text
    output_bias: bool = False  # added to the logits, first the log frequency of each token
    arm: str = "base"
    dtype: str = "float32"  # of the body's products; the head's are float32

    def saved_steps(self) -> list[int]:
        """Steps of the checkpoints: Pythia's schedule, and the last step."""
        early = (0, *(2**power for power in range(10)))
        later = range(512 + self.save_every, self.steps, self.save_every)
        return sorted({step for step in (*early, *later, self.steps) if step <= self.steps})

    def evaluated_steps(self) -> list[int]:
        """Steps at which the validation loss is taken: those of the checkpoints and evenly spaced ones."""
        even = (round(self.steps * part / self.evaluations) for part in range(self.evaluations))
        return sorted({*self.saved_steps(), *even})


def learning_rate(step: int, steps: int, highest: float) -> float:
    """Rate of update `step` (1 for the first): linear warm-up over 1 % of the steps, cosine down to a tenth."""
    warm = max(1, round(WARMUP * steps))
    if step <= warm:
        return highest * step / warm
    share = (step - warm) / (steps - warm)
    return highest * (FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * share)) / 2)


def log_unigram(ids: np.ndarray, vocabulary: int) -> torch.Tensor:
    """Log frequency of each token in a stream, (V,), with one added to each count."""
    counts = np.bincount(ids, minlength=vocabulary) + 1.0
    return torch.from_numpy(np.log(counts / counts.sum())).float()


class Training:
    """A model under training: its weights, its optimiser, and its losses so far."""

    def __init__(self, run: Run, stream: np.ndarray, device: str = "cpu"):
        self.dtype = architecture.product_dtype(run.dtype)
        self.run, self.device, self.step, self.log = run, device, 0, {"train": [], "validation": [], "seconds": 0.0}
        network = neox.model(run.width, run.layers, run.heads, run.vocabulary, run.context, run.seed)
        self.network = network.to(device)
        self.bias = torch.nn.Parameter(log_unigram(stream, run.vocabulary).to(device)) if run.output_bias else None
        parameters = [*self.network.parameters(), *([] if self.bias is None else [self.bias])]
        self.optimiser = torch.optim.AdamW(
            [  # as in GPT-NeoX, matrices decay and vectors don't
                {"params": [p for p in parameters if p.ndim > 1], "weight_decay": DECAY},
                {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
            ],
            betas=BETAS,
            eps=EPSILON,
            fused=True,
        )
        self.parameters = parameters

    def loss(self, rows: torch.Tensor) -> torch.Tensor:
        """Mean loss in nats per token on windows (n, context + 1)."""
        rows = rows.to(self.device)
        with torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32):
            states = self.network.gpt_neox(rows[:, :-1], use_cache=False).last_hidden_state.flatten(0, 1)
        return neox.head_loss(states, self.network.lm_head.weight, rows[:, 1:].flatten(), self.bias)

    def update(self, rows: torch.Tensor) -> float:
        """One optimiser step on windows (n, context + 1); returns the loss before it.

        Raises FloatingPointError for a loss that is not finite, and changes nothing then.
        """
        self.optimiser.zero_grad()
        total = 0.0
        for part in self._parts(rows):
            loss = self.loss(part) * (len(part) / len(rows))
            loss.backward()
            total += loss.item()
        if not math.isfinite(total):
            raise FloatingPointError(
                f"the loss of {self.run.name} is {total} at step {self.step}: expected a finite number; "
                "lower its learning_rate and train again"
            )
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.step += 1
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, self.run.steps, self.run.learning_rate)
        self.optimiser.step()
        return total

    @torch.no_grad()
    def evaluate(self, rows: torch.Tensor) -> float:
        """Mean loss in nats per token over windows (n, context + 1), a few at once."""
        return math.fsum(self.loss(part).item() * len(part) for part in self._parts(rows)) / len(rows)

    def save(self, folder: Path, text: Path) -> None:
        """Write folder/stepN in Pythia's layout, the output bias beside it, then folder/state.pt to go on from."""
        if not (folder / f"step{self.step}").exists():  # else left by a process killed before it wrote its state
            _write(folder / f"step{self.step}", lambda path: self._checkpoint(path, text))
        state = {
            "network": self.network.state_dict(),
            "bias": self.bias,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "log": self.log,
        }
        _write(folder / "state.pt", lambda path: torch.save(state, path))

    def resume(self, file: Path) -> None:
        """Go back to where save() was called."""
        state = torch.load(file, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.bias is not None:
            self.bias.data.copy_(state["bias"])
        self.step, self.log = state["step"], state["log"]

    def _parts(self, rows):
        return rows.split(max(1, AT_ONCE // (rows.shape[1] - 1)))

    def _checkpoint(self, path, text):
        self.network.config.save_pretrained(path)
        weights = {name.replace("lm_head.", "embed_out."): value for name, value in self.network.state_dict().items()}
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
        if self.bias is not None:
            save_file({"bias": self.bias.detach()}, path / "output_bias.safetensors")
        for name in STANDARD:
            shutil.copyfile(text / name, path / name)


@contextlib.contextmanager
def fast() -> Iterator[None]:
    """Settings of this process under which a step is fastest; the earlier ones come back at the end."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two runs beside one another, rather than one run on two threads
    torch.set_flush_denormal(True)  # denormal moments of rare tokens slow Adam down several times
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)


@fast()
def train(run: Run, text: Path, folder: Path, device: str = "cpu", bar: dict | None = None) -> None:
    """Train a run on the streams in `text`; leaves folder/stepN, HF checkpoints, and folder/log.json.

    Goes on from folder/state.pt where a killed process left one, to the same final bytes.
    Raises ValueError where a run asks for more than one epoch, FloatingPointError for a loss that is not finite.
    """
    stream = np.load(text / "train.npy", mmap_mode="r")
    batches = _batches(run, stream)
    held_out = windows(np.load(text / "validation.npy", mmap_mode="r"), run.context)
    chosen = np.random.default_rng(0).permutation(len(held_out))[: run.validation_tokens // run.context]
    validation = _rows(held_out, chosen)
    training = Training(run, stream, device)
    if (folder / "state.pt").exists():
        training.resume(folder / "state.pt")
    saved, evaluated, recent = set(run.saved_steps()), set(run.evaluated_steps()), []
    size, first, clock = run.tokens_per_step, training.step, time.monotonic() - training.log["seconds"]

    def record():
        point = {"step": training.step, "tokens": training.step * size}
        if recent:  # the mean since the point before
            training.log["train"].append(point | {"loss": math.fsum(recent) / len(recent)})
            recent.clear()
        training.log["validation"].append(point | {"loss": training.evaluate(validation)})
        training.log["seconds"] = time.monotonic() - clock
        if training.step in saved:
            training.save(folder, text)

    if first == 0:
        record()
    with tqdm(
        total=run.steps * size,
        initial=first * size,
        unit="tok",
        unit_scale=True,
        desc=run.name,
        mininterval=0.5 if sys.stderr.isatty() else 60,  # a bar on a pipe is a line each time
        **(bar or {}),
    ) as progress:
        for step in range(first, run.steps):
            recent.append(training.update(batches(step)))
            progress.update(size)
            if training.step in evaluated:
                record()
    log = training.log | {
        "run": dataclasses.asdict(run),
        "mixture": json.loads((text / "mixture.json").read_text()),
        "tokens_per_step": size,
        "epoch": run.steps * size / len(stream),
        "parameters": sum(p.numel() for p in training.network.parameters()),
        "non_embedding": sum(p.numel() for p in training.network.gpt_neox.layers.parameters()),
        "tokens_per_second": run.steps * size / training.log["seconds"],
    }
    _write(folder / "log.json", lambda path: path.write_text(json.dumps(log, indent=1)))
    (folder / "state.pt").unlink()


def _batches(run: Run, stream: np.ndarray) -> Callable[[int], torch.Tensor]:
    """Batch by number: windows of the stream in an order drawn from the seed, none of them twice."""
    rows, per_step = windows(stream, run.context), run.tokens_per_step // run.context
    if per_step * run.steps > len(rows):
        raise ValueError(
            f"{run.name} would read {run.tokens_per_step * run.steps:,} of {len(stream):,} tokens, more than an epoch: "
            "expected fewer steps or tokens per step"
        )
    order = np.random.default_rng(run.seed).permutation(len(rows))
    return lambda step: _rows(rows, order[step * per_step : (step + 1) * per_step])


def _rows(rows, numbers):
    return torch.from_numpy(rows[np.sort(numbers)].astype(np.int64))  # sorted: read in the file's order


def _write(path, write):
    """Write beside the place, then rename: a reader sees all of it or nothing."""
    scratch = path.with_name(f"{path.name}.new")
    shutil.rmtree(scratch, ignore_errors=True)
    write(scratch)
    os.replace(scratch, path)
