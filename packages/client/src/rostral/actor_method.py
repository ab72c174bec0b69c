"""Calls of an actor's methods, on the caller's side: options, submission, and why one fails."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack, overload

from rostral._context import runtime
from rostral.actor_settings import group_number
from rostral.arguments import Arguments, encode
from rostral.call_word import Retry, call_word, group_of, retry_of
from rostral.checkpoint import refuse_generators
from rostral.exceptions import ActorDiedError, ActorNotFoundError, ClusterUnavailableError
from rostral.generator import ObjectRefGenerator
from rostral.object_ref import ObjectRef
from rostral.options import MethodKeywords, MethodOptions, changed
from rostral.returns import returns_of
from rostral.runtime import Runtime
from rostral_objectstore._native.pending import PendingCalls
from rostral_objectstore.errors import QueueClosedError
from rostral_objectstore.layout import RETRY_FOREVER, ObjectFlag
from rostral_objectstore.serialization import KIND_PICKLE


class ActorAddress:
    """Where an actor's calls go, and what says why they do not arrive."""

    __slots__ = (
        *("actor_id", "class_name", "creation", "groups", "is_checkpointed", "mailbox"),
        *("max_task_retries", "pending"),
    )

    def __init__(
        self,
        actor_id: bytes,
        mailbox: int,
        creation: ObjectRef[Any] | None,
        class_name: str,
        max_task_retries: int,
        groups: tuple[str, ...],
        pending: PendingCalls | None,
        *,
        is_checkpointed: bool,
    ) -> None:
        self.actor_id = actor_id
        self.mailbox = mailbox
        self.creation = creation
        self.class_name = class_name
        self.max_task_retries = max_task_retries
        self.groups = groups
        self.pending = pending
        self.is_checkpointed = is_checkpointed

    def death(self) -> Exception:
        """Why the actor's mailbox is closed."""
        try:
            death = runtime().ask("actor_info", {"actor_id": self.actor_id})["death"]
        except ClusterUnavailableError as error:
            return error
        except ActorNotFoundError:
            death = None
        if death:
            loaded = pickle.loads(death)
            if isinstance(loaded, Exception):
                return loaded
        return ActorDiedError(
            f"actor {self.class_name} ({self.actor_id.hex()}) is dead",
            hint="create it again, or give it max_restarts",
            actor_id=self.actor_id,
        )


class ActorMethod:
    """One method of one actor."""

    __slots__ = (
        *("_actor", "_allowed_ns", "_form", "_listed", "_name", "_number", "_options", "_retries"),
        "_word",
    )

    def __init__(
        self,
        actor: ActorAddress,
        name: str,
        number: int,
        options: MethodOptions,
        word: int | None = None,
    ) -> None:
        self._actor = actor
        self._name = name
        self._number = number
        self._options = options
        self._word = number if word is None else word
        # The exceptions worth another try, where a call listed them.
        self._listed: tuple[type[BaseException], ...] = ()
        if retry_of(self._word) is Retry.LISTED:
            assert isinstance(options.retry_exceptions, tuple)
            self._listed = options.retry_exceptions
        self._form = returns_of(options)
        self._allowed_ns = options.allowed_ns
        if actor.is_checkpointed:
            refuse_generators(f"{actor.class_name}.{name}", options)
        retries = options.max_task_retries
        if retries is None:
            retries = actor.max_task_retries
        self._retries = RETRY_FOREVER if retries < 0 else retries

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Always raises TypeError: the call must say that it is remote."""
        raise TypeError(
            f"actor method {self._name} cannot be called directly: use .{self._name}.remote(...)"
        )

    if TYPE_CHECKING:

        def options(
            self, *, num_returns: int | str = 1, **changes: Unpack[MethodKeywords]
        ) -> ActorMethod:
            """The same method with other options."""
            ...

    else:

        def options(self, **changes):
            """The same method with other options.

            Raises: UnsupportedOptionError, TypeError, ValueError.
            """
            options = changed(self._options, changes)
            group, retry = group_of(self._word), retry_of(self._word)
            if "concurrency_group" in changes:
                group = group_number(options.concurrency_group, self._actor.groups)
            if "retry_exceptions" in changes:
                retry = Retry.LISTED
                if isinstance(options.retry_exceptions, bool):
                    retry = Retry.ALWAYS if options.retry_exceptions else Retry.NEVER
            word = call_word(self._number, group, retry)
            return ActorMethod(self._actor, self._name, self._number, options, word)

    def _remote(
        self,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Any:
        """The form that Ray's users know: options and arguments in one call."""
        method: Any = self.options(**changes)
        return method.remote(*args, **(kwargs or {}))

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Submits a call, in order after this caller's earlier ones.

        Returns a reference, a list, None or a generator, as `num_returns` says. A call of a dead
        actor gives a reference whose `get` raises ActorDiedError.

        Raises:
            NotPicklableError: An argument cannot be sent.
            ObjectStoreFullError: No room for the call.
            PendingCallsLimitError: As many calls of this handle wait or run as the actor's
                `max_pending_calls` allows.
        """
        current = runtime()
        actor = self._actor
        count, flags, room = self._form
        arguments = encode(args, kwargs, current.put)
        if self._listed:
            # The last of what the call keeps, where the actor looks for it.
            nested = [*arguments.nested, current.put(self._listed)]
            arguments = Arguments(arguments.payload, arguments.dependencies, nested)
        try:
            refs = current.call_actor(
                actor.mailbox,
                self._word,
                arguments,
                actor.creation,
                return_count=count,
                retries=self._retries,
                pending=actor.pending,
                flags=flags,
                room=room,
                deadline_ns=current.deadline_after(self._allowed_ns) if self._allowed_ns else 0,
            )
            if room:
                return ObjectRefGenerator(refs.completion, refs)
        except QueueClosedError:
            refs = [put_error(current, actor.death()) for _ in range(count)]
            if room:
                return ObjectRefGenerator(refs[0], None)
        if count == 1:
            return refs[0]
        return refs or None


if TYPE_CHECKING:
    P = ParamSpec("P")
    G = TypeVar("G")

    class CheckedMethod(ActorMethod, Generic[P, G]):
        """What `mypy_plugin` takes a method for: a call, with these parameters, gives G.

        As of a remote function, a reference may stand for the value of any argument.
        """

        @overload  # type: ignore[override]
        def options(self, **changes: Unpack[MethodKeywords]) -> CheckedMethod[P, G]: ...
        @overload
        def options(
            self, *, num_returns: int | str, **changes: Unpack[MethodKeywords]
        ) -> CheckedMethod[P, Any]: ...
        def options(self, **changes: Any) -> Any:
            """The same method with other options."""

        @overload
        def remote(self, *args: P.args, **kwargs: P.kwargs) -> G: ...
        @overload
        def remote(self, a: ObjectRef[Any], /, *more: Any, **kwargs: Any) -> G: ...
        @overload
        def remote(self, a: Any, b: ObjectRef[Any], /, *more: Any, **kwargs: Any) -> G: ...
        @overload
        def remote(self, a: Any, b: Any, c: ObjectRef[Any], /, *more: Any, **kwargs: Any) -> G: ...
        def remote(self, *args: Any, **kwargs: Any) -> Any:
            """Submits a call."""


def put_error(current: Runtime, error: Exception) -> ObjectRef[Any]:
    """A reference whose `get` raises the error."""
    object_id = current.scope().context.next_put_id()
    inband = pickle.dumps(error)
    return current.table.put(ObjectRef, object_id, KIND_PICKLE, inband, [], [], ObjectFlag.ERROR)
