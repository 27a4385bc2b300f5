"""Data for real networks: photographs, drawn text, files of this machine, recorded speech, synthesised notes."""

from __future__ import annotations

import sysconfig
import wave
from collections import defaultdict
from functools import cache
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from featherweight.errors import TaskError
from featherweight.files import cache_dir
from reproduce.real.files import folder

Array = NDArray[Any]
Floats = NDArray[np.float32]
RATE = 16_000  # samples of speech a second
SEED = 0x0CEA
FONTS = ("Sans", "Serif", "SansMono", "Sans-Bold", "Serif-Bold", "Sans-Oblique", "Serif-Italic")


def photographs(count: int) -> list[Path]:
    """Return photographs of the folder `imagenet` of the cache, in order of their names."""
    images = cache_dir() / "imagenet"
    found = sorted(images.rglob("*.jpg"))[:count] if images.is_dir() else []
    if not found:
        raise TaskError("no photographs", where=str(images), hint="put .jpg files there, of any kind")
    return found


@cache
def lines() -> tuple[str, ...]:
    """Return lines of printable text of 8 to 44 characters, in an order of their own, each once."""
    texts = [(folder("texts") / name).read_text(errors="replace") for name in ("fortunes", "literature")]
    given = (line.strip(" \t\b-") for text in texts for line in text.splitlines())
    kept = sorted({line for line in given if 8 <= len(line) <= 44 and line.isascii() and line.isprintable()})
    return tuple(kept[i] for i in np.random.default_rng(SEED).permutation(len(kept)))


@cache
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Return a font of the DejaVu family, which matplotlib brings."""
    import matplotlib

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"DejaVu{name}.ttf"
    return ImageFont.truetype(str(file), size)


def written(text: str, generator: np.random.Generator) -> Image.Image:
    """Return a line of text as an image: a font, colours, a margin, and a little blur and noise, all drawn."""
    drawn = font(FONTS[generator.integers(len(FONTS))], int(generator.integers(20, 41)))
    left, top, right, bottom = (int(edge) for edge in drawn.getbbox(text))
    margin = int(generator.integers(3, 10))
    paper, ink = _colours(generator)
    image = Image.new("RGB", (right - left + 2 * margin, bottom - top + 2 * margin), paper)
    ImageDraw.Draw(image).text((margin - left, margin - top), text, font=drawn, fill=ink)
    return _worn(image, generator)


def page(texts: list[str], size: tuple[int, int], generator: np.random.Generator) -> Image.Image:
    """Return lines of text on a page of `size`, width and height, at places that are drawn."""
    paper, ink = _colours(generator)
    image = Image.new("RGB", size, paper)
    pen, y = ImageDraw.Draw(image), int(generator.integers(8, 40))
    for text in texts:
        drawn = font(FONTS[generator.integers(len(FONTS))], int(generator.integers(14, 33)))
        height = sum(drawn.getmetrics())
        if y + height > size[1]:
            break
        pen.text((int(generator.integers(4, size[0] // 3)), y), text, font=drawn, fill=ink)
        y += height + int(generator.integers(4, 40))
    return _worn(image, generator)


def _colours(generator: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return a light and a dark colour, in either order."""
    light = tuple(int(part) for part in generator.integers(180, 256, 3))
    dark = tuple(int(part) for part in generator.integers(0, 90, 3))
    return (light, dark) if generator.random() < 0.8 else (dark, light)


def _worn(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    image = image.filter(ImageFilter.GaussianBlur(float(generator.uniform(0, 0.8))))
    pixels = np.asarray(image, np.float32)
    noise = generator.normal(0, generator.uniform(0, 8), pixels.shape)
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))


def paddle(image: Image.Image, size: tuple[int, int], width: int = 0) -> Floats:
    """Return an image as Paddle's networks take it: BGR, -1 to 1, `[3, height, width]`.

    Args:
        image: any image.
        size: width and height that it is scaled to.
        width: of the result, zeros behind the image; 0: as it is.
    """
    pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BILINEAR), np.float32)
    scaled = ((pixels / 255 - 0.5) / 0.5)[..., ::-1].transpose(2, 0, 1)
    return np.pad(scaled, ((0, 0), (0, 0), (0, max(width - size[0], 0)))).astype(np.float32)


def files_of_many_kinds(count: int) -> list[Path]:
    """Return files of this machine's Python and system, one of each suffix in turns."""
    roots = [Path(sysconfig.get_path(name)) for name in ("purelib", "stdlib", "include")]
    roots += [Path("/usr/share"), Path("/etc"), Path("/usr/bin")]
    kinds: dict[str, list[Path]] = defaultdict(list)
    for root in roots:
        for path in sorted(root.rglob("*") if root.is_dir() else ()):
            suffix = path.suffix.lower() or f"none, {root.name}"
            if len(kinds[suffix]) < count and not path.is_symlink() and path.is_file():
                kinds[suffix].append(path)
    turns = zip_longest(*(kinds[suffix] for suffix in sorted(kinds)))
    return list(
        islice((path for turn in turns for path in turn if path and path.stat().st_size >= 64), count)
    )


def magika_features(path: Path) -> NDArray[np.int32]:
    """Return what magika reads of a file `[2048]`: 1,024 bytes of its start and its end, 256 where there are none."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(4096).lstrip()[:1024]
        stream.seek(max(size - 4096, 0))
        end = stream.read(4096).rstrip()[-1024:]
    found = np.full(2048, 256, np.int32)
    found[: len(start)] = list(start)
    found[2048 - len(end) :] = list(end)
    return found


def recordings() -> list[Floats]:
    """Return recorded speech, 16,000 samples a second, -1 to 1; background noise before, within and behind each."""
    generator, found = np.random.default_rng(SEED), []
    speech = folder("speech")
    for path in sorted([*speech.rglob("*.wav"), *speech.rglob("*.raw")]):
        if path.suffix == ".wav":
            with wave.open(str(path)) as opened:
                assert (opened.getframerate(), opened.getnchannels(), opened.getsampwidth()) == (RATE, 1, 2)
                content = opened.readframes(opened.getnframes())
        else:
            content = path.read_bytes()
        samples = np.frombuffer(content, "<i2").astype(np.float32) / 32768
        samples = np.concatenate([np.zeros(RATE), samples * generator.uniform(0.5, 1.5), np.zeros(RATE)])
        noise = generator.normal(0, 10 ** generator.uniform(-4, -2), len(samples))
        found.append((samples + noise).clip(-1, 1).astype(np.float32))
    return found


def played(generator: np.random.Generator, samples: int, rate: int = 22_050) -> Floats:
    """Return notes that fade, alone and in chords, of harmonics of falling strength `[samples]`."""
    time = np.arange(samples) / rate
    sound = generator.normal(0, 1e-3, samples)
    for _ in range(generator.integers(3, 9)):
        start, length = generator.uniform(0, 1.6), generator.uniform(0.15, 1.0)
        inside = (time >= start) & (time < start + length)
        envelope = inside * np.exp(-(time - start).clip(0) * generator.uniform(1, 6))
        for _ in range(generator.integers(1, 4)):
            pitch = 440 * 2 ** ((generator.integers(36, 90) - 69) / 12)
            for harmonic in range(1, 9):
                if pitch * harmonic < rate / 2:
                    part = np.sin(2 * np.pi * pitch * harmonic * (time - start))
                    sound += envelope * part * generator.uniform(0.3, 1) * harmonic**-1.5
    loudest = max(float(np.abs(sound).max()), 1e-6)
    found: Floats = (sound * generator.uniform(0.2, 0.9) / loudest).astype(np.float32)
    return found
