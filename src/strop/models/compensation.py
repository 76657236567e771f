"""Rounding that makes up for its own errors, as GPTQ does (Frantar et al. 2022, arXiv 2210.17323).

A linear layer computes W x. Rounding every weight to the nearest value keeps W close; what counts
is that W x stays close, over the inputs that the layer meets. With H = mean of x xᵀ over such
inputs, rounding W to Q costs the mean of |(W - Q) x|² = sum over rows of (w - q) H (w - q)ᵀ.
Columns are rounded one after the other; the error of each is made up for by changing the columns
that are not rounded yet, in the way that costs least: by the inverse of what is left of H.

What is ours: a block's scale is chosen when the first of its columns is reached, from the weights
as they have become by then, and the search weights the error of a column with what it will cost
after the later columns have made up for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strop.blockfp import BlockTensor, Format, Scale, dequantize, reference
from strop.console import progress
from strop.errors import StropError, StropFailure
from strop.models.calibration import Calibration

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

DAMPING = 0.01  #: added to the diagonal of H, in units of its mean


def compensate(weights: Floats, second_moment: NDArray[np.floating], format: Format) -> BlockTensor:
    """Quantize a matrix (rows, cols) for inputs with this second moment (cols, cols).

    With a second moment that is a multiple of the identity this is `quantize`, bit for bit. Raises
    StropError for a format whose blocks have no s1e4m3 scale.
    """
    check_compensable([format])
    rows, cols = weights.shape
    factor = inverse_factor(second_moment)
    cost = 1 / np.diag(factor).astype(np.float64) ** 2
    whole = reference.tensor_scale(float(np.max(np.abs(weights), initial=0)), format)
    left = np.ascontiguousarray((weights / whole).T)  # one row per column: each is contiguous
    codes = np.empty((cols, rows), np.uint8)
    scales = np.empty((-(-cols // format.block), rows), np.uint8)
    values = np.array(format.values, np.float32)
    for block, start in enumerate(range(0, cols, format.block)):
        stop = min(start + format.block, cols)
        scales[block] = search_scale(left[start:stop], cost[start:stop], format)
        scale = reference.s1e4m3_values()[scales[block]]
        errors = np.empty((stop - start, rows), np.float32)
        for column in range(start, stop):
            codes[column] = reference.encode(
                left[column] * (np.float32(1) / scale), format, format.rounding
            )
            error = (left[column] - values[codes[column]] * scale) / factor[column, column]
            left[column + 1 : stop] -= np.outer(factor[column, column + 1 : stop], error)
            errors[column - start] = error
        left[stop:] -= factor[start:stop, stop:].T @ errors
    packed = reference.pack_planes(codes.T, format)
    return BlockTensor(format, weights.shape, packed, np.ascontiguousarray(scales.T), whole)


def check_compensable(formats: Iterable[Format]) -> None:
    """Raise StropError for a format whose blocks have no s1e4m3 scale."""
    for format in formats:
        if format.scale is not Scale.S1E4M3:
            raise StropError(
                f"calibration is for strop's own formats, such as bfp5, not for {format.name}"
            )


def inverse_factor(second_moment: NDArray[np.floating]) -> Floats:
    """Return the upper triangular U with Uᵀ U = (H + damping)⁻¹.

    Row j of U holds, but for the factor 1 / U[j, j], how an error in column j is made up for by the
    columns after it, and 1 / U[j, j]² is what a unit of it costs then (GPTQ, section 3.3).
    """
    moment = np.array(second_moment, np.float64)
    mean = np.mean(np.diag(moment))
    if mean == 0:  # nothing ever reaches this layer
        return np.eye(len(moment), dtype=np.float32)
    moment[np.diag_indices_from(moment)] += DAMPING * mean
    return np.linalg.cholesky(np.linalg.inv(moment)).T.astype(np.float32)


def search_scale(left: Floats, cost: NDArray[np.float64], format: Format) -> Bytes:
    """Return the scale byte of each block that leaves the least weighted squared error.

    `left` is (block, rows): the columns of one block, divided by the tensor's scale; `cost` weights
    the squared error of each. The search is that of `reference.search_scale`, in the same integers,
    so that equal costs give equal scales.
    """
    start = reference.smallest_scale(np.max(np.abs(left), axis=0), format)
    values = np.array((format.upper or format).values, np.float64)
    multiples = np.arange(-255, 256)
    squares = np.nanmin(np.abs(multiples[:, None] - values), axis=1).astype(np.float32) ** 2
    weight = (cost / cost.max()).astype(np.float32)
    exponent = start >> 3
    fixed = np.abs(np.rint(np.ldexp(left, (18 - exponent).astype(np.int32))).astype(np.int32))
    negative = np.where(np.signbit(left), np.int32(-1), np.int32(1))
    best, least = start, np.full(len(start), np.inf)
    for step in format.scale_steps:
        tried = np.clip(start + step, 0, reference.LARGEST_S1E4M3)
        twice = (8 + (tried & 7)) << (1 + (tried >> 3) - exponent)
        inverse = ((2 * 65536 // twice + 1) // 2).astype(np.int32)
        signed = negative * ((fixed * inverse + (1 << 14)) >> 15)
        for sign, multiple in ((0, signed), (128, -signed)):
            error = (weight @ squares[255 + multiple]) * twice.astype(np.float64) ** 2
            best = np.where(error < least, tried | sign, best)
            least = np.minimum(error, least)
    return best.astype(np.uint8)


def compensated(calibration: Calibration, formats: Mapping[str, Format]) -> dict[str, BlockTensor]:
    """Round the matrices that linear layers multiply by, in one pass over the calibration text.

    All pieces of the text go through the network together. When they reach a layer, its weights are
    rounded for exactly these inputs, and what it computes from then on is what the packed model
    will compute: later layers make up for earlier ones too. Returns a tensor for each of `formats`
    that is the weight of a linear layer or of a tied head; changes the network's weights.
    """
    import torch

    network, head = calibration.network, calibration.network.get_output_embeddings()
    layers = {m: name for m, name in calibration.linear_layers().items() if name in formats}
    result: dict[str, BlockTensor] = {}
    seen: tuple[Any, Any] = (None, None)  # q, k and v read the same inputs

    def round_weights(layer: Any, inputs: tuple[Any, ...]) -> None:
        nonlocal seen
        if seen[0] is not inputs[0]:
            seen = (inputs[0], second_moment(inputs[0]))
        name = layers[layer]
        result[name] = compensate(layer.weight.numpy(), seen[1], formats[name])
        layer.weight.copy_(torch.from_numpy(dequantize(result[name])))
        advance(layer.weight.numel())

    hooks = [m.register_forward_pre_hook(round_weights) for m in layers if m is not head]
    total = sum(layer.weight.numel() for layer in layers)
    try:
        with torch.no_grad(), progress("calibrating", total, "weights") as advance:
            read = network.base_model(input_ids=calibration.tokens, use_cache=False)
            if head in layers:  # its logits, which would be large, are not needed
                round_weights(head, (read.last_hidden_state,))
    finally:
        for hook in hooks:
            hook.remove()
    return result


def second_moment(inputs: Any) -> Floats:
    """Return the mean of x xᵀ over inputs: a tensor (..., cols) to an array (cols, cols)."""
    rows = inputs.reshape(-1, inputs.shape[-1])
    moment: Floats = (rows.T @ rows / len(rows)).numpy()
    if not np.isfinite(moment).all():
        raise StropFailure("calibration: the inputs of a layer hold NaN or infinity")
    return moment
