"""Every bound on what is read, and every size that shapes what is written, in one place.

What comes out of a store or from a caller is checked against these before memory is taken for it.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1 << 10
MIB: Final = 1 << 20

# -- chunks ------------------------------------------------------------------------------------------------------------
DEFAULT_CHUNK_SIZE: Final = MIB
MIN_CHUNK_SIZE: Final = 256
MAX_CHUNK_SIZE: Final = 64 * MIB
# How chunks may be compressed, as a store's setting names it.
CODECS: Final = ("none", "fast", "auto", "small")
# Deltas that a chunk lies over at most, by how it is compressed: each is decoded when it is loaded. Words of two bytes
# (float16, bfloat16) gain most by deltas.
DEPTHS: Final = {"none": 0, "fast": 0, "auto": 2, "small": 8}
SHORT_DEPTHS: Final = DEPTHS | {"auto": 4}
# The same as far as a reader goes. Writers stay far below.
MAX_CHAIN: Final = 64

# A storage of at most this many bytes (or of one chunk, if that is less) stands in its tensor record itself: an object
# of its own would take a page of the database.
INLINE_STORAGE: Final = 4 * KIB

# -- trees -------------------------------------------------------------------------------------------------------------
# A container whose encoding is longer than this becomes a tree object of its own, so that it can be shared.
SPILL_TREE: Final = 2 * KIB
# A container whose encoding is longer than this is cut into pages of about this size: a change rewrites one page.
TREE_PAGE: Final = 32 * KIB
# Levels of nesting in a state; Python's own recursion limit (1000) must never be met first.
MAX_DEPTH: Final = 100
# One frame's contents, whatever it is.
MAX_OBJECT_BYTES: Final = 1 << 31
# A storage node: 16 Mi chunk ids of 16 bytes. A tree object: pages are far shorter; a single key may be as long. Each
# takes many times that memory once it is read, and zstd makes either out of a few kilobytes.
MAX_NODE: Final = 256 * MIB
MAX_TREE: Final = 16 * MIB
MAX_DIMENSIONS: Final = 64
# A size, stride or offset.
MAX_EXTENT: Final = 1 << 62
# Tree objects of one state: at some 32 KiB each, the trees of a state of tens of millions of tensors.
MAX_STATE_TREES: Final = 1 << 18
# Bytes of tree objects that stand in one state more than once: a few that refer to each other could stand for more than
# there are atoms. Each counts as SPILL_TREE bytes at least. What they become in memory is some forty times as long at
# worst. What people save stays far below: a dozen equal lists of a million integers come to as much.
MAX_REPEATED: Final = 64 * MIB

# -- commits and refs --------------------------------------------------------------------------------------------------
MAX_REF_NAME: Final = 200
MAX_MESSAGE: Final = 64 * KIB
MAX_COMMIT_META: Final = 256 * KIB
MAX_METRICS: Final = 4096
MAX_METRIC_NAMES: Final = 256 * KIB
# A commit: metadata, message, names and values of metrics, and a MiB for all the rest.
MAX_COMMIT: Final = MAX_COMMIT_META + MAX_MESSAGE + MAX_METRIC_NAMES + MIB
MIN_ID_PREFIX: Final = 4

# -- checking ----------------------------------------------------------------------------------------------------------
# Findings of one kind that a check keeps, of which it says what each hurts; the others are counted.
MAX_FINDINGS: Final = 1000
# Commits and paths that one finding names.
MAX_HURT: Final = 100
# Bytes of chunks that a check reads in one read transaction, and chunks that it looks up: these end soon, so that what
# others free meanwhile can be used again.
CHECK_BATCH: Final = 256 * MIB
CHECK_KEYS: Final = 1 << 16

# -- writing -----------------------------------------------------------------------------------------------------------
# Bytes of frames that gc and compact read or write in one transaction.
WRITE_BATCH: Final = 64 * MIB
# Bytes of frames that a save writes in one transaction. From 16 to 128 MiB it makes no difference to the speed; LMDB
# holds them in memory once more until they are written.
SAVE_BATCH: Final = 32 * MIB
# Frames of no more bytes than these are written by the transaction that publishes their commit: one sync less.
PUBLISHED_WITH: Final = 4 * MIB
# Bytes of the staging pool that a commit which the caller waits for makes do with.
SAVE_MEMORY: Final = 64 * MIB
# Seconds after the last commit when the memory of the staging pool is given up.
POOL_IDLE: Final = 60.0
# The longest that gc holds the writer lock in one transaction, and its rest between two, in seconds. Without the rest a
# waiting writer starved for 5 s: the lock is not fair.
GC_LOCK_HELD: Final = 0.03
GC_REST: Final = 0.002
# A Checkpointer leaves a file with fewer bytes free than these as it is: the next commits use them, and rewriting a
# small file again and again gives next to nothing back.
COMPACT_LEAST: Final = 64 * MIB

# -- files of other formats --------------------------------------------------------------------------------------------
# The header of a safetensors file; its own library reads no longer one.
MAX_SAFETENSORS_HEADER: Final = 100_000_000
# A storage of which tensors show less than one byte in so many is not exported, nor imported.
MAX_EMPTY_SHARE: Final = 64
# Bytes that a compressed file may become, for each of its own.
MAX_UNPACKED: Final = 200
# One file that is kept beside weights (a config, a tokenizer), and all of them together.
MAX_SIDE_FILE: Final = 256 * MIB
MAX_SIDE_FILES: Final = 1024 * MIB
# An index of sharded weights.
MAX_INDEX: Final = 256 * MIB
# Bytes of weights in one file of a sharded export: what huggingface's tools take by default.
DEFAULT_SHARD_SIZE: Final = 5_000_000_000
