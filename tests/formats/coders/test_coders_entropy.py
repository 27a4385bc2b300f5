"""Huffman and Rans: how close to the entropy, and slow obvious decoders written from the specification."""

import heapq

import numpy as np
import pytest
from coder_streams import distributions, entropy_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.errors import IntegrityError
from featherweight.formats.coders import Huffman, Rans, StreamSpec, Zstd
from featherweight.formats.coders.bits import Bits, read_integers
from featherweight.formats.coders.huffman import Code, grow, huffman_widths
from featherweight.formats.coders.static import SEED, _ans, _model, least_bits, read_frequencies, weights

BITS_1E5 = distributions(100_000)


@pytest.mark.parametrize("coder", [Huffman(), Rans()], ids=["huffman", "rans"])
@pytest.mark.parametrize("name", BITS_1E5)
def test_within_one_percent_of_the_entropy(coder, name):
    symbols, alphabet = BITS_1E5[name]
    spec = StreamSpec(symbols.size, alphabet)
    payload = coder.encode(symbols, spec)
    np.testing.assert_array_equal(coder.decode(payload, spec), symbols)
    # At 99 % zeros one per cent is 16 bytes: less than a table of 17 symbols and a lane.
    slack = 8 if coder == Huffman() and name.startswith("99 %") else 0
    assert len(payload) <= 1.01 * entropy_bytes(symbols) + slack


def slow_huffman(payload: bytes, spec: StreamSpec) -> list[int]:
    """Decode bit by bit, lane boundaries ignored."""
    table, position = read_frequencies(Bits(payload), spec)
    lanes, position = read_integers(Bits(payload), position, 1)
    if lanes[0]:
        _, position = read_integers(Bits(payload), position, 1)
        _, position = read_integers(Bits(payload), position, int(lanes[0]))
    text = "".join(f"{byte:08b}" for byte in payload)[(position + 7) // 8 * 8 :]
    dictionary = grow(table.counts, min(4096, spec.count))
    words = []
    for word in range(dictionary.weights.size):
        path = [word % dictionary.distinct]
        while (word := int(dictionary.parents[word // dictionary.distinct])) >= 0:
            path.insert(0, word % dictionary.distinct)
        words.append(path)
    widths = huffman_widths(dictionary.weights).tolist()
    spelled, code, before = {}, 0, 0
    for width, word in sorted((width, word) for word, width in enumerate(widths)):
        code <<= width - before
        spelled[f"{code:0{width}b}"] = words[word]
        code, before = code + 1, width
    out: list[int] = []
    start = 0
    for end in range(1, len(text) + 1):
        if len(out) < spec.count and text[start:end] in spelled:
            out += spelled[text[start:end]]
            start = end
    return table.symbols[out[: spec.count]].tolist()


@pytest.mark.parametrize("name", BITS_1E5)
def test_huffman_against_a_slow_decoder(name):
    symbols, alphabet = BITS_1E5[name]
    symbols = symbols[:20_000]
    spec = StreamSpec(symbols.size, alphabet)
    assert slow_huffman(Huffman().encode(symbols, spec), spec) == symbols.tolist()


def slow_rans(payload: bytes, spec: StreamSpec) -> list[int]:
    """Decode with a 64-bit state and 32-bit words, as the specification has it."""
    table, position = read_frequencies(Bits(payload), spec)
    body = payload[(position + 7) // 8 :]
    body += bytes(-len(body) % 4)
    words = [int.from_bytes(body[i : i + 4], "little") for i in range(0, len(body), 4)]
    state = 0
    while words and state < 1 << 32:
        state = state << 32 | words.pop()
    share = weights(table.counts)
    starts = (np.cumsum(share) - share).tolist()
    out = []
    for _ in range(spec.count):
        low = state % (1 << 24)
        rank = int(np.searchsorted(starts, low, side="right")) - 1
        out.append(int(table.symbols[rank]))
        state = (state >> 24) * int(share[rank]) + low - starts[rank]
        if state < 1 << 32 and words:
            state = state << 32 | words.pop()
    assert (state, words) == (1 << 24, [])
    return out


@pytest.mark.parametrize("name", BITS_1E5)
def test_rans_against_a_slow_decoder(name):
    symbols, alphabet = BITS_1E5[name]
    symbols = symbols[:3000]
    spec = StreamSpec(symbols.size, alphabet)
    assert slow_rans(Rans().encode(symbols, spec), spec) == symbols.tolist()


@given(st.lists(st.integers(1, 1 << 20), min_size=2, max_size=200))
def test_rans_weights(counts):
    share = weights(np.array(counts))
    assert share.sum() == 1 << 24
    assert share.min() >= 1
    np.testing.assert_allclose(share / (1 << 24), np.array(counts) / sum(counts), atol=2**-23)


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 20) | st.integers(1, 1 << 20), min_size=2, max_size=40),
    st.sampled_from([1, 2, 3, 10, 300, 20_000]),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.001, 0.1, 1.0]),
)
def test_no_rans_payload_is_shorter_than_the_bound(counts, count, seed, others):
    """Whatever the table: streams of its likeliest symbol, with a few others or many between."""
    counts, draw = np.array(counts), np.random.default_rng(seed)
    ranks = np.full(count, counts.argmax())
    ranks = np.where(draw.random(count) < others, draw.integers(0, counts.size, count), ranks)
    coder = _ans([SEED])
    coder.encode_reverse(ranks.astype(np.int32), _model(counts))
    body = coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")
    assert least_bits(counts, count) <= 8 * len(body)
    ideal = float(-np.log2(weights(counts) / SEED)[ranks].sum())
    assert ideal * 128 / 129 <= 8 * len(body)


