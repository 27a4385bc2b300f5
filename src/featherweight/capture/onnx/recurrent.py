"""ONNX's LSTM, GRU and RNN as torch's layers: other orders of gates and axes, the same numbers.

Torch's GRU resets what it multiplied; `linear_before_reset=0` of ONNX, which is Keras' `reset_after=False`, multiplies
what it reset. That is written step by step, of linear layers.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featherweight.capture.onnx.values import Known, Value, tensor
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
        else ""
    )  # fmt: skip
    if odd:
        raise UnsupportedError(f"a recurrent layer with {odd}", hint="torch's layers know none")
    hidden, both = recurrence.shape[2], weight.shape[0] == 2
    extra = {"nonlinearity": "relu"} if relu else {}
    call = partial(_run, reverse=direction == "reverse", batch_first=bool(options.get("layout", 0)))
    if op == "GRU" and not options.get("linear_before_reset"):
        return *_reset_first(weight, recurrence, bias), call
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
    return module, tensors, call


def _reset_first(weight: Array, recurrence: Array, bias: Array | None) -> tuple[nn.Module, dict[str, Array]]:
    """Return a GRU that resets before it multiplies, and its tensors by name; arguments as in `recurrent`."""
    ways, hidden = weight.shape[0], recurrence.shape[2]
    with torch.device("meta"):
        module = ResetFirst(weight.shape[2], hidden, ways, bias=bias is not None).eval()
    tensors = {}
    for way in range(ways):
        tensors[f"read.{way}.weight"] = weight[way]
        tensors[f"gates.{way}.weight"] = recurrence[way][: 2 * hidden]
        tensors[f"state.{way}.weight"] = recurrence[way][2 * hidden :]
        if bias is not None:  # all are added outside of what is reset
            tensors[f"read.{way}.bias"] = np.sum(np.split(bias[way], 2), axis=0)
    return module, tensors


class ResetFirst(nn.Module):
    """A GRU that multiplies the state it reset, a step at a time; called as `nn.GRU`, of steps first.

    Of each direction: `read`, what the input adds to update gate, reset gate and new state; `gates`, what the state
    adds to the gates; `state`, what the state that was reset adds to the new one.

    References: Cho et al., Learning phrase representations using RNN encoder-decoder, 2014, eq. 5 to 8.
    """

    def __init__(self, size: int, hidden: int, ways: int, *, bias: bool) -> None:
        super().__init__()
        self.hidden, self.bidirectional = hidden, ways == 2
        self.read = nn.ModuleList([nn.Linear(size, 3 * hidden, bias=bias) for _ in range(ways)])
        self.gates = nn.ModuleList([nn.Linear(hidden, 2 * hidden, bias=False) for _ in range(ways)])
        self.state = nn.ModuleList([nn.Linear(hidden, hidden, bias=False) for _ in range(ways)])

    def forward(self, x: Tensor, first: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return states `[steps, batch, ways * hidden]`, and the last ones `[ways, batch, hidden]`.

        Args:
            x: `[steps, batch, size]`.
            first: states `[ways, batch, hidden]`; by default 0.
        """
        made, ends = [], []
        for way, (read, gates, state) in enumerate(zip(self.read, self.gates, self.state, strict=True)):
            given = read(x)
            now = x.new_zeros(x.shape[1], self.hidden) if first is None else first[way]
            states: list[Tensor] = []
            for at in range(len(x))[:: -1 if way else 1]:
                ahead, new = given[at].split([2 * self.hidden, self.hidden], dim=-1)
                update, reset = (ahead + gates(now)).sigmoid().chunk(2, dim=-1)
                now = (1 - update) * (new + state(reset * now)).tanh() + update * now
                states.append(now)
            made.append(torch.stack(states[:: -1 if way else 1]))
            ends.append(now)
        return torch.cat(made, dim=-1), torch.stack(ends)


def _check_lengths(lengths: Value, steps: Any) -> None:
    """Refuse lengths of sequences that are not, by what is known without the network's inputs, all steps there are."""
    if lengths is None:
        return
    known = lengths.ints() if isinstance(lengths, Known) else None
    if known is None or any(n != steps for n in known):
        said = f"{known} of {steps} steps" if known is not None else "computed"
        hint = "leave the input out where every sequence has all steps"
        raise UnsupportedError(f"a recurrent layer with lengths of each sequence, {said}", hint=hint)


def _run(
    module: nn.Module, x: Value, lengths: Value = None, hidden: Value = None, cell: Value = None, *,
    reverse: bool, batch_first: bool,
) -> tuple[Value, ...]:  # fmt: skip
    """Return all states `[steps, directions, batch, hidden]`, the last ones, and the last cells of an LSTM."""
    x = tensor(x)
    x = x.transpose(0, 1) if batch_first else x
    _check_lengths(lengths, x.shape[0])
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
