"""Every error that `rostral_rl` raises on purpose, in families by who must act.

RostralError                       (rostral.exceptions)
└── RLError
    ├── UsageError                 the caller: change the call
    │   ├── UnknownNameError         ValueError  algorithm, environment or setting
    │   ├── InvalidSettingError      ValueError  wrong type or out of range
    │   │   ├── ConfigError            one setting: says which, and what is allowed
    │   │   └── UnschedulableError     more workers than the cluster can ever run
    │   ├── CheckpointMismatchError  ValueError  a checkpoint of another algorithm, or other spaces
    │   ├── UnsupportedSpaceError    TypeError   a space no policy here can read or act in
    │   ├── ShapeError               ValueError  array of the wrong shape or dtype
    │   ├── RequestError             ValueError  a request that the policy server cannot read
    │   │   ├── TooLargeError          body or batch beyond the limit
    │   │   └── UnsupportedMediaError  content type or encoding that it does not speak
    │   ├── NotServedError           LookupError no such model, version or path
    │   ├── UnauthenticatedError     PermissionError  token missing or wrong
    │   └── PermissionDeniedError    PermissionError  the token is good for less than that
    ├── SurroundingsError          the surroundings: fix folder, port, cluster, environment
    │   ├── PolicyNotFoundError      FileNotFoundError
    │   ├── ModelRejectedError       not a model that may be served
    │   │   ├── PolicyCorruptError     damaged, or not what was saved
    │   │   └── PolicyFormatError      written by another version or another program
    │   ├── FolderUnwritableError    OSError
    │   ├── CheckpointError          a checkpoint is missing or damaged
    │   ├── SimulationError          an environment raised
    │   │   └── EnvContractError       it returned what Gymnasium's interface forbids
    │   ├── WorkersLostError         rollout actors died more often than allowed
    │   ├── MissingExtraError        ImportError
    │   ├── PortUnavailableError     OSError
    │   ├── OverloadedError          the server's queue is full; try later
    │   ├── DeadlineError            TimeoutError
    │   └── ServerError              the policy server answered with an error
    │       └── UnavailableError       ConnectionError  it is away; safe to ask again
    └── NonFiniteLossError           ArithmeticError  diverged: lower the learning rate
"""

from __future__ import annotations

from typing import Final

from rostral.exceptions import RostralError

MISFITS: Final[tuple[type[Exception], ...]] = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError),
    *(RuntimeError, TypeError, ValueError),
)
"""What data of another form than was expected raises where it is used; Gymnasium asserts."""


class RLError(RostralError):
    """Base of all errors of this package."""


class UsageError(RLError):
    """The call is wrong and will be wrong again."""


class UnknownNameError(UsageError, ValueError):
    """No algorithm, environment or setting of that name."""


class InvalidSettingError(UsageError, ValueError):
    """A setting has the wrong type or lies outside its range."""


class ConfigError(InvalidSettingError):
    """One setting has the wrong type or lies outside its range.

    Attributes:
        key: The setting's name.
        allowed: What it may be, in words.
    """

    code = "CONFIG"

    def __init__(self, key: str, value: object, *, allowed: str, hint: str | None = None) -> None:
        shown = repr(value)
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        super().__init__(f"{key} must be {allowed}, got {shown}", hint=hint)
        self.key = key
        self.allowed = allowed


class UnschedulableError(InvalidSettingError):
    """More workers are asked for than the cluster has room for, now or ever."""

    code = "UNSCHEDULABLE"


class CheckpointMismatchError(UsageError, ValueError):
    """The checkpoint is of another algorithm, or of a net or spaces that are not these."""

    code = "CHECKPOINT_MISMATCH"


class UnsupportedSpaceError(UsageError, TypeError):
    """An observation or action space that no policy here can handle."""


class ShapeError(UsageError, ValueError):
    """An array whose shape, dtype or values are not what the policy was trained on.

    Attributes:
        expected: What would fit, in words; None where the space has no one shape.
        got: What came.
    """

    code = "INVALID_OBSERVATION"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        expected: str | None = None,
        got: str | None = None,
    ) -> None:
        if hint is None and expected is not None:
            hint = f"expected {expected}"
        super().__init__(message, hint=hint)
        self.expected = expected
        self.got = got


