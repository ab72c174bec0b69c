"""What two local schedulers say to each other; `docs/across-nodes.md` has the protocol.

This file owns the records and their form. A frame is a list of them. Decoding checks every type and
length; it never unpickles: payloads and values stay bytes until a worker of the job loads them.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Annotated, get_args

import msgspec
from msgspec import Meta, Struct

from rostral_scheduler.errors import RequestError

__all__ = [
    "NO_CODE",
    "SHAPELESS",
    "VERSION",
    "Back",
    "Begun",
    "ActorFacts",
    "ActorHeld",
    "ActorMade",
    "ActorMoved",
    "ActorUsed",
    "ActorsYielded",
    "AskActor",
    "Beat",
    "Call",
    "Cancel",
    "CreateActor",
    "Done",
    "Drain",
    "EndActor",
    "EndJob",
    "HoldActor",
    "Gone",
    "Input",
    "Job",
    "LookForActors",
    "Message",
    "Outstanding",
    "Push",
    "ReleaseActor",
    "Release",
    "Result",
    "Shape",
    "Stub",
    "Submit",
    "Taken",
    "Unfetched",
    "Unknown",
    "YieldActors",
    "decode",
    "encode_into",
    "parts_of",
]

NO_CODE = 0xFFFFFFFF
"""In the place of a function: an actor has its code already."""

NodeBytes = Annotated[bytes, Meta(min_length=16, max_length=16)]
TaskBytes = Annotated[bytes, Meta(min_length=16, max_length=16)]
JobBytes = Annotated[bytes, Meta(min_length=16, max_length=16)]
ObjectBytes = Annotated[bytes, Meta(min_length=20, max_length=20)]
ActorBytes = Annotated[bytes, Meta(min_length=16, max_length=16)]
Count = Annotated[int, Meta(ge=0, lt=1 << 32)]
Size = Annotated[int, Meta(ge=0, lt=1 << 48)]


class Shape(Struct, frozen=True, array_like=True):
    """What a task needs of its host: the ready queue that it goes to there."""

    resources: dict[str, float]
    environment: str
    priority: int
    depth: Count


SHAPELESS = Shape({}, "", 0, 0)
"""Of a call: the actor has what it needs."""


class Stub(Struct, frozen=True, array_like=True):
    """What stands for an actor in values: who holds its object holds the actor, on `node`."""

    actor_id: ActorBytes
    node: NodeBytes
    creation_id: ObjectBytes


class Input(Struct, frozen=True, array_like=True):
    """An object that a task needs, or keeps: its bytes, or where they are, or `known` to the host.

    With none of these it is not sealed: the task runs without, as another of its inputs failed.
    """

    id: ObjectBytes
    kind: Count = 0
    flags: Count = 0
    data: bytes | None = None
    size: Size = 0
    holders: tuple[str, ...] = ()
    known: bool = False
    buffers: list[bytes] = []
    """Of a value with references: `data` is its in-band part."""
    refs: list[ObjectBytes] = []
    stub: Stub | None = None

    @property
    def is_missing(self) -> bool:
        """Whether nothing is said of its value."""
        return not self.known and self.data is None and self.size == 0


class Result(Struct, frozen=True, array_like=True):
    """One sealed result: its bytes, or the host's store has them."""

    kind: Count
    flags: Count
    size: Size
    data: bytes | None
    buffers: list[bytes] = []
    refs: list[ObjectBytes] = []


class Job(Struct, frozen=True, array_like=True, tag=True):
    """A job whose tasks follow; `home` is its driver's node."""

    job_id: JobBytes
    home: NodeBytes
    namespace: str
    entrypoint: str
    sys_path: list[str]
    cwd: str
    logging_config: str


class Submit(Struct, frozen=True, array_like=True, tag=True):
    """One task to run.

    Attributes:
        function: Which of `inputs` is its code.
        deadline_left_ns: Until its deadline; 0: it has none.
        beside: What the inputs refer to, and what that does.
        watched: The origin wants to know when it begins.
    """

    task_id: TaskBytes
    parent: Annotated[bytes, Meta(min_length=8, max_length=8)]
    job_id: JobBytes
    shape: Shape
    function: Count
    payload: bytes
    inputs: list[Input]
    return_count: Annotated[int, Meta(ge=0, le=3000)]
    retries: Count
    flags: Count
    deadline_left_ns: int = 0
    beside: list[Input] = []
    watched: bool = False


