"""The bytes of weights, as each precision really stores them. Pure arithmetic over `ModelSizes`.

What bitsandbytes stores for a matrix of [outputs, inputs]:

    int8       a byte a value; a float32 scale for each output
    nf4, fp4   half a byte a value; a float32 scale for each block of 64; a table of 16 float32

Everything else stays in the model's dtype: embeddings, norms, biases, the output layer, and experts that the
library holds in one tensor. Scales themselves are not quantized again ("double quantization" is not used).
"""

from __future__ import annotations

from ..engine.options import QUANTIZATIONS
from .types import DTYPE_BYTES, ModelSizes, WeightBytes, WeightTensor

FOUR_BIT_BLOCK = 64
FOUR_BIT_TABLE_BYTES = 16 * 4
SCALE_BYTES = 4
KERNEL_TILE = 32
"""The engine's kernels pad outputs to multiples of this many, and inputs of plain weights."""
KERNEL_BLOCK = 64
"""And inputs of quantized weights to multiples of this many, which share a scale in 4 bits."""
KERNEL_TABLE_BYTES = 16


def weight_bytes(sizes: ModelSizes, dtype: str, quantization: str) -> WeightBytes:
    """Bytes of all weights of a model in `dtype`, its linear layers quantized as told.

    A checkpoint that is quantized already takes what its files take, where these are known; where it is read
    without the library, each layer takes what the files hold of it.
    """
    if sizes.checkpoint_bytes:
        return WeightBytes(sizes.checkpoint_bytes, 0, 0, sizes.buffer_bytes)
    quantized = scales = kept = 0
    for tensor in sizes.tensors:
        if tensor.stored:
            quantized += tensor.stored.file_bytes
        elif quantization != "none" and tensor.outputs:
            values, scale = _stored(tensor.outputs, tensor.count // tensor.outputs, quantization)
            quantized += values
            scales += scale
        else:
            kept += _kept(tensor, dtype)
    return WeightBytes(quantized, scales, kept, sizes.buffer_bytes)


def weights_by_precision(sizes: ModelSizes, dtype: str) -> dict[str, WeightBytes]:
    """Every dtype, and every quantization of a model in `dtype`."""
    table = {name: weight_bytes(sizes, name, "none") for name in DTYPE_BYTES}
    quantized = (name for name in QUANTIZATIONS if name != "none")
    return table | {name: weight_bytes(sizes, dtype, name) for name in quantized}


def read_bytes(sizes: ModelSizes, dtype: str, quantization: str) -> int:
    """Bytes of weights that a step reads: all but the embeddings of which it looks up a few rows.

    Every expert of a mixture is counted, as a step of many tokens reads them all.
    """
    looked_up = sum(_kept(tensor, dtype) for tensor in sizes.tensors if tensor.looked_up)
    total = weight_bytes(sizes, dtype, quantization)
    if sizes.checkpoint_bytes:
        return total.quantized_bytes
    return total.total_bytes - total.buffer_bytes - looked_up


def packing_bytes(sizes: ModelSizes, dtype: str, quantization: str) -> int:
    """What the engine's own kernels add to weights in `dtype`, the linear layers quantized as told.

    Padding to tiles; biases, norms and other constants in float32. Of a checkpoint that is quantized already
    and that the library reads nothing is known.
    """
    if sizes.checkpoint_bytes:
        return 0
    extra, element = 0, DTYPE_BYTES[dtype]
    for layer in sizes.linears:
        outputs = _padded(layer.outputs, KERNEL_TILE)
        if layer.stored:
            extra += layer.stored.kernel_bytes - layer.stored.file_bytes
        elif quantization != "none" and layer.quantizable:
            inputs = _padded(layer.inputs, KERNEL_BLOCK)
            extra += _packed(outputs, inputs, quantization)
            extra -= sum(_stored(layer.outputs, layer.inputs, quantization))
        else:
            padded = outputs * _padded(layer.inputs, KERNEL_TILE)
            extra += element * layer.count * (padded - layer.outputs * layer.inputs)
        extra += 4 * outputs - element * layer.outputs if layer.has_bias else 0
    constants = (tensor for tensor in sizes.tensors if tensor.constant)
    return extra + sum(4 * tensor.count - _kept(tensor, dtype) for tensor in constants)


def _packed(outputs: int, inputs: int, quantization: str) -> int:
    """Bytes of a padded quantized matrix on the engine's own kernels."""
    if quantization == "int8":
        return outputs * (inputs + SCALE_BYTES)
    blocks = inputs // KERNEL_BLOCK
    return outputs * (inputs // 2 + SCALE_BYTES * blocks) + KERNEL_TABLE_BYTES


def stored_kernel_bytes(outputs: int, inputs: int, bits: int, group: int, symmetric: bool) -> int:
    """Bytes of a GPTQ or AWQ layer on the engine's own kernels; 0 is a group of all inputs.

    Groups that are no multiple of a block are kept in halves of blocks.
    """
    outputs, whole = _padded(outputs, KERNEL_TILE), _padded(inputs, KERNEL_BLOCK)
    groups = -(-inputs // group) if group else 1
    if groups > 1 and group % KERNEL_BLOCK:
        groups = 2 * whole // KERNEL_BLOCK
    scales = SCALE_BYTES * groups * (1 if symmetric else 2)
    table = KERNEL_TABLE_BYTES if bits == 4 else 0
    return outputs * (whole * bits // 8 + scales) + table


def _stored(outputs: int, inputs: int, quantization: str) -> tuple[int, int]:
    """Bytes of the values and of the scales of a quantized matrix."""
    count = outputs * inputs
    if quantization == "int8":
        return count, SCALE_BYTES * outputs
    blocks = -(-count // FOUR_BIT_BLOCK)
    return -(-count // 2), SCALE_BYTES * blocks + FOUR_BIT_TABLE_BYTES


def _kept(tensor: WeightTensor, dtype: str) -> int:
    return tensor.count * (4 if dtype in tensor.float32_in else DTYPE_BYTES[dtype])


def _padded(size: int, step: int) -> int:
    return -(-size // step) * step