class RequestError(UsageError, ValueError):
    """A request that the policy server cannot read; sending it again will not help."""

    code = "INVALID_ARGUMENT"


class TooLargeError(RequestError):
    """A body, or a batch of observations, beyond what the server takes at once."""

    code = "TOO_LARGE"


class UnsupportedMediaError(RequestError):
    """A content type or encoding that the policy server does not speak."""

    code = "UNSUPPORTED_MEDIA"


class NotServedError(UsageError, LookupError):
    """The server has no such model, version or path."""

    code = "NOT_FOUND"


class UnauthenticatedError(UsageError, PermissionError):
    """The server wants a token, and that was missing or wrong."""

    code = "UNAUTHENTICATED"


class PermissionDeniedError(UsageError, PermissionError):
    """The server knows the token, which is not good for this call."""

    code = "PERMISSION_DENIED"


class SurroundingsError(RLError):
    """Something outside the call is not as it must be."""


class PolicyNotFoundError(SurroundingsError, FileNotFoundError):
    """There is no policy folder at that path."""


class ModelRejectedError(SurroundingsError):
    """What was to be served or loaded is no model that may be."""

    code = "MODEL_REJECTED"


class PolicyCorruptError(ModelRejectedError):
    """The folder is a policy folder, but what it holds cannot be what was saved."""


class PolicyFormatError(ModelRejectedError):
    """The folder was written in a format that this version does not read."""


class FolderUnwritableError(SurroundingsError, OSError):
    """What was to be saved there cannot be written."""


class CheckpointError(SurroundingsError):
    """There is no checkpoint in that folder, or it cannot be what was saved."""


class SimulationError(SurroundingsError):
    """An environment raised, or returned something that Gymnasium's interface forbids."""


class EnvContractError(SimulationError):
    """An environment returned something that Gymnasium's interface forbids.

    Attributes:
        step: Steps that the environments had taken, counted from their start.
        field: What was wrong: "obs", "reward", "reset" or "step".
    """

    code = "ENV_CONTRACT"

    def __init__(self, message: str, *, step: int, field: str, hint: str | None = None) -> None:
        super().__init__(f"{message} (step {step}, {field})", hint=hint)
        self.step = step
        self.field = field


class WorkersLostError(SurroundingsError):
    """Rollout actors died more often than `restarts` allows."""


class MissingExtraError(SurroundingsError, ImportError):
    """An optional dependency is needed for what was asked."""


class PortUnavailableError(SurroundingsError, OSError):
    """The address to listen on is taken or not ours."""


class OverloadedError(SurroundingsError):
    """The server's queue, or its table of sessions, is full. Safe to send again after a pause.

    Attributes:
        retry_after_s: Seconds after which there should be room.
    """

    code = "RESOURCE_EXHAUSTED"

    def __init__(
        self, message: str, *, hint: str | None = None, retry_after_s: float = 1.0
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class DeadlineError(SurroundingsError, TimeoutError):
    """The request's deadline passed before it could be answered."""

    code = "DEADLINE_EXCEEDED"


class ServerError(SurroundingsError):
    """The policy server cannot be reached, or answered with an error."""

    code = "INTERNAL"


class UnavailableError(ServerError, ConnectionError):
    """The policy server is away, starting or stopping. Acting changes nothing there: ask again."""

    code = "UNAVAILABLE"


class NonFiniteLossError(RLError, ArithmeticError):
    """The loss became NaN or infinite; the policy of the previous update is kept.

    Attributes:
        step: Environment steps of the training when it happened; None where only a net was at work.
        checkpoint: Folder of the last checkpoint that was written before; None without one.
    """

    code = "NON_FINITE_LOSS"

    def __init__(
        self,
        message: str,
        *,
        step: int | None = None,
        checkpoint: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.step = step
        self.checkpoint = checkpoint
