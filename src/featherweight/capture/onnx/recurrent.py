"""ONNX's LSTM, GRU and RNN as torch's layers: other orders of gates and axes, the same numbers."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import nn

from featherweight.capture.onnx.values import Value, tensor
from featherweight.errors import UnsupportedError

Array = NDArray[Any]

# Blocks of rows of torch's weights, by their place in ONNX's: torch has input, forget, cell, output; ONNX i, o, f, c.
_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
_KINDS: dict[str, Any] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
_ACTIVATIONS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}
LENGTHS, HIDDEN, CELL = 4, 5, 6  # places of inputs


def recurrent(
    node: ir.Node, options: dict[str, Any], arrays: list[Array | None]
) -> tuple[nn.Module, dict[str, Array], Any]:
    """Return a recurrent layer without weights, these by name, and how it is called.

    Args:
        node: an LSTM, GRU or RNN.
        options: its attributes.
        arrays: its weights of inputs and of states `[directions, gates * hidden, in]`, and its biases or None.

    Raises:
        UnsupportedError: it computes something that torch's layer does not.
    """
    op, direction = node.op_type, options.get("direction", "forward")
    weight, recurrence, bias = arrays
    assert weight is not None and recurrence is not None
    activations = [name.lower() for name in options.get("activations") or []]
    expected = _ACTIVATIONS[op] * weight.shape[0]
    relu = op == "RNN" and activations == ["relu"] * weight.shape[0]
    odd = (
        "other activations" if activations and activations != expected and not relu
        else "clip" if "clip" in options
        else "input_forget" if options.get("input_forget")
        else "peepholes" if len(node.inputs) > 7 and node.inputs[7] is not None
        else "lengths of each sequence" if len(node.inputs) > LENGTHS and node.inputs[LENGTHS] is not None
        else "linear_before_reset=0" if op == "GRU" and not options.get("linear_before_reset")
        else ""
    )  # fmt: skip
    if odd:
        hint = (
            "torch's layers know none; keras: reset_after=True"
            if "reset" in odd
            else "torch's layers know none"
        )
        raise UnsupportedError(f"a recurrent layer with {odd}", hint=hint)
    hidden, both = recurrence.shape[2], weight.shape[0] == 2
    extra = {"nonlinearity": "relu"} if relu else {}
    with torch.device("meta"):
        made = {"bias": bias is not None, "bidirectional": both, **extra}
        module = _KINDS[op](weight.shape[2], hidden, **made).eval()
    tensors = {}
    for number, end in enumerate(["_l0", "_l0_reverse"][: weight.shape[0]]):
        rows = {"weight_ih": weight[number], "weight_hh": recurrence[number]}
        if bias is not None:
            rows |= dict(zip(("bias_ih", "bias_hh"), np.split(bias[number], 2), strict=True))
        for name, array in rows.items():
            blocks = np.split(array, len(_GATES[op]))
            tensors[name + end] = np.concatenate([blocks[place] for place in _GATES[op]])
    call = partial(_run, reverse=direction == "reverse", batch_first=bool(options.get("layout", 0)))
    return module, tensors, call


def _run(
    module: nn.Module, x: Value, hidden: Value = None, cell: Value = None, *, reverse: bool, batch_first: bool
) -> tuple[Value, ...]:
    """Return all states `[steps, directions, batch, hidden]`, the last ones, and the last cells of an LSTM."""
    x = tensor(x)
    x = x.transpose(0, 1) if batch_first else x
    x = x.flip(0) if reverse else x
    states = [tensor(state) for state in (hidden, cell) if state is not None]
    states = [state.transpose(0, 1) for state in states] if batch_first else states
    lstm = isinstance(module, nn.LSTM)
    if states and lstm and len(states) < 2:
        states = (
            [tensor(hidden), torch.zeros_like(states[0])]
            if cell is None
            else [torch.zeros_like(states[0]), *states]
        )
    if not states:
        made, last = module(x)
    else:
        made, last = module(x, tuple(states) if lstm else states[0])
    made = made.flip(0) if reverse else made
    directions = 2 if module.bidirectional else 1
    if directions == 1:
        made = made.unsqueeze(1)
    else:
        made = made.reshape(*made.shape[:2], 2, made.shape[2] // 2).transpose(1, 2)
    ends = list(last) if lstm else [last]
    if batch_first:
        made, ends = made.permute(2, 0, 1, 3), [end.transpose(0, 1) for end in ends]
    return made, *ends