class Call(Struct, frozen=True, array_like=True, tag=True):
    """One call of an actor that lives on the host, after all that came before on this stream.

    Attributes:
        word: Which method, and how; the client's affair.
        task: Without a shape or a function.
        resent: It was sent over a stream that broke since, and may have come.
    """

    actor_id: ActorBytes
    word: Annotated[int, Meta(ge=0)]
    task: Submit
    resent: bool = False


class CreateActor(Struct, frozen=True, array_like=True, tag=True):
    """Makes an actor on the host, which the origin holds from then on; `ActorMade` answers.

    Attributes:
        creation: What its process builds it from.
        beside: What that refers to, and what that does.
        where: Which nodes it may live on, as its creator asked for it.
    """

    actor_id: ActorBytes
    job_id: JobBytes
    class_name: str
    name: str
    namespace: str
    environment: str
    resources: dict[str, float]
    placement_resources: dict[str, float]
    max_restarts: Annotated[int, Meta(ge=-1)]
    is_detached: bool
    is_checkpointed: bool
    meta: bytes
    mailbox_capacity: Count
    creation: Input
    beside: list[Input] = []
    where: dict[str, object] | None = None


class ActorMade(Struct, frozen=True, array_like=True, tag=True):
    """The actor is there, or the pickled error says why it will not be."""

    actor_id: ActorBytes
    error: bytes = b""


class EndActor(Struct, frozen=True, array_like=True, tag=True):
    """Kills an actor; `reason`, where its user did not ask for that. Its process, or for good."""

    actor_id: ActorBytes
    no_restart: bool
    reason: str = ""


class AskActor(Struct, frozen=True, array_like=True, tag=True):
    """What is there to know of an actor of the host's? `ActorFacts` answers."""

    actor_id: ActorBytes


class ActorFacts(Struct, frozen=True, array_like=True, tag=True):
    """What a handle of the actor is made of; without `meta` it is dead."""

    actor_id: ActorBytes
    job_id: JobBytes
    creation_id: ObjectBytes
    meta: bytes = b""


class LookForActors(Struct, frozen=True, array_like=True, tag=True):
    """The host was given actors of a dead node, as their rows in the GCS say."""


class ActorMoved(Struct, frozen=True, array_like=True, tag=True):
    """An actor of a dead node lives on the origin now; `ActorUsed` answers.

    Attributes:
        job_id: Its job.
        home: The node of that job's driver.
    """

    actor_id: ActorBytes
    job_id: JobBytes
    home: NodeBytes


class ActorUsed(Struct, frozen=True, array_like=True, tag=True):
    """Whether anybody on the host refers to the actor, and whether its job is over."""

    actor_id: ActorBytes
    is_used: bool
    is_over: bool = False


class YieldActors(Struct, frozen=True, array_like=True, tag=True):
    """These were given to the origin: the host waits for nothing of theirs from elsewhere any more.

    `ActorsYielded` answers. So what a node says that has lost them is heard by nobody from then on.
    """

    actor_ids: list[ActorBytes]


class ActorsYielded(Struct, frozen=True, array_like=True, tag=True):
    """The answer, with the same."""

    actor_ids: list[ActorBytes]


class HoldActor(Struct, frozen=True, array_like=True, tag=True):
    """Somebody on the origin refers to an actor of the host's; `ActorHeld` answers."""

    actor_id: ActorBytes


class ReleaseActor(Struct, frozen=True, array_like=True, tag=True):
    """Nobody on the origin refers to the actor any more."""

    actor_id: ActorBytes


class ActorHeld(Struct, frozen=True, array_like=True, tag=True):
    """The actor lives for as long as the origin holds it; or it is dead, and `death` says why."""

    actor_id: ActorBytes
    death: bytes = b""


