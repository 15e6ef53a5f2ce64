"""Results as bytes and back: data frames as Parquet, dictionaries as JSON, arrays as npy or npz; nothing pickled."""

import io
import json

import numpy as np
import pandas as pd


def encode(result) -> tuple[str, bytes]:
    """Form and bytes of a result. Raises ValueError on what would not come back equal."""
    buffer = io.BytesIO()
    if isinstance(result, pd.DataFrame):
        try:
            result.to_parquet(buffer, engine="pyarrow")
        except Exception as error:  # pyarrow's errors have no common ancestor
            raise ValueError(f"Parquet does not hold the data frame ({str(error).splitlines()[0]})") from error
        return "parquet", buffer.getvalue()
    if isinstance(result, np.ndarray):
        _refuse_objects(result)
        np.save(buffer, result, allow_pickle=False)
        return "npy", buffer.getvalue()
    if isinstance(result, dict) and all(isinstance(name, str) for name in result):
        arrays = [isinstance(value, np.ndarray) for value in result.values()]
        if arrays and all(arrays):
            _refuse_objects(*result.values())
            np.savez(buffer, **result)
            return "npz", buffer.getvalue()
        try:
            return "json", json.dumps(result, default=_scalar).encode()
        except TypeError as error:
            raise ValueError(f"{error}: return only JSON values, or only arrays") from error
    raise ValueError(
        f"a {type(result).__name__} is no data frame, array, dictionary of JSON values with text as keys "
        "or dictionary of arrays"
    )


def decode(form: str, payload: bytes):
    """The result from its form and bytes."""
    if form == "json":
        return json.loads(payload)
    buffer = io.BytesIO(payload)
    if form == "parquet":
        return pd.read_parquet(buffer, engine="pyarrow")
    loaded = np.load(buffer, allow_pickle=False)
    return loaded if form == "npy" else {name: loaded[name] for name in loaded.files}


def _scalar(value):
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"the dictionary holds a {type(value).__name__}")


def _refuse_objects(*arrays):
    if any(array.dtype.hasobject for array in arrays):
        raise ValueError("an array of Python objects can't be read back without pickle: give it a numeric dtype")
