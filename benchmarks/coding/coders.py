"""casckpt's modes and other compressors, as things that code a chunk and give it back."""

from __future__ import annotations

import importlib.util
import threading
from abc import ABC, abstractmethod
from collections import Counter
from typing import Any

import numpy as np

from benchmarks.coding.streams import Piece
from benchmarks.machine import NOT_INSTALLED
from casckpt.objects.chain import Chain, decode_into, read_link
from casckpt.objects.encoding import encode_chunk
from casckpt.objects.frame import head_size, read_frame
from casckpt.objects.ids import XXH3_128

Packed = Any
"""What a coder makes of a chunk: bytes, or something like them."""


class Coder(ABC):
    """One compressor. It may be called by as many threads at a time as it was made for, unless it has its own.

    modules: what it needs. over_base: whether it has a use for what stood there before. own_threads: whether it shares
    out the work of one call among threads that it has itself.
    """

    name: str
    modules: tuple[str, ...] = ()
    over_base = False
    alone = True
    own_threads = False

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._local = threading.local()

    @classmethod
    def missing(cls) -> str | None:
        """Why it cannot be measured here; None: it can."""
        return None if all(importlib.util.find_spec(module) for module in cls.modules) else NOT_INSTALLED

    def ready(self, piece: Piece) -> Any:
        """What `encode` uses up: made before, and not timed."""
        return None

    @abstractmethod
    def encode(self, piece: Piece, ready: Any) -> Packed:
        """The chunk, coded."""

    @abstractmethod
    def decode(self, piece: Piece, packed: Packed, out: memoryview) -> Any:
        """The chunk's bytes; in `out`, memory of its length that was touched before, where the coder can."""

    def kinds(self, packed: list[Packed]) -> dict[str, int]:
        """How many chunks were coded in which way, where there are several."""
        return {}


class Casckpt(Coder):
    """A frame, as the save pipeline makes it in the piece of the pool that the chunk was copied to. Decoding checks it
    against its id, as a load does; what a delta lies over is at hand there too, since a load decodes each base once."""

    mode: str

    def ready(self, piece: Piece) -> Any:
        lead = head_size(len(piece.id))
        buffer = np.empty(lead + len(piece.raw), np.uint8)
        buffer[lead:] = np.frombuffer(piece.raw, np.uint8)
        return buffer.data

    def encode(self, piece: Piece, ready: Any) -> Packed:
        return encode_chunk(piece.id, ready, piece.words, self.mode, piece.base)

    def decode(self, piece: Piece, packed: Packed, out: memoryview) -> Any:
        link = read_link(piece.id, packed)
        root = piece.base.raw if piece.base is not None and link.head.base is not None else None
        decode_into(XXH3_128, Chain((link,), root), out)
        return out

    def kinds(self, packed: list[Packed]) -> dict[str, int]:
        return dict(Counter(read_frame(frame)[0].codec.name.lower().replace("_", " ") for frame in packed))


class Fast(Casckpt):
    name, mode = "casckpt fast", "fast"


class Auto(Casckpt):
    name, mode, over_base = "casckpt auto", "auto", True


class Small(Casckpt):
    name, mode, over_base = "casckpt small", "small", True


class Zstd(Coder):
    """zstd with one of its levels."""

    level: int

    def encode(self, piece: Piece, ready: Any) -> Packed:
        import zstandard

        if not hasattr(self._local, "packer"):
            self._local.packer = zstandard.ZstdCompressor(level=self.level)
        return self._local.packer.compress(piece.raw)

    def decode(self, piece: Piece, packed: Packed, out: memoryview) -> Any:
        import zstandard

        if not hasattr(self._local, "unpacker"):
            self._local.unpacker = zstandard.ZstdDecompressor()
        return self._local.unpacker.decompress(packed)


class Zstd1(Zstd):
    name, level = "zstd -1", 1


class Zstd3(Zstd):
    name, level = "zstd -3", 3


class Blosc(Coder):
    """blosc2 with zstd at level 1, which is smaller and faster here than its default, 5."""

    modules = ("blosc2",)
    own_threads = True
    filter: str

    def encode(self, piece: Piece, ready: Any) -> Packed:
        import blosc2

        how = blosc2.CParams(
            codec=blosc2.Codec.ZSTD,
            clevel=1,
            typesize=piece.words.size,
            filters=[blosc2.Filter[self.filter]],
            nthreads=self.threads,
        )
        return blosc2.compress2(piece.raw, cparams=how)

    def decode(self, piece: Piece, packed: Packed, out: memoryview) -> Any:
        import blosc2

        return blosc2.decompress2(packed, dparams=blosc2.DParams(nthreads=self.threads))


class BloscShuffle(Blosc):
    name, filter = "blosc2 shuffle", "SHUFFLE"


