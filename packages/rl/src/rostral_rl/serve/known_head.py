"""A request's head that was understood once: what the same head asks for the next time.

A client sends the same head, to the byte, with every observation on its connection. So nobody need
parse it or look for its path more than once: what is left is the body, and whether its token is
still good. Only plain requests for actions are known in this way; all others take the application's
ordinary way.

Pure: no sockets.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from gymnasium.spaces import Box

from rostral_rl import spaces
from rostral_rl.arrays import SpaceArray
from rostral_rl.errors import RLError
from rostral_rl.serve import wire
from rostral_rl.serve.batcher import Answer, Asker
from rostral_rl.serve.engine import Engine

__all__ = ["KnownHead", "content_type", "known_head"]

Read: TypeAlias = Callable[[bytes], tuple[SpaceArray, bool]]
"""From a body to a batch (N, *shape) that fits the model's space, and whether it is one alone."""

# What makes a request more than an observation for the newest weights.
_UNUSUAL = frozenset(
    (
        *(b"expect", b"transfer-encoding", b"content-encoding", b"upgrade"),
        *(n.encode() for n in (wire.SESSION_HEADER, wire.RESET_HEADER, wire.DEADLINE_HEADER)),
    )
)


class KnownHead:
    """How the bodies that follow one head are read and answered.

    Args:
        engine: Answers.
        model: Which; it has no memory.
        read: Reads bodies.
        body_bytes: Of each of them.
        is_json: Whether bodies and answers are JSON.
        authorise: Raises RLError if its sender may not ask any more.
    """

    __slots__ = (
        "_authorise",
        "_engine",
        "_is_json",
        "_lines",
        "_lines_of",
        "_model",
        "_read",
        "body_bytes",
    )

    def __init__(
        self,
        engine: Engine,
        model: str,
        read: Read,
        *,
        body_bytes: int,
        is_json: bool,
        authorise: Callable[[], None],
    ) -> None:
        self._authorise = authorise
        #: Length of each body, in bytes.
        self.body_bytes = body_bytes
        self._engine = engine
        self._model = model
        self._read = read
        self._is_json = is_json
        # The last answer's headers, and what they follow from: the next one's are the same.
        self._lines_of: tuple[object, ...] = ()
        self._lines = b""

    def ask(self, body: bytes, asker: Asker) -> bool:
        """Hands an observation to the engine; whether it is one alone.

        Raises:
            RLError: What `Engine.act` raises at once, or the sender is refused; the asker hears no
                more.
        """
        self._authorise()
        batch, single = self._read(body)
        self._engine.hand_in(batch, asker, model=self._model)
        return single

    def respond(self, answer: Answer, *, single: bool) -> bytes:
        """The rest of a response: its headers, the empty line, its body."""
        actions = np.asarray(answer.actions[0] if single else answer.actions)
        if self._is_json:
            body = wire.encode_json({"action": actions.tolist(), "version": answer.version})
            return b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
                len(body),
                body,
            )
        lines_of = (actions.dtype, actions.shape, answer.version)
        if lines_of != self._lines_of:
            named = wire.raw_headers(actions)
            named[wire.VERSION_HEADER] = str(answer.version)
            named["content-length"] = str(actions.nbytes)
            lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
            self._lines, self._lines_of = f"{lines}\r\n".encode(), lines_of
        return self._lines + actions.tobytes()


def known_head(
    engine: Engine,
    model: str,
    headers: Mapping[bytes, bytes],
    *,
    body_bytes: int,
    authorise: Callable[[], None],
) -> KnownHead | None:
    """Understands a head whose path and sender were found right; None where it is not a plain one.

    Args:
        engine: Answers.
        model: The one that the path names.
        headers: By their lower-case names.
        body_bytes: Of each body that follows it.
        authorise: Raises RLError if its sender may not ask any more.
    """
    if not _UNUSUAL.isdisjoint(headers):
        return None
    made = functools.partial(KnownHead, engine, model, body_bytes=body_bytes, authorise=authorise)
    try:
        space = engine.plain_space(model)
        match content_type(headers):
            case wire.JSON:
                read = _json_reader(space)
                return made(read, is_json=True)
            case wire.RAW:
                read = _raw_reader(space, headers, body_bytes)
                return made(read, is_json=False)
    except RLError:
        pass  # The ordinary way says what is wrong.
    return None


def content_type(headers: Mapping[bytes, bytes]) -> str:
    """The type of a body, without its parameters."""
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")


def _json_reader(space: spaces.Space) -> Read:
    return lambda body: spaces.as_batch(space, wire.decode_json(body))


def _raw_reader(space: spaces.Space, headers: Mapping[bytes, bytes], body_bytes: int) -> Read:
    """Reads tensors of the dtype and shape that the headers name.

    Raises:
        ShapeError: No tensor of these fits the space, or the body.
    """
    dtype, shape = wire.tensor_form(wire.tensor_headers(headers))
    # Before anything of that shape is made: it may be as large as the client likes.
    example = wire.array_of(bytes(body_bytes), dtype.name, shape)
    if not isinstance(space, Box) or dtype != space.dtype:
        return lambda body: spaces.as_batch(space, wire.array_of(body, dtype.name, shape))
    batch_shape, single = spaces.as_batch(space, example)[0].shape, shape == space.shape

    def read(body: bytes) -> tuple[SpaceArray, bool]:
        batch: SpaceArray = np.frombuffer(body, dtype).reshape(batch_shape)
        if dtype.kind != "f" or np.isfinite(batch).all():
            return batch, single
        return spaces.as_batch(space, batch.reshape(shape))  # Says what is wrong.

    return read
