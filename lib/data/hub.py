"""Reading a model hub sparingly: one tensor by range requests, every revision pinned to a commit, clear errors.

What huggingface_hub decides stays its own: HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, HF_HOME.
"""

import io
import json
import logging
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import httpx2
import torch
from filelock import FileLock
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff, http_stream_backoff
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import AutoConfig

from lib.data import tensors
from lib.data.cache import cache, once

ATTEMPTS = 6  # connections that a range may lose
CHUNK = 1 << 25  # bytes of a head held in memory while it is fetched
BUFFER = 1 << 16  # bytes read ahead where a file's directory is read piecemeal


def commit(repository: str, revision: str | None = None, kind: str = "model") -> str:
    """The commit that a revision meant when it was first asked for; recorded, so that it never moves.

    kind: model or dataset. Raises ValueError or ConnectionError with one sentence.
    """
    revision = revision or "main"
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    name = f"{kind}s/{repository}@{revision}"
    known = recorded()
    if name not in known:
        with explained(repository, revision):
            if constants.is_offline_mode():
                known[name] = _commit_in_cache(repository, revision, kind)
            else:
                known[name] = _ask(f"{kind}s/{repository}/revision/{quote(revision, safe='')}")["sha"]
        _record(name, known[name])
    return known[name]


def recorded() -> dict[str, str]:
    """Every revision resolved so far: models/org/name@revision or datasets/... -> commit."""
    file = cache() / "hub-revisions.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def revisions(repository: str) -> list[str]:
    """Branches and tags of a model."""
    with explained(repository):
        refs = _ask(f"models/{repository}/refs")
    return [ref["name"] for ref in (*refs["branches"], *refs["tags"])]


def head(repository: str, revision: str | None = None, rows: int | None = None) -> torch.Tensor:
    """The head (V, d) in its stored dtype, or its first rows; its own bytes are fetched, once, and kept."""
    pinned = commit(repository, revision)
    path = once(_head_file(repository, pinned), lambda scratch: _keep_head(scratch, repository, pinned, revision))
    _, file, place = tensors.find_head(["model.safetensors"], lambda _: path.open("rb"), tied=False)
    with file:
        return tensors.read(file, place, rows)


def cached(repository: str, revision: str | None = None) -> bool:
    """Whether a model is in the cache of huggingface_hub."""
    pinned = recorded().get(f"models/{repository}@{revision or 'main'}", revision)
    return isinstance(try_to_load_from_cache(repository, "config.json", revision=pinned), str)


def download_size(repository: str, revision: str | None = None) -> dict[str, int]:
    """Bytes still to fetch for the head alone and for the whole model, from the sizes that the hub states."""
    pinned = commit(repository, revision)
    with explained(repository, revision):
        files = _ask(f"models/{repository}/revision/{pinned}", blobs=True)["siblings"]
        config = AutoConfig.from_pretrained(repository, revision=pinned, trust_remote_code=False)
    sizes = {file["rfilename"]: file.get("size", 0) for file in files}
    weights = [name for name in sizes if re.fullmatch(r"model(-\d+-of-\d+)?\.safetensors", name)] or [
        name for name in sizes if re.fullmatch(r"pytorch_model(-\d+-of-\d+)?\.bin", name)
    ]
    missing = [name for name in weights if try_to_load_from_cache(repository, name, revision=pinned) is None]
    stored = config.vocab_size * config.hidden_size * (config.dtype or torch.float16).itemsize
    return {
        "head": 0 if _head_file(repository, pinned).exists() else stored,
        "model": sum(sizes[name] for name in missing),
    }


@contextmanager
def explained(repository: str, revision: str | None = None) -> Iterator[None]:
    """Turn what the hub's client raises, at whatever depth, into one sentence; keep its own warnings quiet."""
    client = logging.getLogger("huggingface_hub")
    level = client.level
    client.setLevel(logging.ERROR)  # retries are expected; a failure is told by its exception
    try:
        yield
    except Exception as error:
        explanation = _explanation(error, repository, revision or "main")
        if explanation is None:
            raise
        raise explanation from error
    finally:
        client.setLevel(level)


class _RangeFile(io.RawIOBase):
    """A file of a repository, read by range requests that go on where a connection was cut."""

    def __init__(self, repository: str, name: str, pinned: str, bar: bool = False):
        self.name = name
        self._url = hf_hub_url(repository, name, revision=pinned)
        metadata = get_hf_file_metadata(self._url, retry_on_errors=True)
        if metadata.size is None:
            raise ValueError(f"the hub does not say how long {name} is: expected a Content-Length; use another mirror")
        self._size, self._bar, self._position = metadata.size, bar, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:
        view = memoryview(buffer).cast("B")[: max(0, self._size - self._position)]
        done, cuts = 0, 0
        with tqdm(
            total=len(view),
            unit="B",
            unit_scale=True,
            desc=self.name[:40],
            disable=None if self._bar and len(view) > 16 * BUFFER else True,
        ) as bar:
            while done < len(view):
                count, error = self._receive(view[done:], self._position + done, bar)
                done += count
                cuts = 0 if count else cuts + 1
                if error and cuts >= ATTEMPTS:
                    raise error
        self._position += done
        return done

    def _receive(self, view: memoryview, start: int, bar: tqdm) -> tuple[int, httpx2.HTTPError | None]:
        """Bytes of one connection, and what cut it. The error must not pass through the client's own retry loop."""
        wanted = f"{start}-{start + len(view) - 1}"
        headers = build_hf_headers() | {"Range": f"bytes={wanted}", "Accept-Encoding": "identity"}
        done, cut = 0, None
        with http_stream_backoff("GET", self._url, headers=headers, timeout=60, base_wait_time=0.5) as response:
            hf_raise_for_status(response)
            stated = response.headers.get("Content-Range", "")
            if response.status_code != 206 or stated != f"bytes {wanted}/{self._size}":
                raise ValueError(
                    f"the hub answered {response.status_code} {stated!r} for bytes {wanted} of the "
                    f"{self._size} of {self.name}: expected exactly that range; use another mirror"
                )
            try:
                for block in response.iter_raw():
                    view[done : done + len(block)] = block
                    done += len(block)
                    bar.update(len(block))
            except httpx2.HTTPError as error:
                cut = error.with_traceback(None)  # which would keep the buffer alive
        return done, cut