class Cancel(Struct, frozen=True, array_like=True, tag=True):
    """Ends a task as the local `cancel` does; an infinite `grace_s` is None."""

    task_id: TaskBytes
    flags: Count
    force: bool
    recursive: bool
    grace_s: float | None


class Taken(Struct, frozen=True, array_like=True, tag=True):
    """The results of these are sealed at their origin; of the `kept` the bytes are with the host.

    It keeps those until `Release`.
    """

    task_ids: list[TaskBytes]
    kept: list[ObjectBytes] = []


class Release(Struct, frozen=True, array_like=True, tag=True):
    """The host need not keep these for the origin any longer."""

    object_ids: list[ObjectBytes]


class EndJob(Struct, frozen=True, array_like=True, tag=True):
    """The job is over, everywhere."""

    job_id: JobBytes


class Outstanding(Struct, frozen=True, array_like=True, tag=True):
    """After a reconnect: what the origin believes to be with the host, tasks and kept results."""

    task_ids: list[TaskBytes]
    kept: list[ObjectBytes] = []


class Done(Struct, frozen=True, array_like=True, tag=True):
    """A task has ended; `store` is where to fetch what does not come along.

    `beside` is what the results refer to, and what that does.
    """

    task_id: TaskBytes
    results: list[Result]
    store: str = ""
    beside: list[Input] = []


def parts_of(message: Submit | Done) -> list[Input | Result]:
    """All values that it speaks of."""
    first: Sequence[Input | Result]
    first = message.inputs if isinstance(message, Submit) else message.results
    return [*first, *message.beside]


class Unknown(Struct, frozen=True, array_like=True, tag=True):
    """Of the outstanding: the host never heard of these, or has dropped them."""

    task_ids: list[TaskBytes]


class Begun(Struct, frozen=True, array_like=True, tag=True):
    """Of the watched: these run now."""

    task_ids: list[TaskBytes]


class Back(Struct, frozen=True, array_like=True, tag=True):
    """The host has not begun these, and will not: it leaves, or has promised what they need."""

    task_ids: list[TaskBytes]


class Drain(Struct, frozen=True, array_like=True, tag=True):
    """Asks a node to take nothing new, and to leave when it is done or so much time has passed."""

    deadline_s: float


class Gone(Struct, frozen=True, array_like=True, tag=True):
    """Of the kept results: the host does not have these."""

    object_ids: list[ObjectBytes]


class Unfetched(Struct, frozen=True, array_like=True, tag=True):
    """The host gives a task back: it cannot get these inputs of it."""

    task_id: TaskBytes
    object_ids: list[ObjectBytes]


class Push(Struct, frozen=True, array_like=True, tag=True):
    """For the job's driver."""

    job_id: JobBytes
    topic: str
    body: dict[str, object]


class Beat(Struct, frozen=True, array_like=True, tag=True):
    """The host lives, and its event loop runs."""


Message = (
    Back
    | Begun
    | Drain
    | Beat
    | Job
    | Submit
    | Call
    | CreateActor
    | ActorMade
    | EndActor
    | AskActor
    | ActorFacts
    | LookForActors
    | ActorMoved
    | ActorUsed
    | YieldActors
    | ActorsYielded
    | HoldActor
    | ReleaseActor
    | ActorHeld
    | Cancel
    | Taken
    | Release
    | EndJob
    | Outstanding
    | Done
    | Unknown
    | Gone
    | Unfetched
    | Push
)

VERSION = zlib.crc32(
    repr(
        [
            (record.__name__, record.__struct_fields__, record.__annotations__)
            for record in (Shape, Stub, Input, Result, *get_args(Message))
        ]
    ).encode()
)
"""Of the records above: it changes with any edit, and both ends of a stream must have the same."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Message])


def encode_into(messages: Sequence[Message], frame: bytearray, at: int) -> None:
    """Writes the messages as one frame into the buffer, from there on; it ends with them."""
    _encoder.encode_into(messages, frame, at)


def decode(frame: bytes | memoryview) -> list[Message]:
    """The messages of a frame. Raises RequestError for what is none."""
    try:
        return _decoder.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(
            f"a peer sent what is no message: {error}",
            hint="run the same version of rostral-scheduler on all nodes",
        ) from error
