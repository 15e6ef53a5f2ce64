"""Reading a model hub sparingly: one tensor by range requests, every revision pinned to a commit, clear errors.

What huggingface_hub decides stays its own: HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, HF_HOME.
"""

import functools
import io
import json
import logging
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import httpx2
import torch
from filelock import FileLock
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff
from safetensors.torch import save_file
from transformers import PreTrainedConfig

from lib.data import named, ranges, tensors, weights
from lib.data.cache import cache, once

CHUNK = 1 << 25  # bytes of a head held in memory while it is fetched
COMMIT = re.compile(r"[0-9a-fA-F]{40}")


def commit(repository: str, revision: str | None = None, kind: str = "model") -> str:
    """The commit that a revision meant when it was first asked for; recorded, so that it never moves.

    kind: model or dataset. Raises ValueError or ConnectionError with one sentence.
    """
    revision = revision or "main"
    if COMMIT.fullmatch(revision):
        return revision.lower()
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
    _, file, place = tensors.find_head(["model.safetensors"], lambda _: path.open("rb"), lambda *_: tensors.KEPT)
    with file:
        return tensors.read(file, place, rows)


def folder(repository: str, revision: str | None = None, model: bool = True) -> Path:
    """The folder in the cache of huggingface_hub from which a model, or just its tokenizer, loads; fetched if need be.

    Raises ValueError or ConnectionError with one sentence.
    """
    pinned = commit(repository, revision)
    kept = _kept(repository, pinned)
    if kept is not None and weights.complete(kept, model):
        return kept
    with explained(repository, revision):
        if constants.is_offline_mode():
            raise OfflineModeIsEnabled
        present = _sizes(repository, pinned)
        if model:
            _config(repository, pinned, present)
        if not set(weights.VOCABULARIES) & set(present):
            raise ValueError(
                f"{repository} holds no tokenizer: expected one of {', '.join(weights.VOCABULARIES)}; use another model"
            )
        names = [name for name in present if re.fullmatch(r"[^/]+\.(json|txt|model|jinja)", name)]
        names = [name for name in names if name not in tensors.WEIGHTS]
        names.sort(key=weights.VOCABULARIES.__contains__)  # last, as a tokenizer is there when its vocabulary is
        if model:
            names += [name for name in present if name == weights.BIAS] + _shards(repository, pinned, present)
        for name in names:
            path = Path(hf_hub_download(repository, name, revision=pinned))
    return path.parent


def cached(repository: str, revision: str | None = None) -> bool:
    """Whether all that a model is loaded from is in the cache of huggingface_hub."""
    revision = revision or "main"
    pinned = revision.lower() if COMMIT.fullmatch(revision) else recorded().get(f"models/{repository}@{revision}")
    kept = _kept(repository, pinned or revision)
    return kept is not None and weights.complete(kept)


def download_size(repository: str, revision: str | None = None) -> dict[str, int]:
    """Bytes still to fetch for the head alone and for the whole model, as the hub and the files state them."""
    pinned = commit(repository, revision)
    with explained(repository, revision):
        sizes, sought = _sizes(repository, pinned), 0
        missing = [name for name in _shards(repository, pinned, sizes) if not _path(repository, name, pinned)]
        if not _head_file(repository, pinned).exists():
            name, file, place = _find_head(repository, pinned, sizes)
            sought = place.bytes if file else sizes[name] * (name in missing)
    return {"head": sought, "model": sum(sizes[name] for name in missing)}


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


def _sizes(repository: str, pinned: str) -> dict[str, int]:
    """The files of a repository, and their bytes."""
    files = _ask(f"models/{repository}/revision/{pinned}", blobs=True)["siblings"]
    return {file["rfilename"]: file.get("size") or 0 for file in files}


def _config(repository: str, pinned: str, present: Collection[str]) -> PreTrainedConfig:
    names = {"config.json", weights.ADAPTER} & set(present)
    if not names:
        raise ValueError(f"{repository} has no config.json at {pinned[:12]}: expected a model's repository")
    paths = [Path(hf_hub_download(repository, name, revision=pinned)) for name in names]
    return weights.config(paths[0].parent)


def _shards(repository: str, pinned: str, present: Collection[str]) -> list[str]:
    """The files of the weights, all of which must be there."""

    def read(name: str) -> bytes:
        return Path(hf_hub_download(repository, name, revision=pinned)).read_bytes()

    names = tensors.shards(present, read)
    for name in names:
        tensors.check_present(name, present)
    return names


def _find_head(
    repository: str, pinned: str, present: Collection[str]
) -> tuple[str, io.BufferedReader | None, tensors.Place | None]:
    choose = named.head(_config(repository, pinned, present)).choose
    return tensors.find_head(present, lambda name: ranges.opened(repository, name, pinned), choose)


def _keep_head(path: Path, repository: str, pinned: str, revision: str | None) -> None:
    """Write the head as a safetensors file of one tensor, holding only a part in memory."""
    with explained(repository, revision):
        present = _sizes(repository, pinned)
        head = named.head(_config(repository, pinned, present))
        opened = functools.partial(ranges.opened, repository, commit=pinned)
        _, file, place = tensors.find_head(present, opened, head.choose)
        if file is None or not head.plain(place):
            if file is not None:
                file.close()
            whole = head.read(present, opened, lambda name: Path(hf_hub_download(repository, name, revision=pinned)))
            save_file({tensors.KEPT: whole.contiguous()}, path)
            return
        with file, path.open("wb") as out:
            out.write(tensors.header(place))
            for first in range(0, place.bytes, CHUNK):
                chunk = bytearray(min(CHUNK, place.bytes - first))
                tensors.fill(file, place.start + first, memoryview(chunk))
                out.write(chunk)


def _head_file(repository: str, pinned: str) -> Path:
    return cache() / "heads" / f"{repository.replace('/', '--')}@{pinned[:12]}.safetensors"


def _path(repository: str, name: str, revision: str, kind: str = "model") -> Path | None:
    """A file in the cache of huggingface_hub."""
    found = try_to_load_from_cache(repository, name, revision=revision, repo_type=kind)
    return Path(found) if isinstance(found, str) else None


def _kept(repository: str, revision: str) -> Path | None:
    """The folder in the cache of huggingface_hub with some of the files of a revision."""
    found = [path for name in ("config.json", *weights.VOCABULARIES) if (path := _path(repository, name, revision))]
    return found[0].parent if found else None


def _commit_in_cache(repository: str, revision: str, kind: str) -> str:
    found = _path(repository, "config.json", revision, kind)
    if found is None:
        raise OfflineModeIsEnabled
    return found.parent.name


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
