"""The suite's training against a plain loop over GPTNeoXForCausalLM(labels=...): tokens per second, loss, memory.

The plain loop gets two threads; the suite runs two models beside one another on a thread each, as `make suite` does.
The two alternate, each in fresh processes. Run on a quiet machine: python -m tests.bench.suite
"""

import json
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from transformers import GPTNeoXForCausalLM

from lib.train import loop, mixture, neox
from tests.bench import row

BATCHES = {4096: 10, 1024: 30}  # tokens per step, and steps timed
TARGETS = {16: 3, 64: 2}
ROUNDS = 3


def settings(width, tokens_per_step):
    """A run of the laptop suite, but for its length."""
    return loop.Run(
        name="bench",
        width=width,
        heads={16: 2, 64: 4}[width],
        layers=3,
        vocabulary=4096,
        context=128,
        tokens_per_step=tokens_per_step,
        steps=4096,
        learning_rate=5e-3,
        save_every=4096,
        evaluations=1,
        validation_tokens=128,
        seed=0,
    )


def batches(run, count):
    """Windows of tokens drawn by Zipf's law."""
    ids = np.random.default_rng(0).zipf(1.3, run.tokens_per_step * count + 1) % run.vocabulary
    return torch.from_numpy(mixture.windows(ids, run.context).copy()).split(run.tokens_per_step // run.context)


def plain(run):
    """Step function of the plain loop: rows -> loss."""
    network: GPTNeoXForCausalLM = neox.model(run.width, run.layers, run.heads, run.vocabulary, run.context, run.seed)
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in network.parameters() if p.ndim > 1], "weight_decay": loop.DECAY},
            {"params": [p for p in network.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ],
        betas=loop.BETAS,
        eps=loop.EPSILON,
    )
    done = 0

    def step(rows):
        nonlocal done
        done += 1
        for group in optimiser.param_groups:
            group["lr"] = loop.learning_rate(done, run.steps, run.learning_rate)
        optimiser.zero_grad()
        # labels= would shift within the window and lose its last target: this is the same loss on the same targets
        loss = network(input_ids=rows[:, :-1], labels=rows[:, :-1], shift_labels=rows[:, 1:].contiguous()).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), loop.CLIP)
        optimiser.step()
        return loss.item()

    return step


def ours(run):
    """Step function of the suite: rows -> loss."""
    return loop.Training(run, np.zeros(1, dtype=np.int64)).update


def child(kind, width, tokens_per_step):
    """In a process of its own: losses of 20 steps, tokens per second, peak bytes added by a step."""
    run = settings(int(width), int(tokens_per_step))
    count = BATCHES[run.tokens_per_step]
    rows = batches(run, 20 + count)
    if kind == "plain":
        torch.set_num_threads(2)
        step = plain(run)
        result = measure(step, rows)
    else:
        with loop.fast():
            result = measure(ours(run), rows)
    print(json.dumps(result))


def measure(step, rows):
    """Losses of 20 steps, then the speed of the rest; memory: the growth of the peak resident set, buffers included."""
    F.linear(torch.ones(8, 8), torch.ones(8, 8)).sum()  # libraries load their buffers
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    losses = [step(part) for part in rows[:20]]
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    start = time.perf_counter()
    for part in rows[20:]:
        step(part)
    tokens = sum(len(part) * (part.shape[1] - 1) for part in rows[20:])
    return {"losses": losses, "speed": tokens / (time.perf_counter() - start), "memory": memory}


def start(*arguments):
    """A child of this module."""
    return subprocess.Popen([sys.executable, "-m", "tests.bench.suite", *map(str, arguments)], stdout=subprocess.PIPE)


def finish(*children):
    """What children printed."""
    return [json.loads(done.communicate()[0]) for done in children]


def main():
    """Print the table."""
    for width, target in TARGETS.items():
        for size in BATCHES:
            pairs = []
            for _ in range(ROUNDS):
                one = finish(start("plain", width, size))
                two = finish(start("ours", width, size), start("ours", width, size))
                pairs.append((one[0], two))
            ratio = statistics.median(sum(run["speed"] for run in two) / one["speed"] for one, two in pairs)
            fast, slow = (
                statistics.median(speeds)
                for speeds in (
                    [sum(run["speed"] for run in two) for _, two in pairs],
                    [one["speed"] for one, _ in pairs],
                )
            )
            name = f"nano-{width}, {size} tokens a step"
            row(
                f"{name}: tokens per second over the plain loop's",
                f"{ratio:.1f} ({fast:,.0f} / {slow:,.0f})",
                f">= {target}",
                ratio >= target,
            )
            gap = abs(pairs[0][0]["losses"][-1] - pairs[0][1][0]["losses"][-1])
            row(f"{name}: difference in loss after 20 steps", f"{gap:.1e}", "<= 1e-5", gap <= 1e-5)
            share = pairs[0][1][0]["memory"] / pairs[0][0]["memory"]
            row(f"{name}: peak memory of a step over the plain loop's", f"{share:.2f}", "<= 0.5", share <= 0.5)


if __name__ == "__main__":
    child(*sys.argv[1:]) if len(sys.argv) > 1 else main()
