"""Arrays as measures take them: of a float type, and of a size whose squares float64 can hold."""

import math
from typing import Any

import numpy as np
import torch

LOW, HIGH = 2.0**-400, 2.0**400  # about 1e-120 and 1e120: squares, and sums of 1e9 of them, keep all their digits

Array = Any  # a list, a NumPy array or a tensor, on any device


def floats(array: Array, name: str) -> np.ndarray | torch.Tensor:
    """The tensor or array in its float type, float8 as float32, which holds it exactly; numbers in lists as float64.

    Raises ValueError for another type, such as the integers of a quantised head, which mean nothing without a scale.
    """
    tensor, listed = torch.is_tensor(array), isinstance(array, (list, tuple))
    array = array.detach() if tensor else np.asarray(array)
    if not tensor and listed and array.dtype.kind in "iu":
        array = array.astype(np.float64)
    if tensor and array.layout != torch.strided:
        raise ValueError(f"{name} is a sparse tensor: expected a dense one; pass .to_dense().")
    if not (array.dtype.is_floating_point if tensor else array.dtype.kind == "f") or "float4" in str(array.dtype):
        advice = ".float()" if tensor else ".astype(np.float32)"
        raise ValueError(
            f"{name} has dtype {array.dtype}: expected a float type; pass {advice} if its numbers are what is meant."
        )
    if tensor:
        return array.float() if array.dtype.itemsize == 1 else array
    return array.astype(np.float64) if array.dtype.itemsize > 8 else array


def numbers(values: Array, name: str) -> np.ndarray:
    """Real numbers, integers among them, as float64 in memory. Raises ValueError for any other kind."""
    if torch.is_tensor(values):
        values = values.detach().cpu()
        values = values.numpy() if not values.is_floating_point() else values.double().numpy()
    values = np.asarray(values)
    if values.dtype.kind not in "iuf":
        raise ValueError(f"{name} has dtype {values.dtype}: expected real numbers; convert them first.")
    return values.astype(np.float64)


def scaled(array: np.ndarray | torch.Tensor) -> tuple[np.ndarray | torch.Tensor, int]:
    """The array times 2**-exponent, and the exponent: 0, with the array itself, where squares are safe as it is.

    A power of two changes no digit. Only float64 can hold what its own squares cannot. Raises ValueError where a
    float64 array is not finite.
    """
    if array.dtype.itemsize < 8:
        return array, 0
    largest = max(abs(float(array.max())), abs(float(array.min())))
    if not math.isfinite(largest):
        raise ValueError("there are NaN or infinite entries: check the checkpoint that they come from.")
    if largest == 0 or LOW <= largest <= HIGH:
        return array, 0
    exponent = math.frexp(largest)[1]
    return _times(array, -exponent), exponent


def unscaled(array: np.ndarray | torch.Tensor, exponent: int) -> np.ndarray | torch.Tensor:
    """What ``scaled`` took out put back. Raises ValueError where the result is beyond float64."""
    if exponent == 0:
        return array
    with np.errstate(over="ignore"):
        array = _times(array, exponent)
    if not math.isfinite(abs(array).max()):
        raise ValueError("the result is beyond 1.8e308, the largest float64: divide the weights first.")
    return array


def _times(array, exponent):
    """In two steps: 2**1074, for the smallest numbers, is itself beyond float64."""
    return array * 2.0 ** (exponent // 2) * 2.0 ** (exponent - exponent // 2)
