"""The picture of the first page: a named figure of an executed notebook, on white."""

import altair as alt
import nbformat
import pytest

from lib.show import charts, picture


@pytest.fixture
def notebook(tmp_path):
    """An executed notebook with two figures, one of them named."""
    cells = []
    for name in ("fig-a", "fig-b"):
        spec = alt.Chart(alt.Data(values=[{"x": 1}])).mark_point().encode(x="x:Q").properties(description=name)
        output = nbformat.v4.new_output("display_data", charts.bundle(spec.to_dict()))
        about = {"mystnb": {"figure": {"name": name}}}
        cells.append(nbformat.v4.new_code_cell("", metadata=about, outputs=[output]))
    path = tmp_path / "chapter.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_a_figure_is_taken_by_its_name_and_stands_on_white(notebook):
    found = picture.picture(notebook, "fig-b")
    assert found.startswith("<svg") and found.index('fill="white"') < found.index("<g")
    with pytest.raises(ValueError, match="no figure 'fig-c'.*fig-a, fig-b"):
        picture.picture(notebook, "fig-c")
