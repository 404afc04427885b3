"""Where tensors lie that the kernels are given: on the CPU, whole and of the dtype that is named.

All else is a bug of the caller, and asserted here; the library itself sees addresses and no tensors.
"""

from __future__ import annotations

import torch


def address(tensor: torch.Tensor, dtype: torch.dtype) -> int:
    """Where the numbers of a tensor begin that lie one after the other."""
    assert tensor.is_contiguous(), "the kernels take numbers that lie one after the other"
    return _checked(tensor, dtype)


def rows_address(rows: torch.Tensor, dtype: torch.dtype) -> int:
    """Where a matrix [N, M] begins whose rows are whole; these may lie apart."""
    assert rows.stride(1) == 1 or rows.shape[1] == 1, "the kernels take whole rows"
    return _checked(rows, dtype)


def _checked(tensor: torch.Tensor, dtype: torch.dtype) -> int:
    assert tensor.dtype == dtype, f"the kernels take {dtype} here, not {tensor.dtype}"
    assert tensor.device.type == "cpu", f"the kernels read no memory of {tensor.device}"
    return tensor.data_ptr()
