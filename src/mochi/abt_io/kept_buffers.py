"""Memory that `liburing` keeps for ever, given back; all of our ctypes for io_uring is here.

An ``Iovec`` of this library acquires each view that it is made of, and never releases it: what was written once would
stay in memory. There is no way around an ``Iovec`` with the wheel. Its entries have no addresses that can be set,
``prep_write`` takes ``bytes`` alone and ``prep_read`` a ``bytearray``, which would copy all data once more. One
``Iovec`` for each buffer that is used again does not help: a request has other pieces of it each time. Rings by system
calls of our own would need a compiler, or memory barriers that Python does not have.

So the reference is released by CPython's own interface. Whether the library still keeps it is tried once, at import: a
version without the fault is left alone.
"""

import ctypes
from collections.abc import Sequence

import liburing


class _Buffer(ctypes.Structure):
    """``Py_buffer`` of CPython's C interface."""

    _fields_ = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_void_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]


_get = ctypes.pythonapi.PyObject_GetBuffer
_get.argtypes = (ctypes.py_object, ctypes.POINTER(_Buffer), ctypes.c_int)
_release = ctypes.pythonapi.PyBuffer_Release
_release.argtypes = (ctypes.POINTER(_Buffer),)
_release.restype = None


def _keeps_buffers() -> bool:
    """Tell whether this version of the library holds on to the views that an `Iovec` was made of."""
    view = memoryview(bytearray(1))
    liburing.Iovec([view])
    try:
        view.release()
    except BufferError:
        return True
    return False


_KEEPS_BUFFERS = _keeps_buffers()


def give_back(views: Sequence[memoryview]) -> None:
    """Release what an `Iovec` made of these views has acquired; once, when the kernel is done with them."""
    if not _KEEPS_BUFFERS:
        return
    for view in views:
        buffer = _Buffer()
        _get(view, ctypes.byref(buffer), 0)
        acquired_by_the_library = _Buffer.from_buffer_copy(buffer)
        _release(ctypes.byref(buffer))
        _release(ctypes.byref(acquired_by_the_library))
