"""Actors: what `@remote` makes of a class, handles of living actors, and calls of their methods."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import inspect
import pickle
from collections.abc import Callable
from typing import Any, TypeVar, Unpack

from rostral._context import end_of_actor, runtime
from rostral.actor_settings import ActorSettings, group_number
from rostral.arguments import Arguments, encode
from rostral.call_word import Retry, call_word, group_of, retry_of
from rostral.exceptions import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorExit,
    ActorNotFoundError,
    ClusterUnavailableError,
    UnknownMethodOptionError,
    UnsupportedOptionError,
)
from rostral.object_ref import CollectedRefs, ObjectRef
from rostral.options import ActorKeywords, ActorOptions, MethodOptions, changed
from rostral.runtime import Runtime
from rostral.scheduling_strategies import Placement
from rostral.serialization import dumps
from rostral.signature import Signature
from rostral_objectstore.errors import QueueClosedError
from rostral_objectstore.layout import RETRY_FOREVER, ObjectFlag
from rostral_objectstore.serialization import KIND_PICKLE

F = TypeVar("F", bound=Callable[..., Any])

# Methods that every actor has, after its own: a readiness probe, a closure run with the instance, a
# graceful end.
BUILT_IN_METHODS = ("__ray_ready__", "__ray_call__", "__ray_terminate__")
MAILBOX_CAPACITY = 1 << 14


class ActorClassInheritanceError(TypeError):
    """An actor class was subclassed."""


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
        for name, _ in inspect.getmembers(cls, callable)
        if not (name.startswith("__") and name.endswith("__"))
        or (name == "__call__" and "__call__" in vars(cls))
    ]
    return (*own, *BUILT_IN_METHODS)


def method(**options: Any) -> Callable[[F], F]:
    """Decorates a method of an actor class with options: how it is called unless a call says else.

    Raises:
        UnknownMethodOptionError: No such option, or none at all (an AssertionError, as in Ray).
        TypeError: An option of the wrong type.
        ValueError: An option out of range.
    """
    known = [field.name for field in dataclasses.fields(MethodOptions)]
    for name in options:
        if name not in known:
            raise UnknownMethodOptionError.unknown(name, known)
    if not options:
        raise UnknownMethodOptionError(
            "@method was given no options", hint="options are " + ", ".join(known)
        )
    checked = changed(MethodOptions(), options)

    def decorate(function: F) -> F:
        function.__rostral_method__ = checked  # type: ignore[attr-defined]
        return function

    return decorate


class ActorClass:
    """A class whose instances live in processes of their own: `A.remote(...)` makes one."""

    def __init__(self, cls: type, options: ActorOptions) -> None:
        self._cls = cls
        self._options = options
        self._name = cls.__qualname__
        self._signature = Signature(cls.__init__, drop_first=True)  # type: ignore[misc]
        self._methods = method_names(cls)
        # Of which of this process's sessions what `_export` sets is; none yet.
        self._session = 0
        self.__doc__ = cls.__doc__
        self.__module__ = cls.__module__
        self.__name__ = cls.__name__

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

    def options(self, **changes: Unpack[ActorKeywords]) -> ActorClass:
        """The same class with other options.

        Raises: UnsupportedOptionError, TypeError, ValueError.
        """
        if "concurrency_groups" in changes:
            raise UnsupportedOptionError(
                "concurrency_groups cannot be changed by options()",
                hint="give them where the class is made remote: @remote(concurrency_groups=...)",
            )
        return ActorClass(self._cls, changed(self._options, changes))

    def remote(self, *args: Any, **kwargs: Any) -> ActorHandle:
        """Creates an actor; returns its handle at once, before its constructor has run.

        Raises:
            TypeError: Arguments that the constructor does not take.
            ActorAlreadyExistsError: The name is taken.
            NotPicklableError: The class or an argument cannot be sent.
            UnschedulableError: No node can ever give what the actor needs.
        """
        self._signature.check(self._name, args, kwargs)
        current = runtime()
        name = self._options.name
        if name is None or not self._options.get_if_exists:
            return self._create(current, args, kwargs)
        while True:
            # Of several that create it at once one succeeds, and the others find that one's.
            try:
                return get_actor(name, self._options.namespace)
            except ActorNotFoundError:
                pass
            try:
                return self._create(current, args, kwargs)
            except ActorAlreadyExistsError:
                pass

    def _create(
        self, current: Runtime, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> ActorHandle:
        self._settings = ActorSettings.of(self._cls, self._options, self._methods)
        if self._session != current.session:
            self._export(current)
        options = self._options
        actor_id = current.scope().context.next_child_id()
        placement = options.placement
        if placement is None and current.captures and options.scheduling_strategy is None:
            placement = current.captured_placement()
        creation = self._describe(current, actor_id, placement, args, kwargs)
        answer = current.ask(
            "create_actor",
            {
                "job_id": current.job_id,
                "actor_id": actor_id,
                "name": options.name,
                "namespace": options.namespace or current.namespace,
                "class_name": self._name,
                "environment": self._environment,
                "resources": options.demand,
                "placement_resources": options.demand or {"CPU": 1.0},
                "bundle": None if placement is None else placement.request(),
                "max_restarts": options.max_restarts,
                "max_task_retries": options.max_task_retries,
                "detached": options.lifetime == "detached",
                "creation": {
                    "loc": creation.loc,
                    "version": creation.version,
                    "id": creation.binary(),
                },
                "meta": self._meta,
                "mailbox_capacity": MAILBOX_CAPACITY,
            },
        )
        return ActorHandle(actor_id, int(answer["mailbox"]), creation, self._meta)

    def _describe(
        self,
        current: Runtime,
        actor_id: bytes,
        placement: Placement | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> ObjectRef[Any]:
        """Stores what the actor's process builds it from, now and at each restart."""
        arguments = encode(args, kwargs, current.put)
        with CollectedRefs():
            described = dumps(
                (
                    current.functions.key(self._code),
                    arguments.payload,
                    arguments.dependencies,
                    {"calls": dataclasses.asdict(self._settings), "placement": placement},
                )
            )
        keep = [self._code, *arguments.dependencies, *arguments.nested]
        object_id = hashlib.blake2b(actor_id, digest_size=20).digest()
        return current.table.put(ObjectRef, object_id, KIND_PICKLE, described, [], keep)

    def _export(self, current: Runtime) -> None:
        self._environment = current.environment_for(self._options.runtime_env)
        self._code: ObjectRef[Any] = current.functions.export(self._name, self._cls)
        self._meta = pickle.dumps(
            (
                self._name,
                self._methods,
                self._method_options(),
                self._options.max_task_retries,
                tuple(self._settings.groups),
            )
        )
        self._session = current.session

    def _method_options(self) -> dict[str, MethodOptions]:
        marked = (
            (name, getattr(getattr(self._cls, name, None), "__rostral_method__", None))
            for name in self._methods
        )
        return {name: options for name, options in marked if options is not None}

    def __reduce__(self) -> tuple[Any, ...]:
        return ActorClass, (self._cls, self._options)


