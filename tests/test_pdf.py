"""A book as one PDF, of one small page."""

import pytest
import yaml

from lib.run import book
from lib.show import pdf
from tests.test_browser import CHROMIUM


def test_a_page_becomes_a_pdf(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no Chromium|no book in .*: run make book first"):
        pdf.write(tmp_path)
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "index.md").write_text("# One page\n\nA formula, $\\sigma_1$, and a word.\n")
    (tmp_path / "source" / "references.bib").touch()
    (tmp_path / "_config.yml").write_text(yaml.safe_dump(book.configuration(None)))
    (tmp_path / "toc.yml").write_text("format: jb-book\nroot: index\n")
    monkeypatch.setattr(pdf, "TOC", tmp_path / "toc.yml")
    path = pdf.write(tmp_path)
    assert path.read_bytes().startswith(b"%PDF") and path.stat().st_size > 5000
