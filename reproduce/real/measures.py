"""What real networks are given, and how each is judged against itself: boxes, text, decisions, notes, voices, pitch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reproduce.real.data import (
    SEED,
    files_of_many_kinds,
    lines,
    magika_features,
    paddle,
    page,
    photographs,
    played,
    recordings,
    written,
)
from reproduce.real.voices import (
    MOST,
    START,
    STOP,
    Word,
    cents,
    spelled,
)

Array = NDArray[Any]
Call = dict[str, Array]
Predict = Callable[[Call], list[Array]]


def as_it_is(name: str, sample: Array, run: Predict) -> Iterator[Call]:
    """Yield a sample as one call of a batch of one."""
    yield {name: sample[None]}


# ---------------------------------------------------------------- nudenet: boxes


def blobs(count: int) -> list[Array]:
    """Return photographs as nudenet takes them: padded to squares, 320 x 320, 0 to 1."""
    return [_blob(path) for path in photographs(count)]


def _blob(path: Path) -> Array:
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    square = Image.new("RGB", (max(image.size),) * 2)
    square.paste(image, (0, 0))
    pixels = np.asarray(square.resize((320, 320), Image.Resampling.BILINEAR), np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)) / np.float32(255)


Box = tuple[int, float, Array]  # class, score, corners [4]


def boxes(output: Array, least: float) -> list[Box]:
    """Return the boxes of `output: [22, places]` of at least this score, after suppression of overlapping ones."""
    scores = output[4:].max(0)
    kept: list[Box] = []
    for place in sorted(np.flatnonzero(scores >= least), key=lambda place: -scores[place]):
        x, y, w, h = output[:4, place]
        corners = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
        kind = int(output[4:, place].argmax())
        if all(overlap(corners, other) < 0.45 for _, _, other in kept):
            kept.append((kind, float(scores[place]), corners))
    return kept


def overlap(a: Array, b: Array) -> float:
    """Return intersection over union of two boxes, `[4]` each: left, top, right, bottom."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    inside = float(np.prod(sides.clip(0)))
    areas = sum(float(np.prod(box[2:] - box[:2])) for box in (a, b))
    return inside / max(areas - inside, 1e-9)


def found_again(truth: list[Box], boxes: list[Box]) -> list[bool]:
    """Return of each box, best first, whether it is one of `truth`: of its class, overlapping half, each once."""
    left, found = list(truth), []
    for kind, _, corners in boxes:
        best = max(left, key=lambda box: (box[0] == kind) * overlap(box[2], corners), default=None)
        hit = best is not None and best[0] == kind and overlap(best[2], corners) >= 0.5
        found.append(hit)
        if hit and best is not None:
            left = [box for box in left if box is not best]
    return found


def average_precision(truths: list[list[Box]], found: list[list[Box]]) -> float:
    """Return the area under precision over recall of all boxes by score, all classes together."""
    pairs = [
        (score, hit)
        for truth, boxes in zip(truths, found, strict=True)
        for (_, score, _), hit in zip(boxes, found_again(truth, boxes), strict=True)
    ]
    hits = np.array([hit for _, hit in sorted(pairs, key=lambda pair: -pair[0])], bool)
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best[hits].sum() / max(sum(map(len, truths)), 1)) if len(hits) else 0.0


def judge_boxes(plain: Predict, other: Predict, samples: Sequence[Array]) -> dict[str, float]:
    """Return dB of signal to noise, and precision and recall of the float network's own boxes."""
    outputs = [[run({"images": sample[None]})[0][0] for sample in samples] for run in (plain, other)]
    truths = [boxes(output, 0.25) for output in outputs[0]]
    sure, loose = ([boxes(output, least) for output in outputs[1]] for least in (0.25, 0.05))
    hits = sum(sum(found_again(truth, some)) for truth, some in zip(truths, sure, strict=True))
    return {
        "dB": decibels(outputs[0], outputs[1]),
        "average precision": average_precision(truths, loose),
        "recall": hits / max(sum(map(len, truths)), 1),
        "precision": hits / max(sum(map(len, sure)), 1),
        "boxes": float(sum(map(len, truths))),
    }


def decibels(wanted: Sequence[Array], got: Sequence[Array]) -> float:
    """Return the signal to noise of arrays, all together."""
    noise = sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in zip(wanted, got, strict=True))
    power = sum(float(np.square(a, dtype=np.float64).sum()) for a in wanted)
    return float(10 * np.log10(power / max(noise, 1e-30)))


