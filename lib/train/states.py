"""Last hidden states of a frozen model on a text: computed once, kept on disk in bf16, resumed after a kill."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock


def windows(tokens: np.ndarray, context: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Disjoint windows of a token stream, and the token that follows each position: both (n, context), int64.

    A rest shorter than a window is dropped. Raises ValueError where not even one fits.
    """
    count = (len(tokens) - 1) // context
    if context < 1 or count < 1:
        least = max(context, 1) + 1
        raise ValueError(f"there are {len(tokens)} tokens: pass at least {least}, one window and its last label.")
    stream = torch.from_numpy(np.array(tokens[: count * context + 1], dtype=np.int64))
    return stream[:-1].view(count, context), stream[1:].view(count, context)


def last_states(model: torch.nn.Module, tokens: np.ndarray, folder: Path, context: int = 512) -> torch.Tensor:
    """What enters the head of ``model`` at each position of each window of ``tokens``: (N, d) bf16, memory-mapped.

    The states are those after the final norm. They are kept in ``folder``, which must stand for this model, these
    tokens and this context, and for nothing else; a file whose hash is wrong is made again.
    """
    inputs, _ = windows(tokens, context)
    shape = [inputs.numel(), model.get_output_embeddings().weight.shape[1]]
    folder.mkdir(parents=True, exist_ok=True)
    path, note = folder / "states.bf16", folder / "states.json"
    with FileLock(folder / "lock"):
        if not _verified(path, note, shape):
            note.unlink(missing_ok=True)
            part = folder / "states.part"
            _append(model, inputs, part, shape[1])
            os.replace(part, path)
            _write(note, json.dumps({"shape": shape, "context": context, "sha256": _digest(path)}))
    # Copy on write: torch warns about arrays that it may not write to, and nothing must change the file.
    return torch.from_numpy(np.memmap(path, np.uint16, "c", shape=tuple(shape))).view(torch.bfloat16)


@torch.inference_mode()
def _append(model: torch.nn.Module, inputs: torch.Tensor, part: Path, width: int) -> None:
    """Add the windows that ``part`` lacks. Its length says how far it got; a window cut short is dropped."""
    size = inputs.shape[1] * width * 2
    done = part.stat().st_size // size if part.exists() else 0
    with open(part, "ab") as file:
        file.truncate(done * size)
        for window in inputs[done:]:  # one at a time: on a CPU more are slower
            states = model.base_model(window[None].to(model.device), use_cache=False).last_hidden_state
            file.write(states.to(torch.bfloat16).cpu().contiguous().view(torch.int16).numpy().tobytes())
            file.flush()
            os.fsync(file.fileno())


def _verified(path: Path, note: Path, shape: list[int]) -> bool:
    if not path.exists() or not note.exists():
        return False
    made = json.loads(note.read_text())
    return made["shape"] == shape and path.stat().st_size == 2 * shape[0] * shape[1] and made["sha256"] == _digest(path)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, text: str) -> None:
    spare = path.with_suffix(".new")
    spare.write_text(text)
    os.replace(spare, path)
