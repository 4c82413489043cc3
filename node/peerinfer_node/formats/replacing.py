"""Files and folders that appear whole under their name, or not at all.

They are written under a temporary name beside the final one, forced to the disk, and renamed. Whatever goes wrong, the
temporary name is removed; only a kill or a power cut can leave one behind (".NAME.….part").
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from typing import BinaryIO

from peerinfer.errors import StateUnusable
from peerinfer_node.formats.source import size_text


@contextlib.contextmanager
def new_file(path: str, *, needed_bytes: int) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` if the block ends well. Raises `StateUnusable` for disk errors."""
    target, part = _names(path)
    try:
        try:
            with open(part, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, target)
            sync_folder(os.path.dirname(target))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise
    except OSError as error:
        raise unwritable(path, error, needed_bytes) from None


@contextlib.contextmanager
def new_folder(path: str, *, needed_bytes: int) -> Iterator[str]:
    """A folder to fill that becomes `path` if the block ends well; `path` may be an empty folder until then.

    The caller forces the files in it to the disk. Raises `StateUnusable` for disk errors.
    """
    target, part = _names(path)
    try:
        try:
            os.mkdir(part)
            yield part
            sync_folder(part)
            os.replace(part, target)
            sync_folder(os.path.dirname(target))
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    except OSError as error:
        raise unwritable(path, error, needed_bytes) from None


def sync_folder(folder: str) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def probe(path: str) -> None:
    """Raises `StateUnusable` if nothing can be created beside `path`."""
    folder = os.path.dirname(os.path.realpath(path))
    _, part = _names(path)
    try:
        if not stat.S_ISDIR(os.stat(folder).st_mode):
            raise NotADirectoryError
        with open(part, "xb"):
            pass
        os.unlink(part)
    except (FileNotFoundError, NotADirectoryError):
        raise StateUnusable(f"{path} cannot be written: there is no folder {folder}; create it first") from None
    except OSError as error:
        raise unwritable(path, error, 0) from None


def unwritable(path: str, error: OSError, needed_bytes: int) -> StateUnusable:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        try:
            free = shutil.disk_usage(os.path.dirname(os.path.realpath(path))).free
            room = f"and {size_text(free)} is free"
        except OSError:
            room = "and less is free"
        return StateUnusable(
            f"the disk is full: {path} needs about {size_text(needed_bytes)} {room}; nothing was left there, make room or "
            "write elsewhere, and run again with --resume"
        )
    if isinstance(error, PermissionError):
        return StateUnusable(
            f"{path} may not be written by this user; write elsewhere or change the folder's permissions"
        )
    return StateUnusable(f"{path} cannot be written: {error.strerror or error}; check the disk or write elsewhere")


def _names(path: str) -> tuple[str, str]:
    target = os.path.realpath(path)
    folder, name = os.path.split(target)
    return target, os.path.join(folder, f".{name[:100]}.{secrets.token_hex(4)}.part")