# ---------------------------------------------------------------- text: found, read, upright


def pages(count: int) -> list[Array]:
    """Return pages of text as the detector takes them, of three sizes."""
    generator, texts = np.random.default_rng(SEED), lines()
    sizes = ((640, 480), (480, 640), (544, 544))
    some = [[texts[i] for i in generator.integers(len(texts), size=12)] for _ in range(count)]
    return [paddle(page(text, sizes[n % 3], generator), sizes[n % 3]) for n, text in enumerate(some)]


def judge_map(plain: Predict, other: Predict, samples: Sequence[Array]) -> dict[str, float]:
    """Return intersection over union of the places above 0.3, all pages together."""
    both = either = 0
    for sample in samples:
        a, b = (run({"x": sample[None]})[0] > 0.3 for run in (plain, other))
        both, either = both + int((a & b).sum()), either + int((a | b).sum())
    return {"IoU": both / max(either, 1)}


def strips(count: int) -> list[Array]:
    """Return lines of text as the reader takes them: 48 high, at least 320 wide, zeros behind shorter ones."""
    generator = np.random.default_rng(SEED)
    return [_strip(written(text, generator), 320) for text in lines()[:count]]


def _strip(image: Image.Image, least: int, most: int = 4096) -> Array:
    width = min(int(np.ceil(48 * image.width / image.height)), most)
    return paddle(image, (width, 48), least)


def read(scores: Array) -> list[int]:
    """Return the characters of `scores: [time, characters]`: the best of each step, repeats and blanks left out."""
    best = scores.argmax(-1)
    changed = np.concatenate([[True], best[1:] != best[:-1]])
    return [int(character) for character in best[changed & (best != 0)]]


