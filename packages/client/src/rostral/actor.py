"""Actors: what `@remote` makes of a class, and handles of living actors."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import pickle
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack, overload

from rostral._context import end_of_actor, runtime
from rostral.actor_method import ActorAddress, ActorMethod
from rostral.actor_settings import ActorSettings
from rostral.arguments import Arguments, encode
from rostral.checkpoint import check_hooks
from rostral.exceptions import (
    ActorAlreadyExistsError,
    ActorExit,
    ActorNotFoundError,
    ObjectNotFoundError,
    UnsupportedOptionError,
)
from rostral.node_choice import where_of
from rostral.object_ref import CollectedRefs, ObjectRef, is_collecting
from rostral.options import ActorKeywords, ActorOptions, MethodOptions, changed
from rostral.returns import resolved
from rostral.runtime import Runtime
from rostral.scheduling_strategies import Placement
from rostral.serialization import dumps
from rostral.signature import Signature
from rostral_objectstore._native.pending import PendingCalls
from rostral_objectstore.serialization import KIND_PICKLE

P = ParamSpec("P")
T = TypeVar("T")

# Methods that every actor has, after its own: a readiness probe, a closure run with the instance, a
# graceful end.
BUILT_IN_METHODS = ("__ray_ready__", "__ray_call__", "__ray_terminate__")
MAILBOX_CAPACITY = 1 << 14
_DEFAULT_METHOD = MethodOptions(num_returns=1)


class ActorClassInheritanceError(TypeError):
    """An actor class was subclassed."""


# The name that Ray's users know.
ActorClassInheritanceException = ActorClassInheritanceError


def exit_actor() -> None:
    """Ends the actor that runs this; its other calls fail. TypeError outside of an actor."""
    end = end_of_actor()
    if end is None:
        raise TypeError(
            "the exit_actor API is called on a non-actor worker: exit_actor() was called outside "
            "of an actor"
        )
    end()
    raise ActorExit


def method_names(cls: type) -> tuple[str, ...]:
    """The methods that can be called remotely, in the order that numbers them."""
    own = [
        name
        for name, member in inspect.getmembers(cls, callable)
        if not (name.startswith("__") and name.endswith("__"))
        or (name == "__call__" and "__call__" in vars(cls))
        # What `bind_own_name` gave the class.
        if not isinstance(getattr(member, "__self__", None), ActorClass)
    ]
    return (*own, *BUILT_IN_METHODS)


class ActorClass(Generic[P, T]):
    """A class whose instances live in processes of their own: `A.remote(...)` makes one."""

    def __init__(
        self,
        cls: type[T],
        options: ActorOptions,
        original: ActorClass[P, T] | None = None,
    ) -> None:
        self._cls = cls
        self._options = options
        self._name = cls.__qualname__
        # With other options it is the same code: exported once, however often `options` is called.
        self._root: ActorClass[P, T] = self if original is None else original._root
        self._exports: dict[int, ObjectRef[Any]] = {} if original is None else original._exports
        # Of which of this process's sessions `_environment` is; none yet.
        self._session = 0
        self.__doc__ = cls.__doc__
        self.__module__ = cls.__module__
        self.__name__ = cls.__name__

    # At first use: a class that names itself in its methods is unpickled after this object.

    @functools.cached_property
    def _signature(self) -> Signature:
        if self._root is not self:
            return self._root._signature
        return Signature(self._cls.__init__, drop_first=True)

    @functools.cached_property
    def _methods(self) -> tuple[str, ...]:
        return method_names(self._cls) if self._root is self else self._root._methods

    @functools.cached_property
    def _settings(self) -> ActorSettings:
        return ActorSettings.of(self._cls, self._options, self._methods)

    @functools.cached_property
    def _meta(self) -> bytes:
        return pickle.dumps(
            (
                self._name,
                self._methods,
                self._method_options(),
                self._options.max_task_retries,
                tuple(self._settings.groups),
                self._options.max_pending_calls,
                self._options.checkpoint_interval is not None,
                self._settings.in_order,
                self._options.max_restarts != 0,
            )
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Always raises TypeError: the call must say that it is remote."""
        raise TypeError(
            f"actor class {self._name} cannot be instantiated directly: "
            f"use {self._name}.remote(...)"
        )

    def __repr__(self) -> str:
        return f"ActorClass({self._name})"

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        raise ActorClassInheritanceError(
            f"{self._name} is an actor class and cannot be subclassed: decorate the subclass"
        )

    def options(self, **changes: Unpack[ActorKeywords]) -> ActorClass[P, T]:
        """The same class with other options.

        Raises: UnsupportedOptionError, TypeError, ValueError.
        """
        if "concurrency_groups" in changes:
            raise UnsupportedOptionError(
                "concurrency_groups cannot be changed by options()",
                hint="give them where the class is made remote: @remote(concurrency_groups=...)",
            )
        options = changed(self._options, changes)
        check_hooks(self._cls, options)
        return ActorClass(self._cls, options, self)

    if TYPE_CHECKING:
        # As of a remote function: a reference may stand for the value of any argument.
        @overload
        def remote(self, *args: P.args, **kwargs: P.kwargs) -> ActorHandle[T]: ...
        @overload
        def remote(self, a: ObjectRef[Any], /, *more: Any, **kwargs: Any) -> ActorHandle[T]: ...
        @overload
        def remote(
            self, a: Any, b: ObjectRef[Any], /, *more: Any, **kwargs: Any
        ) -> ActorHandle[T]: ...
        @overload
        def remote(
            self, a: Any, b: Any, c: ObjectRef[Any], /, *more: Any, **kwargs: Any
        ) -> ActorHandle[T]: ...
        def remote(self, *args: Any, **kwargs: Any) -> Any:
            """Creates an actor."""

    else:

        def remote(self, *args, **kwargs):
            """Creates an actor; returns its handle at once, before its constructor has run.

            With `get_if_exists` it may be a handle of a living actor of that name, which that actor
            lives for as for any other.

            Raises: TypeError for arguments that the constructor does not take;
            ActorAlreadyExistsError; NotPicklableError; UnschedulableError when no node can ever
            give what the actor needs; LimitReachedError when the node has as many actors as it may.
            """
            self._signature.check(self._name, args, kwargs)
            current = runtime()
            if not self._options.get_if_exists:
                return self._create(current, args, kwargs)
            return self._get_or_create(current, args, kwargs)

    def _remote(
        self,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        **changes: Any,
    ) -> ActorHandle[T]:
        """The form that Ray's users know: options and arguments in one call."""
        actors: Any = self.options(**changes)
        handle: ActorHandle[T] = actors.remote(*args, **(kwargs or {}))
        return handle

    def _get_or_create(
        self, current: Runtime, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> ActorHandle[T]:
        name = self._options.name
        assert name is not None
        while True:
            # Of several that create it at once one succeeds, and the others find that one's.
            with contextlib.suppress(ActorNotFoundError, ObjectNotFoundError):
                return find_actor(current, name, self._options.namespace, is_counted=True)
            with contextlib.suppress(ActorAlreadyExistsError):
                return self._create(current, args, kwargs)

    def _create(
        self, current: Runtime, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> ActorHandle[T]:
        code = self._exports.get(current.session)
        if code is None:
            self._exports.clear()
            code = self._exports[current.session] = current.functions.export(self._name, self._cls)
        if self._session != current.session:
            self._environment = current.environment_for(self._options.runtime_env)
            self._session = current.session
        arguments = encode(args, kwargs, current.put)
        placement = self._options.placement
        captures = current.captures and self._options.scheduling_strategy is None
        if placement is None and captures:
            placement = current.captured_placement()
        while True:
            actor_id = current.scope().context.next_child_id()
            creation = self._describe(current, actor_id, code, arguments, placement)
            request = self._request(current, actor_id, creation, placement)
            answer = current.ask("create_actor", request)
            if error := answer.get("error"):
                raise pickle.loads(error)
            mailbox = int(answer["mailbox"])
            if mailbox:
                home = bytes(answer.get("home", b""))
                return ActorHandle(actor_id, mailbox, creation, self._meta, home)
            # A task that runs again draws the ids of its first run. What it made then and lives
            # is what it gets; what has died since, it makes anew.

    def _request(
        self,
        current: Runtime,
        actor_id: bytes,
        creation: ObjectRef[Any],
        placement: Placement | None,
    ) -> dict[str, Any]:
        options = self._options
        return {
            "job_id": current.job_id,
            "actor_id": actor_id,
            "name": options.name,
            "namespace": options.namespace or current.namespace,
            "class_name": self._name,
            "environment": self._environment,
            "resources": options.demand,
            "placement_resources": options.placement_demand,
            "bundle": None if placement is None else placement.request(),
            "where": where_of(options),
            "max_restarts": options.max_restarts,
            "max_task_retries": options.max_task_retries,
            "detached": options.lifetime == "detached",
            "checkpointed": options.checkpoint_interval is not None,
            "in_order": self._settings.in_order,
            "creation": {
                "loc": creation.loc,
                "version": creation.version,
                "id": creation.binary(),
            },
            "meta": self._meta,
            "mailbox_capacity": MAILBOX_CAPACITY,
        }

    def _describe(
        self,
        current: Runtime,
        actor_id: bytes,
        code: ObjectRef[Any],
        arguments: Arguments,
        placement: Placement | None,
    ) -> ObjectRef[Any]:
        """Stores what the actor's process builds it from, now and at each restart."""
        with CollectedRefs():
            described = dumps(
                (
                    code,
                    arguments.payload,
                    arguments.dependencies,
                    {
                        "calls": dataclasses.asdict(self._settings),
                        "checkpoint_interval": self._options.checkpoint_interval,
                        "placement": placement,
                    },
                )
            )
        keep = [code, *arguments.dependencies, *arguments.nested]
        object_id = hashlib.blake2b(actor_id, digest_size=20).digest()
        creation = current.table.expect(ObjectRef, object_id)
        current.table.fill(creation, KIND_PICKLE, described, [], keep)
        return creation

    def _method_options(self) -> dict[str, MethodOptions]:
        chosen = {}
        for name in self._methods:
            code = getattr(self._cls, name, None)
            options = resolved(getattr(code, "__rostral_method__", MethodOptions()), code)
            if options != _DEFAULT_METHOD:
                chosen[name] = options
        return chosen

    def __reduce__(self) -> tuple[Any, ...]:
        return ActorClass, (self._cls, self._options)


class ActorHandle(Generic[T]):
    """Calls a living actor's methods: `handle.method.remote(...)`.

    Picklable; equal and hashable by actor. The actor lives for as long as counted handles of it, or
    calls under way, exist anywhere; a detached one until it is killed. A handle counts, in whatever
    process and inside whatever value it is, unless it comes from `get_actor` or from a pickle that
    the user made: then it does not keep its actor alive.
    """

    def __init__(
        self,
        actor_id: bytes,
        mailbox: int,
        creation: ObjectRef[Any] | None,
        meta: bytes,
        home: bytes = b"",
    ) -> None:
        self._actor_id = actor_id
        self._mailbox = mailbox
        # Who holds this object keeps the actor alive. None: this handle does not.
        self._creation = creation
        self._meta = meta
        (
            self._class_name,
            methods,
            self._method_options,
            self._max_task_retries,
            self._groups,
            self._max_pending_calls,
            self._is_checkpointed,
            self._in_order,
            self._may_return,
        ) = pickle.loads(meta)
        # The actor's node when this handle was made, where that was another one.
        self._home = home
        # Of all methods of this handle together, from its first call on.
        self._pending: PendingCalls | None = None
        self._numbers: dict[str, int] = {name: number for number, name in enumerate(methods)}

    def __getattr__(self, name: str) -> ActorMethod:
        numbers: dict[str, int] = self.__dict__.get("_numbers", {})
        number = numbers.get(name)
        if number is None:
            import difflib

            near = difflib.get_close_matches(name, list(numbers), 1)
            raise AttributeError(
                f"actor class {self.__dict__.get('_class_name')} has no method {name!r}"
                + (f", did you mean {near[0]!r}?" if near else "")
            )
        options = self._method_options.get(name) or _DEFAULT_METHOD
        # Found without this call from now on. It knows the actor, not this handle: the two would
        # otherwise keep each other, and the actor, until the next garbage collection.
        method = self.__dict__[name] = ActorMethod(self._address(), name, number, options)
        return method

    def _address(self) -> ActorAddress:
        if self._max_pending_calls > 0 and self._pending is None:
            self._pending = PendingCalls(runtime().store.segment, self._max_pending_calls)
        if not self._mailbox:
            self._mailbox = self._find_mailbox()
        return ActorAddress(
            self._actor_id,
            self._mailbox,
            # Calls under way keep their actor; one with checkpoints keeps calls that are done.
            None if self._is_checkpointed else self._creation,
            self._class_name,
            self._max_task_retries,
            self._groups,
            self._pending,
            is_checkpointed=self._is_checkpointed,
        )

    def _find_mailbox(self) -> int:
        """Of an actor that lives on another node: where this node takes calls of it."""
        current = runtime()
        body = {
            "actor_id": self._actor_id,
            "job_id": current.job_id,
            "home": self._home or current.node_id,
            "in_order": self._in_order,
            "may_return": self._may_return,
            "counted": self._creation is not None,
        }
        return int(current.ask("actor_mailbox", body)["mailbox"])

    def __repr__(self) -> str:
        return f"ActorHandle({self._class_name}, {self._actor_id.hex()})"

    def __hash__(self) -> int:
        return hash(self._actor_id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and other._actor_id == self._actor_id

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickle made by the user's own hand may live for ever, and must not make the actor.
        creation = self._creation if is_collecting() else None
        # A mailbox of this node means nothing at the actor's own.
        mailbox, home = (0, self._home) if self._home else (self._mailbox, runtime().node_id)
        return _rebuild_handle, (self._actor_id, mailbox, creation, self._meta, home)


def _rebuild_handle(
    actor_id: bytes, mailbox: int, creation: ObjectRef[Any] | None, meta: bytes, node_id: bytes
) -> ActorHandle[Any]:
    """A handle that was pickled on the node: elsewhere its mailbox would be something else."""
    if node_id == runtime().node_id:
        return ActorHandle(actor_id, mailbox, creation, meta)
    return ActorHandle(actor_id, 0, creation, meta, node_id)


def get_actor(name: str, namespace: str | None = None) -> ActorHandle[Any]:
    """A handle of a named actor, which does not keep the actor alive.

    Args:
        name: As `options(name=...)` gave it.
        namespace: Where the name was given. Default: this job's.

    Raises:
        ActorNotFoundError: No living actor has the name (a ValueError).
        TypeError: The name or namespace is no string.
        ValueError: It is empty.
    """
    check_text("an actor's name", name)
    if namespace is not None:
        check_text("a namespace", namespace)
    return find_actor(runtime(), name, namespace, is_counted=False)


def check_text(what: str, text: object) -> None:
    """Raises TypeError for what is no string, ValueError for an empty one."""
    if not isinstance(text, str):
        raise TypeError(f"{what} is a string, not {type(text).__name__}")
    if not text:
        raise ValueError(f"{what} is not empty")


def find_actor(
    current: Runtime, name: str, namespace: str | None, *, is_counted: bool
) -> ActorHandle[Any]:
    """The living actor of that name; a counted handle keeps it alive.

    Raises ActorNotFoundError, and ObjectNotFoundError when it ends at this moment.
    """
    asked = {"name": name, "namespace": namespace or current.namespace, "counted": is_counted}
    answer = current.ask("get_actor", asked)
    creation: ObjectRef[Any] | None = None
    if is_counted:
        at = answer["creation"]
        creation = current.table.adopt(ObjectRef, at["loc"], at["version"], at["id"])
    home = bytes(answer.get("home", b""))
    return ActorHandle(answer["actor_id"], int(answer["mailbox"]), creation, answer["meta"], home)


def list_named_actors(all_namespaces: bool = False) -> list[Any]:  # noqa: FBT001 - Ray's
    """The names of living actors: of this node in the order of their creation, then of others.

    Args:
        all_namespaces: Of every namespace, each as `{"name": ..., "namespace": ...}`; else the
            names of this job's namespace.

    Raises: ClusterUnavailableError.
    """
    current = runtime()
    named: list[dict[str, str]] = current.ask("named_actors", {})["actors"]
    if all_namespaces:
        return named
    return [actor["name"] for actor in named if actor["namespace"] == current.namespace]
