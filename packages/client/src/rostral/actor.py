"""Actors: what `@remote` makes of a class, handles of living actors, and calls of their methods."""

from __future__ import annotations

import hashlib
import inspect
import pickle
from typing import Any

from rostral._context import runtime
from rostral.arguments import encode
from rostral.exceptions import ActorDiedError, ActorNotFoundError, ClusterUnavailableError
from rostral.object_ref import ObjectRef
from rostral.options import ActorOptions, MethodOptions, changed
from rostral.remote_function import Signature
from rostral.serialization import dumps
from rostral_objectstore.errors import QueueClosedError
from rostral_objectstore.layout import RETRY_FOREVER
from rostral_objectstore.serialization import KIND_PICKLE

# Methods that every actor has, after its own: a readiness probe, a closure run with the instance, a
# graceful end.
BUILT_IN_METHODS = ("__ray_ready__", "__ray_call__", "__ray_terminate__")
MAILBOX_CAPACITY = 1 << 14


def method_names(cls: type) -> tuple[str, ...]:
    """The methods that can be called remotely, in the order that numbers them."""
    own = [
        name
        for name, _ in inspect.getmembers(cls, callable)
        if not (name.startswith("__") and name.endswith("__"))
        or (name == "__call__" and "__call__" in vars(cls))
    ]
    return (*own, *BUILT_IN_METHODS)


def method(**options: Any) -> Any:
    """Decorates a method of an actor class with options, such as `num_returns`."""
    checked = changed(MethodOptions(), options)

    def decorate(function: Any) -> Any:
        function.__rostral_method__ = checked
        return function

    return decorate


class ActorClass:
    """A class whose instances live in processes of their own: `A.remote(...)` makes one."""

    def __init__(self, cls: type, options: ActorOptions) -> None:
        self._cls = cls
        self._options = options
        self._name = cls.__qualname__
        self._signature = Signature(cls.__init__, drop_first=True)
        self._methods = method_names(cls)
        self._session = 0
        self.__doc__ = cls.__doc__
        self.__module__ = cls.__module__
        self.__name__ = cls.__name__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"actor class {self._name} cannot be instantiated directly: use {self._name}.remote(...)"
        )

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        raise ActorClassInheritanceError(
            f"{self._name} is an actor class and cannot be subclassed: decorate the subclass instead"
        )

    def options(self, **changes: Any) -> ActorClass:
        """The same class with other options.

        Raises UnsupportedOptionError, TypeError, ValueError.
        """
        return ActorClass(self._cls, changed(self._options, changes))

    def remote(self, *args: Any, **kwargs: Any) -> ActorHandle:
        """Creates an actor; returns its handle at once, before its constructor has run.

        Raises: TypeError for arguments the constructor does not take; ActorAlreadyExistsError;
        NotPicklableError; UnschedulableError.
        """
        self._signature.check(self._name, args, kwargs)
        current = runtime()
        options = self._options
        if options.get_if_exists:
            try:
                return get_actor(str(options.name), options.namespace)
            except ActorNotFoundError:
                pass
        if self._session != current.session:
            self._code: ObjectRef[Any] = current.functions.export(self._name, self._cls)
            self._meta = pickle.dumps((self._name, self._methods, self._method_options()))
            self._session = current.session
        context = current.scope().context
        actor_id = context.next_child_id()
        arguments = encode(args, kwargs, current.put)
        described = (
            current.functions.key(self._code),
            arguments.payload,
            list(arguments.dependencies),
            {"max_concurrency": options.max_concurrency},
        )
        keep = [self._code, *arguments.dependencies, *arguments.nested]
        creation = current.table.put(
            ObjectRef,
            hashlib.blake2b(actor_id, digest_size=20).digest(),
            KIND_PICKLE,
            _pickle_description(described),
            [],
            keep,
        )
        body = {
            "job_id": current.job_id,
            "actor_id": actor_id,
            "name": options.name,
            "namespace": options.namespace or current.namespace,
            "class_name": self._name,
            "resources": options.demand,
            "placement_resources": options.demand or {"CPU": 1.0},
            "max_restarts": options.max_restarts,
            "max_task_retries": options.max_task_retries,
            "detached": options.lifetime == "detached",
            "creation": {"loc": creation.loc, "version": creation.version, "id": creation.binary()},
            "meta": self._meta,
            "mailbox_capacity": MAILBOX_CAPACITY,
        }
        answer = current.ask("create_actor", body)
        return ActorHandle(
            actor_id, int(answer["mailbox"]), creation, self._meta, options.max_task_retries
        )

    def _method_options(self) -> dict[str, MethodOptions]:
        marked = (
            (name, getattr(getattr(self._cls, name, None), "__rostral_method__", None))
            for name in self._methods
        )
        return {name: options for name, options in marked if options is not None}

    def __reduce__(self) -> tuple[Any, ...]:
        return ActorClass, (self._cls, self._options)


