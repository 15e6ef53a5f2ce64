"""How results look: charts, the Sphinx extension, its assets."""
