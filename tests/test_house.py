"""What holds the house together: pins, contracts, and a table of contents that names every chapter."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def pins(lines):
    """Package -> version, names normalised."""
    found = re.findall(r"([A-Za-z0-9_.\-]+)(?:\[\w+\])?==([\w.]+)", "\n".join(lines))
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def test_conda_and_pip_pin_the_same_versions():
    constraints = pins((ROOT / "constraints.txt").read_text().splitlines())
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    listed = pins(next(entry for entry in conda if isinstance(entry, dict))["pip"])
    assert listed.items() <= constraints.items()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [re.match(r"[\w.-]+", asked)[0] for asked in project["dependencies"]]
    assert {re.sub(r"[-_.]+", "-", name).lower() for name in needed} <= listed.keys()


def test_rooms_import_only_what_they_may():
    done = subprocess.run([Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_code_is_clean():
    ruff = [sys.executable, "-m", "ruff"]
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([*ruff, *command, "lib", "tests"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_words_are_spelt_right():
    pages = [*ROOT.glob("*.md"), *(ROOT / "book").glob("*.md"), ROOT / "lib", ROOT / "tests"]
    command = [Path(sys.executable).with_name("codespell"), "--skip", "*.json,*.pyc,__pycache__", *pages]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_workflow_is_sound_and_asks_make_for_what_there_is():
    workflow = ROOT / ".github" / "workflows" / "book.yml"
    lint = Path(sys.executable).with_name("actionlint")
    if lint.exists():  # there is no wheel of it for every system
        done = subprocess.run([lint, workflow], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    asked = set(re.findall(r"run: make (\w+)", workflow.read_text()))
    assert asked and asked <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))


def test_every_page_is_in_the_table_of_contents():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    listed = [toc["root"], *(page["file"] for part in toc["parts"] for page in part["chapters"])]
    included = set(re.findall(r"\{include\} (\w+)\.md", "".join(p.read_text() for p in (ROOT / "book").glob("*.md"))))
    assert {path.stem for path in (ROOT / "book").glob("*.md")} - included == set(listed)
    assert len(listed) == len(set(listed))
