"""Small file systems that a fault can fill. They need Linux and root."""

import os
import subprocess
from pathlib import Path

SIZE = 2 * 2**30
"""Bytes. A run of an hour writes less to each disk."""


class Disk:
    """A tmpfs at `folder`, from `mount` to `unmount`. Its pages take memory only when they are written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def mount(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0755", "tmpfs", self._folder], check=True)

    def unmount(self) -> None:
        # Lazy, since a process that was just killed may still hold files.
        subprocess.run(["umount", "--lazy", self._folder], check=True)

    def fill(self) -> None:
        """Leave no space, or at most a megabyte if a server writes at the same time. This shrinks the file system to
        what it contains, which takes neither time nor memory. Raises OSError."""
        for spare in range(0, 2**20, 2**16):
            status = os.statvfs(self._folder)
            if self._resize((status.f_blocks - status.f_bfree) * status.f_frsize + spare):
                return
        raise OSError(f"{self._folder} could not be filled: its content grew faster than it was measured")

    def free(self) -> None:
        """Give the space back."""
        self._resize(SIZE)

    def _resize(self, size: int) -> bool:
        """False if the content does not fit, because a server wrote more in between."""
        command = ["mount", "-o", f"remount,size={size}", str(self._folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