class BloscBitshuffle(Blosc):
    name, filter = "blosc2 bitshuffle", "BITSHUFFLE"


class ZipNN(Coder):
    """ZipNN on bytes of the dtype. It rearranges its input in place, so it gets a copy each time."""

    name = "ZipNN"
    modules = ("zipnn",)
    own_threads = True

    def ready(self, piece: Piece) -> Any:
        return bytearray(piece.raw)

    def encode(self, piece: Piece, ready: Any) -> Packed:
        return self._coder(piece).compress(ready)

    def decode(self, piece: Piece, packed: Packed, out: memoryview) -> Any:
        return self._coder(piece).decompress(packed)

    def _coder(self, piece: Piece) -> Any:
        import zipnn

        held = self._local.__dict__.setdefault("coders", {})
        dtype = {2: "bfloat16", 4: "float32"}[piece.words.size]
        if dtype not in held:
            held[dtype] = zipnn.ZipNN(bytearray_dtype=dtype, threads=self.threads)
        return held[dtype]


class ZipNNXor(ZipNN):
    """ZipNN on the exclusive or with what stood there before, which is taken and undone in the time."""

    name = "ZipNN on XOR"
    over_base, alone = True, False

    def ready(self, piece: Piece) -> Any:
        return np.empty(len(piece.raw), np.uint8)

    def encode(self, piece: Piece, ready: Any) -> Packed:
        self._xor(piece.raw, piece, ready)
        return super().encode(piece, ready.data)

    def decode(self, piece: Piece, packed: Packed, out: memoryview) -> Any:
        self._xor(super().decode(piece, packed, out), piece, np.frombuffer(out, np.uint8))
        return out

    @staticmethod
    def _xor(raw: Any, piece: Piece, out: Any) -> None:
        assert piece.base is not None
        np.bitwise_xor(np.frombuffer(raw, np.uint64), np.frombuffer(piece.base.raw, np.uint64), out=out.view(np.uint64))


class OpenZL(Coder):
    """OpenZL with its graph for floating point: exponents apart from signs and fractions, these as planes, all of them
    entropy-coded. (What it chooses by itself, `Compress`, is a tenth as fast and larger here.)"""

    name = "OpenZL"
    modules = ("openzl",)

    def encode(self, piece: Piece, ready: Any) -> Packed:
        import openzl.ext as zl

        context = zl.CCtx()
        context.ref_compressor(self._graph(piece.words.size))
        return context.compress([zl.Input(zl.Type.Numeric, np.frombuffer(piece.raw, f"<u{piece.words.size}"))])

    def decode(self, piece: Piece, packed: Packed, out: memoryview) -> Any:
        import openzl.ext as zl

        return zl.DCtx().decompress(packed)[0].content.as_nparray()

    def _graph(self, width: int) -> Any:
        import openzl.ext as zl

        held = self._local.__dict__.setdefault("graphs", {})
        if width not in held:
            made = zl.Compressor()
            entropy = zl.graphs.Entropy()(made)
            apart = zl.nodes.Float32Deconstruct() if width == 4 else zl.nodes.BFloat16Deconstruct()
            rest = zl.nodes.TransposeSplit()(made, entropy) if width == 4 else entropy
            made.select_starting_graph(apart(made, rest, entropy))
            made.set_parameter(zl.CParam.FormatVersion, zl.MAX_FORMAT_VERSION)
            held[width] = made
        return held[width]


class Pcodec(Coder):
    """pcodec at its default level. It has no bfloat16; those are coded as integers."""

    name = "pcodec"
    modules = ("pcodec",)

    def encode(self, piece: Piece, ready: Any) -> Packed:
        from pcodec import ChunkConfig, standalone

        numbers = np.frombuffer(piece.raw, self._dtype(piece))
        return standalone.simple_compress(numbers, ChunkConfig())

    def decode(self, piece: Piece, packed: Packed, out: memoryview) -> Any:
        from pcodec import standalone

        standalone.simple_decompress_into(packed, np.frombuffer(out, self._dtype(piece)))
        return out

    @staticmethod
    def _dtype(piece: Piece) -> str:
        return {2: "<u2", 4: "<f4"}[piece.words.size]


CODERS: tuple[type[Coder], ...] = (
    Fast,
    Auto,
    Small,
    Zstd1,
    Zstd3,
    BloscShuffle,
    BloscBitshuffle,
    ZipNN,
    ZipNNXor,
    OpenZL,
    Pcodec,
)


def for_stream(has_base: bool) -> list[type[Coder]]:
    """Those that have something to say to a stream: over a base only who makes use of it, else who does without."""
    there = [coder for coder in CODERS if coder.missing() is None]
    return [coder for coder in there if (coder.over_base if has_base else coder.alone)]
