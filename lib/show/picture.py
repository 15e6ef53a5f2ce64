"""A figure of an executed notebook as an SVG file on white: python -m lib.show.picture NOTEBOOK FIGURE FILE"""

import argparse
import re
import sys
from pathlib import Path

import nbformat


def picture(notebook: Path, figure: str) -> str:
    """The SVG of a figure by the name that the chapter gives it. Raises ValueError where there is none of that name."""
    charts = {}
    for cell in nbformat.read(notebook, as_version=4).cells:
        name = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
        for output in cell.get("outputs", []):
            if found := re.search(r"<svg.*?</svg>", output.get("data", {}).get("text/html", ""), re.S):
                charts[name] = found.group()
    if figure not in charts:
        known = ", ".join(sorted(name for name in charts if name))
        raise ValueError(f"there is no figure {figure!r} in {notebook}: expected one of {known}.")
    return re.sub(r"(<svg[^>]*>)", r'\1<rect width="100%" height="100%" fill="white"/>', charts[figure], count=1) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m lib.show.picture", description=__doc__.split(":")[0])
    for name in ("notebook", "figure", "file"):
        parser.add_argument(name)
    asked = parser.parse_args()
    try:
        Path(asked.file).write_text(picture(Path(asked.notebook), asked.figure))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