def apart(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the edit distance of two sequences (Levenshtein, 1966)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def judge_text(plain: Predict, other: Predict, samples: Sequence[Array]) -> dict[str, float]:
    """Return the shares of characters and of lines that are read alike."""
    wrong = characters = alike = 0
    for sample in samples:
        a, b = (read(run({"x": sample[None]})[0][0]) for run in (plain, other))
        wrong, characters, alike = wrong + apart(a, b), characters + len(a), alike + (a == b)
    return {"characters": 1 - wrong / max(characters, 1), "lines": alike / len(samples)}


def turned(count: int) -> list[Array]:
    """Return lines of text, every other one upside down, as the classifier takes them: 48 x 192."""
    generator = np.random.default_rng(SEED + 1)
    images = [written(text, generator) for text in lines()[:count]]
    return [_strip(i.rotate(180) if n % 2 else i, 192, 192) for n, i in enumerate(images)]


def judge_decisions(name: str, plain: Predict, other: Predict, samples: Sequence[Array]) -> dict[str, float]:
    """Return the share of samples with the same best class."""
    same = [
        int(plain({name: sample[None]})[0].argmax()) == int(other({name: sample[None]})[0].argmax())
        for sample in samples
    ]
    return {"decisions": float(np.mean(same))}


# ---------------------------------------------------------------- files, speech, notes


def kinds(count: int) -> list[Array]:
    """Return what magika reads of files of this machine, in an order of their own."""
    found = [magika_features(path) for path in files_of_many_kinds(count)]
    return [found[i] for i in np.random.default_rng(SEED).permutation(len(found))]


WINDOW, CONTEXT = 512, 64
SAMPLE_RATE = np.array(16_000, np.int64)


def spoken(count: int) -> list[Array]:
    """Return recordings of speech in an order of their own."""
    found = recordings()
    return [found[i] for i in np.random.default_rng(SEED).permutation(len(found))][:count]


def listened(run: Predict, recording: Array) -> Iterator[tuple[Call, float]]:
    """Yield every call of the detector of speech on a recording, its state carried on, and how sure it is."""
    state, context = np.zeros((2, 1, 128), np.float32), np.zeros(CONTEXT, np.float32)
    for start in range(0, len(recording) - WINDOW + 1, WINDOW):
        heard = np.concatenate([context, recording[start : start + WINDOW]])
        call = {"input": heard[None], "state": state, "sr": SAMPLE_RATE}
        speech, state = run(call)
        context = heard[-CONTEXT:]
        yield call, float(speech.reshape(-1)[0])


def heard(recording: Array, run: Predict) -> Iterator[Call]:
    """Yield every fourth call on a recording, with the states of the float network."""
    for number, (call, _) in enumerate(listened(run, recording)):
        if number % 4 == 0:
            yield call


def judge_speech(plain: Predict, other: Predict, samples: Sequence[Array]) -> dict[str, float]:
    """Return the share of windows that both take for speech, or neither, each with its own state."""
    sure = [np.array([p for sample in samples for _, p in listened(run, sample)]) for run in (plain, other)]
    return {
        "decisions": float(np.mean((sure[0] > 0.5) == (sure[1] > 0.5))),
        "speech": float(np.mean(sure[0] > 0.5)),
        "largest difference": float(np.abs(sure[0] - sure[1]).max()),
    }


def notes(count: int) -> list[Array]:
    """Return synthesised notes, two seconds each `[43844, 1]`."""
    generator = np.random.default_rng(SEED)
    return [played(generator, 43_844)[:, None] for _ in range(count)]


PITCHES = "serving_default_input_2:0"


def judge_notes(plain: Predict, other: Predict, samples: Sequence[Array]) -> dict[str, float]:
    """Return intersection over union of notes above 0.3 and of onsets above 0.5 (outputs 2 and 1 of the file)."""
    both, either = np.zeros(2), np.zeros(2)
    for sample in samples:
        ours, theirs = (run({PITCHES: sample[None]}) for run in (plain, other))
        for place, (output, least) in enumerate(((1, 0.3), (0, 0.5))):
            a, b = ours[output] > least, theirs[output] > least
            both[place] += (a & b).sum()
            either[place] += (a | b).sum()
    found = both / np.maximum(either, 1)
    return {"IoU of notes": float(found[0]), "IoU of onsets": float(found[1])}


# ---------------------------------------------------------------- words, voices, pitch


def pronounced(word: str, run: Predict) -> list[int]:
    """Return the phonemes of a word, each the best behind those before it."""
    letters, said = spelled(word)[None], [START]
    while len(said) <= MOST:
        scores = run({"letters": letters, "said": np.array([said])})[0][0, -1]
        if (best := int(scores.argmax())) == STOP:
            break
        said.append(best)
    return said[1:]


def spelled_and_said(sample: Word, run: Predict) -> Iterator[Call]:
    """Yield a word and what the float network says of it as one call."""
    said = [START, *pronounced(sample[0], run)]
    yield {"letters": spelled(sample[0])[None], "said": np.array([said])}


def judge_words(plain: Predict, other: Predict, samples: Sequence[Word]) -> dict[str, float]:
    """Return the shares of phonemes and words that both say, and the error of each by the dictionary's nearest way."""
    edits = phonemes = alike = spoken = 0
    wrong = [0, 0]
    for word, ways in samples:
        a, b = (pronounced(word, run) for run in (plain, other))
        edits, phonemes, alike = edits + apart(a, b), phonemes + len(a), alike + (a == b)
        spoken += len(ways[0])
        wrong = [
            count + min(apart(way, said) for way in ways) for count, said in zip(wrong, (a, b), strict=True)
        ]
    return {
        "phonemes": 1 - edits / max(phonemes, 1),
        "words": alike / len(samples),
        "phoneme error": wrong[1] / spoken,
        "of the float file": wrong[0] / spoken,
    }


def one_by_one(name: str, sample: Array, run: Predict) -> Iterator[Call]:
    """Yield every row of a sample as a call of a batch of one."""
    for row in sample:
        yield {name: row[None]}


def judge_voices(plain: Predict, other: Predict, samples: Sequence[Array]) -> dict[str, float]:
    """Return the mean and the least cosine of both vectors of an utterance, each the mean of its parts."""
    found = []
    for sample in samples:
        a, b = (run({"mels": sample})[0].mean(0) for run in (plain, other))
        found.append(float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))))
    return {"cosine": float(np.mean(found)), "least cosine": min(found)}


SURE = 0.21  # of a pitch: the threshold of torchcrepe's own guide


def judge_pitch(plain: Predict, other: Predict, samples: Sequence[Array]) -> dict[str, float]:
    """Return the share of frames, of those that have a pitch, with the same within 50 cents, and of equal voicing."""
    ours, theirs = (np.concatenate([run({"frames": f})[0] for f in samples]) for run in (plain, other))
    sure = ours.max(1) > SURE
    near = np.abs(cents(ours) - cents(theirs)) <= 50
    return {
        "pitches": float(near[sure].mean()),
        "voicing": float(np.mean(sure == (theirs.max(1) > SURE))),
        "frames with a pitch": float(sure.sum()),
    }
