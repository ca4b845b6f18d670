"""Files that are in the page cache already, opened and read without waiting for a disk.

An event loop that opens and reads a file itself saves the detour through a thread, which takes several times as long.
But then a slow disk, or a dead file server, would block the event loop. Linux can be asked to do only what needs no
disk, and to fail with EAGAIN otherwise:

* ``openat2`` with ``RESOLVE_CACHED`` (Linux 5.12; openat2(2)) opens a file only when every name on its path is in the
  cache of names. It also finds names that are known not to exist. ``RESOLVE_NO_SYMLINKS`` follows no link on the way;
* ``preadv2`` with ``RWF_NOWAIT`` (4.14; readv(2)) reads only what is in the page cache. Python has it as `os.preadv`.

EAGAIN is Python's BlockingIOError. An older kernel, a file system that cannot tell, and a sandbox that forbids the call
give the same error: the work has to be done in a thread. Python has no ``openat2``, hence ctypes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys

_OPENAT2 = 437
"""The number of the system call, the same on every architecture."""
_RESOLVE_NO_SYMLINKS, _RESOLVE_CACHED = 0x04, 0x20
_AT_FDCWD = -100
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.E2BIG, errno.EPERM}
"""The errors of a kernel or a sandbox without the call or the flag."""


class _How(ctypes.Structure):
    """``struct open_how``."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _system_call() -> ctypes._NamedFuncPointer:
    # PyDLL keeps the interpreter's lock: a call that never waits would only lose it to busier threads.
    call = ctypes.PyDLL(None, use_errno=True).syscall
    call.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
    call.restype = ctypes.c_long
    return call


class PageCache:
    """A reader of files that are in the page cache, for one thread."""

    def __init__(self, flags: int) -> None:
        self._how = _How(flags, 0, _RESOLVE_CACHED | _RESOLVE_NO_SYMLINKS)
        self._call = _system_call()
        self._able = True
        self._scratch = bytearray(2**18)

    def open(self, path: str) -> int:
        """Return a descriptor of the file.

        :param path: without symbolic links.
        :raises BlockingIOError: when that needs the disk, or the system cannot tell.
        :raises OSError: as `os.open`.
        """
        sys.audit("open", path, None, self._how.flags)  # as os.open does
        if self._able:
            how = ctypes.addressof(self._how)
            descriptor = self._call(_OPENAT2, _AT_FDCWD, os.fsencode(path), how, ctypes.sizeof(self._how))
            if descriptor >= 0:
                return int(descriptor)
            number = ctypes.get_errno()
            if number not in _UNSUPPORTED:
                raise OSError(number, os.strerror(number), path)
            self._able = False
        raise BlockingIOError(errno.EAGAIN, "this system cannot tell what is in memory", path)

    def read(self, fd: int, size: int) -> memoryview:
        """Return the first `size` bytes of the file, valid until the next file is read.

        :raises BlockingIOError: when they are not all in memory, or the file is shorter.
        """
        if len(self._scratch) < size:
            self._scratch = bytearray(size)
        content = memoryview(self._scratch)[:size]
        try:
            read = os.preadv(fd, [content], 0, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            read = -1
        if read != size:
            raise BlockingIOError(errno.EAGAIN, "not all of the file is in memory")
        return content
