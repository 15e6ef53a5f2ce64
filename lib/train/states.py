"""Last hidden states of a frozen model on a text: computed once, kept on disk, resumed after a kill."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from lib.data import architecture


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


def last_states(
    model: torch.nn.Module, tokens: np.ndarray, folder: Path, context: int = 512, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """What enters the head of ``model`` at each position of each window of ``tokens``: (N, d) ``dtype``, memory-mapped.

    They are kept in ``folder``, which must stand for this model, the stream that ``tokens`` begin and this context, and
    for nothing else. Fewer tokens take the first of what is kept, more are added to it; a file whose hash is wrong is
    made again.
    """
    inputs, _ = windows(tokens, context)
    width = model.get_output_embeddings().weight.shape[1]
    folder.mkdir(parents=True, exist_ok=True)
    path, note, part = folder / "states", folder / "states.json", folder / "states.part"
    size = context * width * dtype.itemsize  # of a window
    with FileLock(folder / "lock"):
        kept = _kept(path, note)
        if kept < len(inputs) * size:
            note.unlink(missing_ok=True)
            if kept:
                os.replace(path, part)
            _append(model, inputs, part, size, dtype)
            os.replace(part, path)
            _write(note, json.dumps({"bytes": path.stat().st_size, "sha256": _digest(path)}))
    # Copy on write: torch warns about arrays that it may not write to, and nothing must change the file.
    kept = np.memmap(path, np.uint8, "c", shape=(len(inputs) * size,))
    return torch.from_numpy(kept).view(dtype).view(-1, width)


def _append(model: torch.nn.Module, inputs: torch.Tensor, part: Path, size: int, dtype: torch.dtype) -> None:
    """Add the windows that ``part`` lacks. Its length says how far it got; a window cut short is dropped."""
    done = part.stat().st_size // size if part.exists() else 0
    with open(part, "ab") as file:
        file.truncate(done * size)
        for window in inputs[done:]:  # one at a time: on a CPU more are slower
            states = architecture.last_states(model, window[None].to(model.device))
            file.write(states.to(dtype).cpu().contiguous().view(torch.uint8).numpy().tobytes())
            file.flush()
            os.fsync(file.fileno())


def _kept(path: Path, note: Path) -> int:
    """Bytes of the file where it is what was written, else 0."""
    if not path.exists() or not note.exists():
        return 0
    made = json.loads(note.read_text())
    return made["bytes"] if path.stat().st_size == made["bytes"] and made["sha256"] == _digest(path) else 0


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, text: str) -> None:
    spare = path.with_suffix(".new")
    spare.write_text(text)
    os.replace(spare, path)
