"""Memory that the daemon and one worker process both see, for bodies that are too large to be pushed through a socket.

Through a socket ten megabytes are copied twice, page by page, by the kernel; here whoever sends copies them once, as fast
as memory goes. One half carries what the daemon asks, the other what the process answers. There is one exchange at a
time, so each half holds one body at most.

The daemon makes it and the process inherits it, and the daemon trusts the process with nothing:

- The file behind it is sealed. Nobody can make it shorter, which would kill the daemon with SIGBUS at its next look, or
  longer, which would be memory beyond the limits of the process, and nobody can add a seal. Both sides check that.
- The process may write into it at any time. So what it answered is copied out first, and only the copy is looked at.
- Pages that the process punches out come back as zeros: wrong numbers, which it could have written as well.

Its pages go back to the system when the process has had nothing to do for a while: only it has the time to look at the
clock, and only the daemon knows whether an exchange has begun. So whoever uses the memory holds a lock on the file: the
daemon from before it asks until the answer is copied, the process while it gives back. A process that never lets go of
the lock is one that does not answer.

Where the system has no such memory (it is Linux's), bodies go through the socket.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys

from peerinfer.limits import MIB

if sys.platform != "win32":
    import fcntl

HALF_BYTES = 64 * MIB
"""Of one body. Larger ones go through the socket: what takes so long to compute does not feel the copies."""

_NO_EXECUTION = 0x8
"""MFD_NOEXEC_SEAL, since Linux 6.3; older kernels refuse it."""


class Arena:
    """Both halves, as either side sees them."""

    def __init__(self, fd: int) -> None:
        """Takes over `fd`. Raises OSError if it is not what `made` makes, and closes it then."""
        with contextlib.ExitStack() as unless_right:
            unless_right.callback(os.close, fd)
            if os.fstat(fd).st_size != 2 * HALF_BYTES or not _is_sealed(fd):
                raise OSError("the memory shared with the daemon is not sealed as it must be")
            self._map = mmap.mmap(fd, 2 * HALF_BYTES)
            unless_right.pop_all()
        self.fd = fd
        whole = memoryview(self._map)
        self.asked, self.answered = whole[:HALF_BYTES], whole[HALF_BYTES:]

    def take(self) -> bool:
        """Locks it for this side; False while the other side has it."""
        try:
            fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def leave(self) -> None:
        fcntl.lockf(self.fd, fcntl.LOCK_UN)

    def give_back(self) -> None:
        """Returns all its pages to the system, unless the other side has it."""
        if self.take():
            with contextlib.suppress(OSError):
                self._map.madvise(mmap.MADV_REMOVE)
            self.leave()

    def close(self) -> None:
        """Closes the file. The memory goes with the last view of it, here and in the process."""
        os.close(self.fd)


def made() -> Arena | None:
    """A new one, or None where the system has no such memory or no more of it."""
    if sys.platform != "linux":
        return None
    try:
        return Arena(_sealed_file())
    except OSError:
        return None


def _sealed_file() -> int:
    try:
        fd = os.memfd_create("peerinfer-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | _NO_EXECUTION)
    except OSError:
        fd = os.memfd_create("peerinfer-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with contextlib.ExitStack() as unless_right:
        unless_right.callback(os.close, fd)
        os.ftruncate(fd, 2 * HALF_BYTES)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        unless_right.pop_all()
    return fd


def _is_sealed(fd: int) -> bool:
    wanted = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    return bool(fcntl.fcntl(fd, fcntl.F_GET_SEALS) & wanted == wanted)
