"""Memory and bookkeeping of a recipe on a large transformer of random weights, each recipe in a process of its own.

    python -m benchmarks memory [--quick]

Peak: the most memory that the process had resident (VmHWM of Linux, set back before the network is built) above what
it had then, as a multiple of the bytes of the float weights: the network itself is 1. What every process needs once
(imports, compiled loops) is paid before, on a tiny network. Private: the most, looked at a hundred times a second, that
is no map of a file, which the system takes back at need. Before the first step the network is built, hashed, and run on
an example twice, once a run. Bookkeeping: the share of the time of the steps that is not spent in their `apply`: keys,
checks, hashes, the store.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.common import head, row
from featherweight import Agreement, Int, Recipe
from featherweight.errors import UnsupportedError
from featherweight.events import Event, Finished, Started
from featherweight.files import Store
from featherweight.recipe import run
from featherweight.recipe.recipe import read_recipe
from featherweight.techniques import Encode, Gptq
from featherweight.workspace import pinned

# blocks, width, tokens known, calibration blocks, tokens in each
SIZES = {"tiny": (1, 64, 512, 4, 8), "small": (4, 384, 8192, 16, 32), "large": (16, 1024, 49152, 16, 128)}
TABLE = "words.weight"
RECIPES = {
    "encode, 8 bits": Recipe([Encode(format=Int(bits=8, scale_by="mse"))]),
    "gptq, 4 bits": Recipe(
        [
            Encode(where=TABLE, format=Int(bits=8)),
            Gptq(
                where=["weights", f"!{TABLE}"],
                format=Int(bits=4, per=32, scale_by="mse", scheme="affine"),
                samples=32,
            ),
        ]
    ),
    "w8a8": read_recipe("w8a8"),
}


class Block(nn.Module):
    """A block of a decoder: attention with four heads, and two linear layers around a GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return `[n, tokens, width]` of as many."""
        seen = self.norms[0](x)
        parts = (
            layer(seen).unflatten(2, (4, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        x = x + self.out(F.scaled_dot_product_attention(*parts, is_causal=True).transpose(1, 2).flatten(2))
        made: Tensor = x + self.down(F.gelu(self.up(self.norms[1](x))))
        return made


class Decoder(nn.Module):
    """A language model of random weights, its table of words that of its last layer too."""

    def __init__(self, blocks: int, width: int, words: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Return scores `[n, tokens, words]`."""
        scores: Tensor = self.head(self.norm(self.blocks(self.words(tokens))))
        return scores


def task_of(size: str) -> Agreement:
    """Return the network of a size, built when it is asked for, with random tokens."""
    blocks, width, words, samples, length = SIZES[size]
    tokens = torch.randint(words, (samples + 4, length), generator=torch.Generator().manual_seed(0))
    return Agreement(
        lambda: Decoder(blocks, width, words).eval().requires_grad_(False), outputs="values", batch_size=2, name=size,
        train=tokens[:samples], calibration=tokens[:samples], validation=tokens[-4:-2], test=tokens[-2:],
    )  # fmt: skip


def resident(field: str) -> int:
    """Return a field of memory of this process, in bytes: `VmRSS`, of it `RssAnon`, or the peak, `VmHWM`.

    Raises:
        UnsupportedError: the system does not say.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")]
    if not found:
        raise UnsupportedError("memory is measured on Linux alone", where="benchmarks memory")
    return found[0]


def given_back() -> None:
    """Return freed memory to the system, and forget the peak so far."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def measured(name: str, size: str) -> dict[str, Any]:
    """Return what a recipe takes on a network, in this process, which has done nothing before."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        run(RECIPES[name], task_of("tiny"), threads=1, store=store)
        given_back()
        before, own, clock = resident("VmRSS"), resident("RssAnon"), Clock()
        with Private() as private:
            made = run(RECIPES[name], task_of(size), threads=1, store=store, events=clock)
    nbytes = sum(p.numel() * p.element_size() for p in made[0].model.module.parameters())
    return {"peak": resident("VmHWM") - before, "private": private.most - own, "weights": nbytes,
            "once": clock.begun - clock.made, "steps": clock.ended - clock.begun, "apply": clock.apply}  # fmt: skip


class Private:
    """The most private memory that this process has within a block."""

    def __init__(self) -> None:
        self.most, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._over.wait(0.01):
            self.most = max(self.most, resident("RssAnon"))

    def __enter__(self) -> Private:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()


class Clock:
    """Listens to a run: when it was made, when the first step began and the last one ended, how long steps worked."""

    def __init__(self) -> None:
        self.made = self.begun = self.ended = time.perf_counter()
        self.apply = 0.0

    def __call__(self, event: Event) -> None:
        """Note an event; what steps themselves finish says 0 seconds."""
        now = time.perf_counter()
        if isinstance(event, Started) and self.begun == self.made:
            self.begun = now
        if isinstance(event, Finished) and event.seconds:
            self.ended, self.apply = now, self.apply + event.seconds


def apart(name: str, size: str) -> dict[str, Any]:
    """Return what `measured` does, of a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", name, size]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(quick: bool) -> None:
    size = "small" if quick else "large"
    head(
        "recipe",
        "float weights, MB",
        "peak, MB",
        "peak / weights",
        "private",
        "s, before",
        "s, steps",
        "bookkeeping",
    )
    for name in RECIPES:
        found = apart(name, size)
        share = 1 - found["apply"] / found["steps"]
        ratios = [f"{found[field] / found['weights']:.2f}" for field in ("peak", "private")]
        megabytes = [f"{found[field] / 1e6:.0f}" for field in ("weights", "peak")]
        row(name, *megabytes, *ratios, f"{found['once']:.0f}", f"{found['steps']:.0f}", f"{share:.2%}")


if __name__ == "__main__":
    with pinned(1):
        print(json.dumps(measured(*sys.argv[1:])))
