"""A file on a model hub as a file to read and seek in: every read is a request for just those bytes."""

import io

import httpx2
from huggingface_hub import get_hf_file_metadata, hf_hub_url
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff
from tqdm import tqdm

ATTEMPTS = 6  # connections that a range may lose
BUFFER = 1 << 16  # bytes read ahead where a file's directory is read piecemeal


def opened(repository: str, name: str, commit: str) -> io.BufferedReader:
    """A file of a model's repository at a commit. Raises what the hub's client raises, or ValueError."""
    return io.BufferedReader(_RangeFile(repository, name, commit), BUFFER)


class _RangeFile(io.RawIOBase):
    """A file of a repository, read by range requests that go on where a connection was cut."""

    def __init__(self, repository: str, name: str, commit: str):
        self.name = name
        self._url = hf_hub_url(repository, name, revision=commit)
        metadata = get_hf_file_metadata(self._url, retry_on_errors=True)
        if metadata.size is None:
            raise ValueError(f"the hub does not say how long {name} is: expected a Content-Length; use another mirror")
        self._size, self._position = metadata.size, 0

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
            disable=None if len(view) > 16 * BUFFER else True,
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
