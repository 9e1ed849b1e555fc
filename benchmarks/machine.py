"""Where figures were made: hardware, kernel, file system, versions. Never a host's name, nor a path."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "numpy", "lmdb", "xxhash", "zstandard", "safetensors", "icechunk", "zarr", "tensorstore")
COMMANDS = {"restic": ["restic", "version"], "borg": ["borg", "--version"]}
HARDWARE = ("cpu", "cores", "memory", "kernel", "huge pages", "file system")
NOT_INSTALLED = "not installed"


def describe(
    folder: Path, packages: Iterable[str] = PACKAGES, commands: Mapping[str, list[str]] = COMMANDS
) -> dict[str, str]:
    """The machine, the disk that a folder is on, and the version of each peer."""
    return {
        "cpu": _cpu(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": f"Linux {re.match(r'[0-9.]+', platform.release())[0]}",  # type: ignore[index]  # every release begins so
        "huge pages": _huge_pages(),
        "file system": _filesystem(folder),
        "python": platform.python_version(),
    } | _versions(packages, commands)


def _versions(packages: Iterable[str], commands: Mapping[str, list[str]]) -> dict[str, str]:
    """The version of each peer, or that it is not installed."""
    found = {name: _package(name) for name in packages}
    for name, command in commands.items():
        found[name] = NOT_INSTALLED
        if shutil.which(name) is not None:
            said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
            found[name] = next(iter(re.findall(r"\d+(?:\.\d+)+", said)), "unknown")
    return found


def _package(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return NOT_INSTALLED


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _huge_pages() -> str:
    path = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    found = re.search(r"\[(\w+)\]", path.read_text()) if path.exists() else None
    return found[1] if found else "unknown"


def _filesystem(folder: Path) -> str:
    device = folder.stat().st_dev
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        major, minor = (int(number) for number in fields[2].split(":"))
        if os.makedev(major, minor) == device:
            return fields[fields.index("-") + 1]
    return "unknown"
