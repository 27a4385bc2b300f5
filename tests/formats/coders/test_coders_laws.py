"""Our own coders, alone and composed, under the suite that plug-ins get."""

from featherweight.formats.coders import Bitmask, Cabac, Fixed, Gaps, Huffman, Rans, Zstd
from featherweight.testing import CoderSuite


class TestFixed(CoderSuite):
    coder = Fixed()
    mutations = 500


class TestHuffman(CoderSuite):
    coder = Huffman()
    mutations = 12


class TestRans(CoderSuite):
    coder = Rans()
    mutations = 150


class TestZstd(CoderSuite):
    coder = Zstd(level=3)
    mutations = 300


class TestBitmask(CoderSuite):
    coder = Bitmask()
    mutations = 300


class TestBitmaskOfRans(CoderSuite):
    coder = Bitmask(values=Rans(), mask=Rans())
    mutations = 100


class TestBitmaskOfZstdAndHuffman(CoderSuite):
    coder = Bitmask(values=Zstd(level=3), mask=Huffman())
    mutations = 10


class TestGaps(CoderSuite):
    coder = Gaps()
    mutations = 300


class TestGapsOfOneBit(CoderSuite):
    coder = Gaps(bits=1)
    mutations = 300


class TestGapsOfSixteenBits(CoderSuite):
    coder = Gaps(bits=16, values=Fixed(), gaps=Rans())
    mutations = 150


class TestDeepCompression(CoderSuite):
    coder = Gaps(values=Huffman(), gaps=Huffman())
    mutations = 10


class TestCabac(CoderSuite):
    coder = Cabac()
    mutations = 150


class TestBitmaskByCabac(CoderSuite):
    coder = Bitmask(values=Rans(), mask=Cabac())
    mutations = 50
