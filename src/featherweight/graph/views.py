"""The view of every tensor of a network, from the class of the module that owns it."""

from __future__ import annotations

from torch import Tensor, nn

from featherweight.formats import View

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

# Modules, the start of their tensors' names, and how many blocks of rows share nothing.
_BLOCKS: tuple[tuple[tuple[type[nn.Module], ...], tuple[str, ...], int], ...] = (
    ((nn.LSTM, nn.LSTMCell), ("weight_ih", "weight_hh"), 4),
    ((nn.GRU, nn.GRUCell), ("weight_ih", "weight_hh"), 3),
    ((nn.MultiheadAttention,), ("in_proj_weight",), 3),
)


def canonical_names(module: nn.Module) -> dict[str, str]:
    """Return every name of a parameter or persistent buffer to the first name of that tensor."""
    first: dict[int, str] = {}
    state = module.state_dict(keep_vars=True)
    return {
        name: first.setdefault(id(tensor), name)
        for name, tensor in state.items()
        if isinstance(tensor, Tensor)
    }


def views(module: nn.Module) -> dict[str, View]:
    """Return how each tensor of `module` is a matrix, by canonical name.

    Linear, convolution, bilinear and embedding weights keep axis 0. A transposed convolution `[in, out,
    k...]` keeps axis 1; a grouped one `[in, out / groups, k...]` has no axis of output channels and keeps
    axis 0, whose rows never mix two groups. The gates of an LSTM (4), GRU (3) and the query, key and value of
    attention (3) are groups of rows. Everything else, the tensors of parametrizations included, keeps axis 0.
    """
    state = module.state_dict(keep_vars=True)
    owners = dict(module.named_modules())
    found = {}
    for name in dict.fromkeys(canonical_names(module).values()):
        path, _, local = name.rpartition(".")
        found[name] = _view(owners.get(path), local, tuple(state[name].shape))
    return found


def _view(owner: nn.Module | None, local: str, shape: tuple[int, ...]) -> View:
    if len(shape) < 2:
        return View.of(shape)
    if isinstance(owner, _TRANSPOSED) and local == "weight" and owner.groups == 1:
        return View(shape, permutation=(1, 0, *range(2, len(shape))))
    groups = [
        count for kinds, start, count in _BLOCKS if isinstance(owner, kinds) and local.startswith(start)
    ]
    return View(shape, groups=groups[0] if groups else 1)
