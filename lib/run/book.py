"""Make the book: execute every chapter, then build the site.

    python -m lib.run.book --profile laptop

OUT/notebooks holds the executed chapters, OUT/source what Sphinx reads, OUT/html the site.
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from lib.data import hub
from lib.data.cache import ROOT
from lib.run import chapter, estimate, machine, progress
from lib.train import suite

PROSE = (".md", ".bib", ".svg", ".json")
PAPER = ROOT / "lib" / "data" / "paper.json"  # whose claims the first page lists


def origin():
    """Web address of the repository, from git's origin, or None: only https, and never with a user or a password."""
    found = subprocess.run(["git", "remote", "get-url", "origin"], cwd=ROOT, capture_output=True, text=True)
    return public(found.stdout.strip())


def public(address):
    """The https address of a repository without user, password, query or fragment; None for what has none.

    `git@host:path` and `ssh://git@host/path` stand for https://host/path.
    """
    if scp := re.fullmatch(r"[\w.-]+@([\w.-]+):(?!//)/*(.+)", address):
        address = f"https://{scp[1]}/{scp[2]}"
    try:
        parts = urlsplit(address)
        port = parts.port if parts.scheme == "https" else None  # that of ssh says nothing about the web
    except ValueError:
        return None
    path = parts.path.strip("/").removesuffix(".git")
    plain = re.fullmatch(r"[\w.-]+", parts.hostname or "") and re.fullmatch(r"[\w./~-]+", path)
    if parts.scheme not in ("https", "ssh") or not plain:  # a path with more in it could hold a secret too
        return None
    return f"https://{parts.hostname}{f':{port}' if port else ''}/{path}"


def configuration(repository):
    """`_config.yml` with the repository's buttons where there is a repository."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    if repository:
        config["repository"] = {"url": repository, "branch": "main", "path_to_book": "book"}
        config["html"] |= {"use_repository_button": True, "use_issues_button": True, "use_edit_page_button": True}
        if repository.startswith("https://github.com/"):
            config["launch_buttons"] = {"notebook_interface": "jupyterlab", "binderhub_url": "https://mybinder.org"}
    return config


def stage(out):
    """Fill OUT/source with the executed chapters and the pages of prose."""
    source = out / "source"
    source.mkdir(parents=True, exist_ok=True)
    executable = {path.stem for path in chapter.chapters()}
    wanted = {f"{stem}.ipynb": out / "notebooks" / f"{stem}.ipynb" for stem in executable}
    wanted |= {p.name: p for p in chapter.BOOK.iterdir() if p.suffix in PROSE and p.stem not in executable}
    for path in source.iterdir():
        if path.is_file() and path.name not in wanted:
            path.unlink()
    for name, path in wanted.items():
        if not (source / name).exists() or (source / name).read_bytes() != path.read_bytes():
            shutil.copyfile(path, source / name)  # an untouched file keeps its time: Sphinx reads it no more
    (source / "revisions.json").write_text(json.dumps(hub.recorded(), indent=1))
    return source


def build(out):
    """Build OUT/html from OUT/source, unless it stands for the same source already; the site's folder.

    Exits non-zero after Sphinx's own messages when it warns or fails.
    """
    source, site = stage(out), out / "html"
    config = out / "_config.yml"
    config.write_text(yaml.safe_dump(configuration(origin()), sort_keys=False))
    stamp, made_from = _contents(source, config), out / "html.made-from"
    if made_from.exists() and made_from.read_text() == stamp and (site / "index.html").exists():
        return site
    made_from.unlink(missing_ok=True)
    # A process of its own: Sphinx looks at every object in memory, and torch warns when its old names are looked at.
    command = [sys.executable, "-m", "lib.show.build", str(source), str(site), str(config), str(ROOT / "_toc.yml")]
    failed = subprocess.run(command).returncode
    if failed:
        sys.exit("error: the site was not built; the warnings above say why")
    made_from.write_text(stamp)
    return site


def _contents(source, config):
    """Hash of all that decides the site: its pages, what draws them, the pins."""
    shown = [path for path in (ROOT / "lib" / "show").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    pages = [path for path in source.iterdir() if path.is_file()]
    digest = hashlib.sha256()
    for path in (*sorted(pages), *sorted(shown), config, ROOT / "_toc.yml", ROOT / "constraints.txt", PAPER):
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def announce(profile, out, fresh):
    """Say what there is to do, and how long it will take on this machine."""
    todo = {}
    if profile != "paper":  # whose chapters read models that others have trained
        todo["suite"] = suite.missing(profile)
    for source in chapter.chapters():
        todo[source.stem] = float(fresh or not chapter.cached(source, profile, out))
    seconds = {stage: share * (estimate.expected(profile, stage) or 0) for stage, share in todo.items()}
    stages = [f"{stage} {progress.duration(taken)}" for stage, taken in seconds.items() if taken >= 1]
    if stages:
        total, products = progress.duration(sum(seconds.values())), machine.dtype()
        print(f"About {total} on this machine ({machine.processor()}; products in {products}): {', '.join(stages)}")
    elif any(todo.values()):
        print(f"How long this takes is not known for the profile {profile}")


def main():
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m lib.run.book", description=__doc__.split("\n")[0])
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--out", type=Path, help="default: _build, or _build/PROFILE")
    parser.add_argument("--fresh", action="store_true", help="execute even what is cached")
    args = parser.parse_args()
    out = args.out or (Path("_build") if args.profile == "laptop" else Path("_build") / args.profile)
    try:
        announce(args.profile, out, args.fresh)
        if args.profile != "paper":
            _train(args.profile)
    except (ValueError, FloatingPointError, OSError, chapter.ChapterError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(f"\n{suite.STOPPED}")
    print(f"Chapters ({args.profile})", flush=True)
    errors = chapter.run(chapter.chapters(), args.profile, {}, out, args.fresh)
    if errors:
        sys.exit("\n".join(f"error: {error}" for error in errors))
    start = time.perf_counter()
    print("Site", flush=True)
    page = (build(out) / "index.html").resolve()
    print(f"  built in {time.perf_counter() - start:.1f} s\nOpen {page}")


def _train(profile):
    """Train what the suite lacks."""
    share, start = suite.missing(profile), time.perf_counter()
    print(f"Suite ({profile})", flush=True)
    suite.train(profile)
    if share == 1:
        estimate.remember(profile, "suite", time.perf_counter() - start)


if __name__ == "__main__":
    main()