def _ask(path: str, **parameters: object) -> dict:
    """An answer of the hub's interface; unlike the client's own calls, repeated while the hub is busy or cut off."""
    response = http_backoff(
        "GET",
        f"{constants.ENDPOINT}/api/{path}",
        params=parameters,
        headers=build_hf_headers(),
        timeout=60,
        max_retries=4,
        base_wait_time=0.5,
    )
    hf_raise_for_status(response)
    return response.json()


def _keep_head(path: Path, repository: str, pinned: str, revision: str | None) -> None:
    """Write the head as a safetensors file of one tensor, holding only a part in memory."""
    with explained(repository, revision):
        files = [file["rfilename"] for file in _ask(f"models/{repository}/revision/{pinned}")["siblings"]]
        if "config.json" not in files:
            raise ValueError(f"{repository}@{revision or 'main'} has no config.json: expected a model's repository")
        tied = AutoConfig.from_pretrained(repository, revision=pinned, trust_remote_code=False).tie_word_embeddings

        def open_file(name: str) -> io.BufferedReader:
            return io.BufferedReader(_RangeFile(repository, name, pinned, bar=True), BUFFER)

        name, file, place = tensors.find_head(files, open_file, tied)
        if file is None:
            whole = Path(hf_hub_download(repository, name, revision=pinned))
            save_file({tensors.HEADS[0]: tensors.legacy_head(whole, tied)}, path)
            return
        with file, path.open("wb") as out:
            out.write(tensors.header(place))
            for first in range(0, place.bytes, CHUNK):
                chunk = bytearray(min(CHUNK, place.bytes - first))
                tensors.fill(file, place.start + first, memoryview(chunk))
                out.write(chunk)


def _head_file(repository: str, pinned: str) -> Path:
    return cache() / "heads" / f"{repository.replace('/', '--')}@{pinned[:12]}.safetensors"


def _commit_in_cache(repository: str, revision: str, kind: str) -> str:
    found = try_to_load_from_cache(repository, "config.json", revision=revision, repo_type=kind)
    if not isinstance(found, str):
        raise OfflineModeIsEnabled
    return Path(found).parent.name


def _record(name: str, pinned: str) -> None:
    file = cache() / "hub-revisions.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        text = json.dumps(recorded() | {name: pinned}, indent=1, sort_keys=True)
        scratch = file.with_suffix(".new")
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(file)


def _explanation(error: BaseException, repository: str, revision: str) -> Exception | None:
    """The error as one sentence, or None where it is not the hub's."""
    chain, cause = [], error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    where, hub = f"{repository}@{revision}", constants.ENDPOINT
    sentences = (
        (OfflineModeIsEnabled, ConnectionError, f"{where} is not in the cache: unset HF_HUB_OFFLINE once"),
        (GatedRepoError, ValueError, f"{repository} is gated: accept its licence on its page, then set HF_TOKEN"),
        (
            RepositoryNotFoundError,
            ValueError,
            f"{hub} has no repository {repository} that you may read: check the name, or set HF_TOKEN",
        ),
        (
            RevisionNotFoundError,
            ValueError,
            f"{repository} has no revision {revision!r}: lib.data.checkpoints.revisions({repository!r}) lists them",
        ),
        (LocalEntryNotFoundError, ConnectionError, f"{where} is not in the cache and {hub} cannot be reached"),
        (
            pickle.UnpicklingError,
            ValueError,
            f"{where} has a pickle that holds more than tensors: refused without running it; "
            "use a safetensors revision",
        ),
        (EntryNotFoundError, ValueError, f"{where} lacks a file that a model needs: choose another revision"),
    )
    for kind, raised, sentence in sentences:
        if any(isinstance(link, kind) for link in chain):
            return raised(sentence)
    for link in chain:
        if isinstance(link, HfHubHTTPError) and link.response is not None:
            status = link.response.status_code
            advice = "check HF_TOKEN" if status in (401, 403) else "try again later"
            return ConnectionError(f"{hub} answered {status} for {where}: {advice}")
        if isinstance(link, httpx2.HTTPError):
            return ConnectionError(f"{hub} cannot be reached for {where} ({link}): check the network or HF_ENDPOINT")
    return None