def heap_cost(weights: list[int]) -> int:
    """Return the least sum of weight times width, by Huffman's own construction."""
    heap = sorted(weights)
    cost = 0
    while len(heap) > 1:
        joined = heapq.heappop(heap) + heapq.heappop(heap)
        cost += joined
        heapq.heappush(heap, joined)
    return cost


@given(st.lists(st.integers(1, 1000) | st.integers(1, 1 << 14), min_size=2, max_size=100))
def test_huffman_widths_are_optimal_and_complete(drawn):
    drawn = np.array(drawn)
    widths = huffman_widths(drawn)
    assert sum(2.0**-widths) == 1
    assert int(drawn @ widths) == heap_cost(drawn.tolist())
    share = drawn / drawn.sum()
    entropy = -share @ np.log2(share)
    assert entropy - 1e-9 <= share @ widths < entropy + 1


def test_no_code_is_longer_than_the_window():
    fibonacci = [1, 1]
    while sum(fibonacci) + fibonacci[-1] + fibonacci[-2] < 5_702_887:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    assert huffman_widths(np.array(fibonacci)).max() <= 31
    assert grow(np.array([1 << 23, 1]), 4096).weights.sum() < 1 << 21


@settings(deadline=None)
@given(st.lists(st.integers(1, 5000), min_size=2, max_size=40), st.integers(1, 500))
def test_dictionary_is_a_complete_tree(counts, limit):
    dictionary = grow(np.array(counts), limit)
    flat, starts, lengths = dictionary.spelled()
    words = [tuple(flat[s : s + n]) for s, n in zip(starts, lengths, strict=True)]
    assert len(set(words)) == len(words)
    inner = {words[parent] for parent in dictionary.parents[1:]}
    leaves = [word for word in words if word not in inner]
    assert len(leaves) <= max(limit, len(counts))
    assert sum(len(counts) ** -len(leaf) for leaf in leaves) == pytest.approx(1)


@pytest.mark.parametrize("period", [1, 2, 3, 7])
def test_pieces_that_never_meet(period):
    draw = np.random.default_rng(0)
    symbols = np.tile(np.arange(period), 60_000 // period)
    symbols[30_000:] = draw.integers(0, 8, symbols.size - 30_000)
    spec = StreamSpec(symbols.size, 8)
    np.testing.assert_array_equal(Huffman().decode(Huffman().encode(symbols, spec), spec), symbols)


def test_long_streams_of_nearly_one_symbol():
    symbols = np.zeros(3_000_000, np.uint8)
    symbols[1_234_567] = 1
    spec = StreamSpec(symbols.size, 4, zero=0)
    payload = Huffman().encode(symbols, spec)
    assert len(payload) < 200
    np.testing.assert_array_equal(Huffman().decode(payload, spec), symbols)


def test_more_effort_is_never_larger():
    draw = np.random.default_rng(0)
    noise = np.clip(np.rint(draw.normal(size=300_000) * 2) + 8, 0, 15).astype(np.uint8)
    for symbols in (noise, noise[:5000], np.tile(noise[:1000], 300), (noise > 12) * noise):
        spec = StreamSpec(symbols.size, 16)
        payloads = [Zstd(level=level).encode(symbols, spec) for level in (3, 19)]
        assert len(payloads[1]) <= len(payloads[0])
        np.testing.assert_array_equal(Zstd().decode(payloads[1], spec), symbols)


def test_lanes_must_meet():
    symbols, alphabet = BITS_1E5["uniform, 4 bits"]
    spec = StreamSpec(symbols.size, alphabet)
    payload = bytearray(Huffman().encode(symbols, spec))
    payload[len(payload) // 2] ^= 16
    decoded = None
    try:
        decoded = Huffman().decode(bytes(payload), spec)
    except IntegrityError:
        return
    assert not np.array_equal(decoded, symbols)


def test_code_words_in_order():
    code = Code.of(np.array([8, 4, 2, 1, 1]))
    codes, widths = code.fields(np.arange(5))
    assert [f"{c:0{w}b}" for c, w in zip(codes, widths, strict=True)] == ["0", "10", "110", "1110", "1111"]
