"""Which matrices of a model suffer most from rounding.

How much a change D of a matrix W changes what the model predicts is estimated from one pass forward
and backward: its outputs y = W x change by D x, and to second order the divergence
KL(before || after), in nats per token, grows by

    1/2 mean of (g · D x)²,  g = gradient by y of log p(a token drawn from the model)

(the Fisher information, over tokens as if they were independent). Costs of matrices add up.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import Any

from strop.blockfp import Format, dequantize, quantize
from strop.console import progress
from strop.errors import StropFailure
from strop.models.calibration import Calibration
from strop.models.plan import CANDIDATES

TOKENS = 4096  #: of the calibration text that are read

Costs = dict[str, dict[Format, float]]  #: matrix -> format -> nats per token


def sensitivities(calibration: Calibration, seed: int = 0) -> Costs:
    """Estimate what each candidate format costs in each matrix that is used in the network.

    An embedding counts for what it gives the first layer, and if it is the head too for both.
    """
    import torch

    network = calibration.network
    random = torch.Generator().manual_seed(seed)
    layers = calibration.linear_layers()
    embedding = network.get_input_embeddings()
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    costs: Costs = defaultdict(lambda: dict.fromkeys(CANDIDATES, 0.0))
    pieces = calibration.tokens[: max(1, TOKENS // calibration.tokens.shape[1])]

    def add(name: str, weight: Any, inputs: Any, gradient: Any) -> None:
        """Add the cost of a matrix whose inputs are vectors, or the numbers of its rows."""
        flat = gradient.reshape(-1, gradient.shape[-1])
        for format in CANDIDATES:
            change = torch.from_numpy(dequantize(quantize(weight.numpy(), format))) - weight
            if inputs.is_floating_point():
                moved = (flat @ change * inputs.reshape(-1, inputs.shape[-1])).sum(-1)
            else:
                moved = (flat * change[inputs.reshape(-1)]).sum(-1)
            costs[name][format] += 0.5 * float(moved.square().sum()) / pieces.numel()

    def watch(layer: Any, inputs: tuple[Any, ...], output: Any) -> None:
        if layer is embedding:
            output.requires_grad_()  # the weights are not to have gradients
        name = names[id(layer.weight)]
        output.register_hook(partial(add, name, layer.weight.detach(), inputs[0].detach()))

    hooks = [layer.register_forward_hook(watch) for layer in (embedding, *layers)]
    try:
        with progress("measuring sensitivity", pieces.numel(), "tokens") as advance:
            for piece in pieces:
                logits = network(input_ids=piece[None], use_cache=False).logits[0]
                if not torch.isfinite(logits).all():
                    raise StropFailure("sensitivity: the model's logits are not finite")
                drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=random)
                torch.nn.functional.cross_entropy(logits, drawn[:, 0], reduction="sum").backward()
                advance(len(piece))
    finally:
        for hook in hooks:
            hook.remove()
    return dict(costs)
