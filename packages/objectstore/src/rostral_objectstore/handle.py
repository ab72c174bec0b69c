"""The hold on an object, as users of the store see it, and the names they give to objects."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rostral_gcs.ids import ObjectID
from rostral_objectstore._native.handle import Handle

if TYPE_CHECKING:
    from typing_extensions import TypeIs

IDS_PER_CALL_MAX = 10_000


class ObjectHandle(Handle):
    """A hold on one object: while any handle of it lives in any process, the object stays."""

    __slots__ = ()

    @property
    def id(self) -> ObjectID:
        """The object's id, by which another process finds it."""
        return ObjectID(self.binary())


IdLike = ObjectID | str
"""An object's id, or its name, which stands for `ObjectID.from_name(name)`."""

What = IdLike | ObjectHandle | Sequence[IdLike | ObjectHandle]


def is_many(what: What) -> TypeIs[Sequence[IdLike | ObjectHandle]]:
    """Whether several objects are meant; a name is one, though it is a sequence too."""
    return not isinstance(what, ObjectID | str | ObjectHandle) and isinstance(what, Sequence)


def id_bytes(id: IdLike) -> bytes:
    """The 20 bytes of an id. Raises TypeError, ValueError."""
    if type(id) is ObjectID:
        return id.binary()
    if isinstance(id, str):
        return ObjectID.from_name(id).binary()
    raise TypeError(f"an object is named by an ObjectID or a str, not {type(id).__name__}")


def new_id_bytes(id: IdLike | None) -> bytes:
    """The 20 bytes of an object that is about to be made: random, unless somebody chose."""
    return os.urandom(ObjectID.SIZE) if id is None else id_bytes(id)


def check_count(what: Sequence[object]) -> None:
    """Raises ValueError when a call names too many objects at once."""
    if len(what) > IDS_PER_CALL_MAX:
        raise ValueError(
            f"{len(what)} objects in one call: {IDS_PER_CALL_MAX} are the most; ask in parts"
        )
