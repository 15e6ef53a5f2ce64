"""Numbers that prose reads."""

import myst_nb
import numpy as np
import pytest

from lib.show import numbers


def test_nested_values_get_joined_names_and_python_types(monkeypatch):
    told = {}
    monkeypatch.setattr(myst_nb, "glue", lambda name, value, display: told.__setitem__(name, value))
    numbers.tell("03", {"rise": np.float64(0.5), "of": {"fp16": {"low": np.int64(3)}, "name": "x"}})
    assert told == {"03-rise": 0.5, "03-of-fp16-low": 3, "03-of-name": "x"}
    assert type(told["03-rise"]) is float and type(told["03-of-fp16-low"]) is int
    with pytest.raises(ValueError, match="03-a-b is told twice"):
        numbers.tell("03", {"a": {"b": 1}, "a-b": 2})