class ActorHandle:
    """Calls a living actor's methods: `handle.method.remote(...)`.

    Picklable; equal and hashable by actor. The actor lives for as long as handles of it, or calls
    under way, exist anywhere; a detached one until it is killed.
    """

    def __init__(
        self, actor_id: bytes, mailbox: int, creation: ObjectRef[Any], meta: bytes
    ) -> None:
        self._actor_id = actor_id
        self._mailbox = mailbox
        self._creation = creation
        self._meta = meta
        (
            self._class_name,
            methods,
            self._method_options,
            self._max_task_retries,
            self._groups,
        ) = pickle.loads(meta)
        self._numbers: dict[str, int] = {name: number for number, name in enumerate(methods)}

    def __getattr__(self, name: str) -> ActorMethod:
        numbers: dict[str, int] = self.__dict__.get("_numbers", {})
        number = numbers.get(name)
        if number is None:
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
        return ActorAddress(
            self._actor_id,
            self._mailbox,
            self._creation,
            self._class_name,
            self._max_task_retries,
            self._groups,
        )

    def __repr__(self) -> str:
        return f"ActorHandle({self._class_name}, {self._actor_id.hex()})"

    def __hash__(self) -> int:
        return hash(self._actor_id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and other._actor_id == self._actor_id

    def __reduce__(self) -> tuple[Any, ...]:
        return ActorHandle, (self._actor_id, self._mailbox, self._creation, self._meta)


class ActorAddress:
    """Where an actor's calls go, and what says why they do not arrive."""

    __slots__ = ("actor_id", "class_name", "creation", "groups", "mailbox", "max_task_retries")

    def __init__(
        self,
        actor_id: bytes,
        mailbox: int,
        creation: ObjectRef[Any],
        class_name: str,
        max_task_retries: int,
        groups: tuple[str, ...],
    ) -> None:
        self.actor_id = actor_id
        self.mailbox = mailbox
        self.creation = creation
        self.class_name = class_name
        self.max_task_retries = max_task_retries
        self.groups = groups

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


_DEFAULT_METHOD = MethodOptions()


class ActorMethod:
    """One method of one actor."""

    __slots__ = ("_actor", "_listed", "_name", "_number", "_options", "_retries", "_word")

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
        retries = options.max_task_retries
        if retries is None:
            retries = actor.max_task_retries
        self._retries = RETRY_FOREVER if retries < 0 else retries

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Always raises TypeError: the call must say that it is remote."""
        raise TypeError(
            f"actor method {self._name} cannot be called directly: use .{self._name}.remote(...)"
        )

    def options(self, **changes: Any) -> ActorMethod:
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

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Submits a call, in order after this caller's earlier ones.

        Returns a reference, or a list, or None, as `num_returns` says. A call of a dead actor gives
        a reference whose `get` raises ActorDiedError.

        Raises: NotPicklableError, ObjectStoreFullError.
        """
        current = runtime()
        actor = self._actor
        count = self._options.num_returns
        arguments = encode(args, kwargs, current.put)
        if self._listed:
            nested = [current.put(self._listed), *arguments.nested]
            arguments = Arguments(arguments.payload, arguments.dependencies, nested)
        try:
            refs = current.call_actor(
                actor.mailbox,
                self._word,
                arguments,
                actor.creation,
                return_count=count,
                retries=self._retries,
            )
        except QueueClosedError:
            refs = [put_error(current, actor.death()) for _ in range(count)]
        if count == 1:
            return refs[0]
        return refs or None


def put_error(current: Runtime, error: Exception) -> ObjectRef[Any]:
    """A reference whose `get` raises the error."""
    object_id = current.scope().context.next_put_id()
    inband = pickle.dumps(error)
    return current.table.put(ObjectRef, object_id, KIND_PICKLE, inband, [], [], ObjectFlag.ERROR)


def get_actor(name: str, namespace: str | None = None) -> ActorHandle:
    """The handle of a named actor.

    Raises:
        ActorNotFoundError: No living actor has the name (a ValueError).
        TypeError: The name is no string.
        ValueError: It is empty.
    """
    if not isinstance(name, str):
        raise TypeError(f"an actor's name is a string, not {type(name).__name__}")
    if not name:
        raise ValueError("an actor's name is not empty")
    current = runtime()
    body = {"name": name, "namespace": namespace or current.namespace}
    answer = current.ask("get_actor", body)
    at = answer["creation"]
    creation = current.table.adopt(ObjectRef, at["loc"], at["version"], at["id"])
    return ActorHandle(answer["actor_id"], int(answer["mailbox"]), creation, answer["meta"])
