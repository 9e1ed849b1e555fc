"""Files of torch.save, zip or older, read: by weights_only, always."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import torch

from casckpt.errors import ImportFormatError, NoMemoryError
from casckpt.tensors.formats.torch_numpy import SAFE, reading_here, settled

# torch's table of what is allowed is one for the whole process.
_reading: Final = threading.Lock()
# Items of a state for each byte of its pickle: containers that are met several times count so often.
_ITEMS_A_BYTE: Final = 16


def read_torch(path: Path) -> Any:
    """The state in a file. Of a zip file the tensors lie in a map of it.

    Raises:
        ImportFormatError: it is damaged, or holds what weights_only does not read.
        NoMemoryError: it says that it holds more than there is memory for.
    """
    try:
        zipped = zipfile.is_zipfile(path)
        size = path.stat().st_size
        most = 1024 + _ITEMS_A_BYTE * (_check_zip(path) if zipped else size)
        if zipped and path.suffix != ".safetensors":
            return settled(load_weights_only(path, mapped=True), most, size)
        with path.open("rb") as file:  # by that suffix torch would take it for what it is not
            return settled(load_weights_only(file, mapped=False), most, size)
    except ImportFormatError:
        raise
    except MemoryError as error:
        raise NoMemoryError(
            f"{path}: torch found no memory for what it says it holds",
            remedy="look whether it is damaged; else read it on a machine with more memory",
        ) from error
    except Exception as error:  # a pickle can be wrong in every way
        raise ImportFormatError(
            f"torch cannot read it with weights_only: {_first_sentence(error)}",
            file=str(path),
            remedy="where you trust it, load it with torch and commit its state_dict()",
        ) from error


def load_weights_only(source: Path | BinaryIO, mapped: bool) -> Any:
    """What torch reads, on the CPU, with stand-ins where numpy's arrays are; `settled` puts these right."""
    with _reading, _stand_ins(), reading_here():
        return torch.load(source, map_location="cpu", weights_only=True, mmap=True if mapped else None)


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Have torch take our stand-ins, also where the program allowed what they stand for."""
    ours = {name for _, name in SAFE}
    aside = [item for item in torch.serialization.get_safe_globals() if _name(item) in ours]
    _change(aside, SAFE)
    try:
        yield
    finally:
        _change(SAFE, aside)


def _change(out: list[Any], into: list[Any]) -> None:
    kept = [item for item in torch.serialization.get_safe_globals() if item not in out]
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([*kept, *into])


def _name(item: Any) -> str:
    return item[1] if isinstance(item, tuple) else f"{item.__module__}.{item.__qualname__}"


def _first_sentence(error: Exception) -> str:
    text = str(error) or type(error).__name__
    found = text.partition("WeightsUnpickler error: ")[2] or text
    return found.strip().partition("\n")[0].partition(". ")[0]


def _check_zip(path: Path) -> int:
    """Refuse a zip file that says more than it has; returns the bytes of its pickles."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        found = archive.infolist()
    names = [item.filename for item in found]
    if len(set(names)) != len(names):
        raise ImportFormatError("a name stands in it twice", file=str(path))
    if any(item.compress_type != zipfile.ZIP_STORED for item in found):
        raise ImportFormatError("it is compressed, as torch never does", file=str(path), remedy="save it with torch")
    if sum(item.file_size for item in found) > size:
        raise ImportFormatError("it says that it holds more bytes than it has", file=str(path))
    return sum(item.file_size for item in found if item.filename.endswith(".pkl"))
