"""Single checkpoints in the formats of others: safetensors, torch's own files, npz, folders for `from_pretrained`.

Nothing here unpickles anything but by torch's `weights_only`, and no file is ever written but as a whole.
"""

from casckpt.tensors.formats.read import read_state
from casckpt.tensors.formats.source import Imported, source_record

__all__ = ["Imported", "read_state", "source_record"]
