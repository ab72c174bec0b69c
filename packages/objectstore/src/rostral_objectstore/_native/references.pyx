"""References inside pickles: `rebuild_ref` is what a pickled one calls when it is loaded.

A value may hold ten thousand of them, so each costs one native call and no Python code. Which table
takes hold of the objects is this process's affair, and so is what to do while it has none: the
client says both.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t

from rostral_objectstore._native.table cimport ObjectTable

from rostral_objectstore.errors import ObjectNotFoundError

cdef ObjectTable _table = None
cdef object _cls = None
cdef object _without_table = None


def set_reference_class(object cls, object without_table):
    """What `rebuild_ref` returns, a subclass of Handle, and what it calls where there is no table.

    `without_table` takes the 28 bytes of Handle.packed and returns a handle, or raises.
    """
    global _cls, _without_table
    _cls, _without_table = cls, without_table


def set_reference_table(ObjectTable table):
    """The table of this process from here on. None: it has none."""
    global _table
    _table = table


def rebuild_ref(bytes packed not None):
    """Takes hold of the object behind a reference that came from another process, wherever.

    One from another node names a record there; here the object is found by its id. Raises
    ObjectNotFoundError, ValueError for what Handle.packed has not made.
    """
    cdef uint32_t *p = <uint32_t *>PyBytes_AS_STRING(packed)
    if _table is None or PyBytes_GET_SIZE(packed) != 28:
        return _without_table(packed)
    try:
        return _table._adopt(_cls, p[5], p[6], <char *>p)
    except ObjectNotFoundError:
        found = _table.find(_cls, packed[:20])
        if found is None:
            raise
        return found
