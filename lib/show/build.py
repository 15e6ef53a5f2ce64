"""Build the site from a folder of pages: python -m lib.show.build SOURCE SITE CONFIG TOC. A warning is a failure."""

import sys
from pathlib import Path

from jupyter_book.sphinx import build_sphinx


def build(source, site, config, toc, builder="html"):
    """Have Jupyter Book write the site, or with `singlehtml` one page of all; 0 when nothing failed or warned."""
    return build_sphinx(
        Path(source).resolve(),
        Path(site).resolve(),
        noconfig=True,
        builder=builder,
        path_config=config,
        confoverrides={"external_toc_path": str(Path(toc).resolve()), "latex_individualpages": False},
        warningiserror=True,
        keep_going=True,
        quiet=True,
    )


if __name__ == "__main__":
    sys.exit(bool(build(*sys.argv[1:])))