def _pickle_description(described: tuple[Any, ...]) -> bytes:
    from rostral.object_ref import CollectedRefs

    with CollectedRefs():
        return dumps(described)


class ActorClassInheritanceError(TypeError):
    """An actor class was subclassed."""


class ActorHandle:
    """Calls a living actor's methods: `handle.method.remote(...)`. Picklable; equal and hashable by actor.

    The actor lives for as long as handles of it, or calls under way, exist anywhere; a detached one
    until it is killed.
    """

    def __init__(
        self,
        actor_id: bytes,
        mailbox: int,
        creation: ObjectRef[Any],
        meta: bytes,
        max_task_retries: int,
    ) -> None:
        self._actor_id = actor_id
        self._mailbox = mailbox
        self._creation = creation
        self._meta = meta
        self._max_task_retries = max_task_retries
        self._class_name, methods, self._method_options = pickle.loads(meta)
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
        bound = ActorMethod(self, name, number, self._method_options.get(name) or _DEFAULT_METHOD)
        self.__dict__[name] = bound
        return bound

    def __repr__(self) -> str:
        return f"ActorHandle({self._class_name}, {self._actor_id.hex()})"

    def __hash__(self) -> int:
        return hash(self._actor_id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and other._actor_id == self._actor_id

    def __reduce__(self) -> tuple[Any, ...]:
        return ActorHandle, (
            self._actor_id,
            self._mailbox,
            self._creation,
            self._meta,
            self._max_task_retries,
        )

    def _death(self) -> Exception:
        """Why the actor's mailbox is closed."""
        try:
            death = runtime().ask("actor_info", {"actor_id": self._actor_id})["death"]
        except ClusterUnavailableError as error:
            return error
        if death:
            loaded = pickle.loads(death)
            if isinstance(loaded, Exception):
                return loaded
        return ActorDiedError(
            f"actor {self._class_name} ({self._actor_id.hex()}) is dead",
            hint="create it again, or give it max_restarts",
        )


_DEFAULT_METHOD = MethodOptions()


class ActorMethod:
    """One method of one actor."""

    __slots__ = ("_handle", "_name", "_number", "_options", "_retries")

    def __init__(self, handle: ActorHandle, name: str, number: int, options: MethodOptions) -> None:
        self._handle = handle
        self._name = name
        self._number = number
        self._options = options
        retries = (
            options.max_task_retries
            if options.max_task_retries is not None
            else handle._max_task_retries
        )
        self._retries = RETRY_FOREVER if retries < 0 else retries

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"actor method {self._name} cannot be called directly: use .{self._name}.remote(...)"
        )

    def options(self, **changes: Any) -> ActorMethod:
        """The same method with other options."""
        return ActorMethod(self._handle, self._name, self._number, changed(self._options, changes))

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Submits a call, in order after this caller's earlier ones. Returns a reference, or a list, or None.

        A call of a dead actor gives a reference whose `get` raises ActorDiedError.
        """
        current = runtime()
        handle = self._handle
        count = self._options.num_returns
        try:
            refs = current.call_actor(
                handle._mailbox,
                self._number,
                encode(args, kwargs, current.put),
                handle._creation,
                return_count=count,
                retries=self._retries,
            )
        except QueueClosedError:
            refs = [put_error(handle._death()) for _ in range(count)]
        if count == 1:
            return refs[0]
        return refs or None


def put_error(error: Exception) -> ObjectRef[Any]:
    """A reference whose `get` raises the error."""
    from rostral_objectstore.layout import ObjectFlag

    current = runtime()
    return current.table.put(
        ObjectRef,
        current.scope().context.next_put_id(),
        KIND_PICKLE,
        pickle.dumps(error),
        [],
        [],
        ObjectFlag.ERROR,
    )


def get_actor(name: str, namespace: str | None = None) -> ActorHandle:
    """The handle of a named actor.

    Raises ActorNotFoundError (a ValueError), TypeError, ValueError.
    """
    if not isinstance(name, str):
        raise TypeError(f"an actor's name is a string, not {type(name).__name__}")
    if not name:
        raise ValueError("an actor's name is not empty")
    current = runtime()
    answer = current.ask("get_actor", {"name": name, "namespace": namespace or current.namespace})
    at = answer["creation"]
    creation = current.table.adopt(ObjectRef, at["loc"], at["version"], at["id"])
    return ActorHandle(answer["actor_id"], int(answer["mailbox"]), creation, answer["meta"], 0)
