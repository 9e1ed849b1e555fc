"""All peers, by the order of the tables. Those that need a package or program that is not here say so."""

from __future__ import annotations

from benchmarks.peers.backup_tools import Borg, Restic
from benchmarks.peers.casckpt_store import CasckptStore
from benchmarks.peers.distributed import DistributedFiles
from benchmarks.peers.icechunk_repo import IcechunkRepo
from benchmarks.peers.peer import Peer
from benchmarks.peers.safetensors_files import SafetensorsFiles
from benchmarks.peers.tensorstore_ocdbt import TensorStoreOcdbt
from benchmarks.peers.torch_files import TorchFiles

PEERS: tuple[type[Peer], ...] = (
    CasckptStore,
    TorchFiles,
    SafetensorsFiles,
    DistributedFiles,
    IcechunkRepo,
    TensorStoreOcdbt,
    Restic,
    Borg,
)


def present() -> tuple[tuple[type[Peer], ...], dict[str, str]]:
    """The peers that can be measured here, and why the others cannot."""
    missing = {peer.name: reason for peer in PEERS if (reason := peer.missing()) is not None}
    return tuple(peer for peer in PEERS if peer.name not in missing), missing
