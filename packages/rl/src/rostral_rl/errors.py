"""Every error that `rostral_rl` raises on purpose, in families by who must act.

RostralError                       (rostral.exceptions)
└── RLError
    ├── UsageError                 the caller: change the call
    │   ├── UnknownNameError         ValueError  algorithm, environment or setting
    │   ├── InvalidSettingError      ValueError  wrong type or out of range
    │   ├── UnsupportedSpaceError    TypeError   a space no policy here can read or act in
    │   └── ShapeError               ValueError  array of the wrong shape or dtype
    ├── SurroundingsError          the surroundings: fix folder, port, cluster, environment
    │   ├── PolicyNotFoundError      FileNotFoundError
    │   ├── PolicyCorruptError
    │   ├── PolicyFormatError        written by another version or another program
    │   ├── FolderUnwritableError    OSError
    │   ├── SimulationError          an environment raised or returned what it must not
    │   ├── WorkersLostError         rollout actors died more often than allowed
    │   ├── MissingExtraError        ImportError
    │   ├── PortUnavailableError     OSError
    │   ├── OverloadedError          the server's queue is full; try later
    │   ├── DeadlineError            TimeoutError
    │   └── ServerError              the policy server is away or answered with an error
    └── NonFiniteLossError           ArithmeticError  diverged: lower the learning rate
"""

from __future__ import annotations

from rostral.exceptions import RostralError


class RLError(RostralError):
    """Base of all errors of this package."""


class UsageError(RLError):
    """The call is wrong and will be wrong again."""


class UnknownNameError(UsageError, ValueError):
    """No algorithm, environment or setting of that name."""


class InvalidSettingError(UsageError, ValueError):
    """A setting has the wrong type or lies outside its range."""


class UnsupportedSpaceError(UsageError, TypeError):
    """An observation or action space that no policy here can handle."""


class ShapeError(UsageError, ValueError):
    """An array whose shape or dtype is not what the policy was trained on."""


class SurroundingsError(RLError):
    """Something outside the call is not as it must be."""


class PolicyNotFoundError(SurroundingsError, FileNotFoundError):
    """There is no policy folder at that path."""


class PolicyCorruptError(SurroundingsError):
    """The folder is a policy folder, but what it holds cannot be what was saved."""


class PolicyFormatError(SurroundingsError):
    """The folder was written in a format that this version does not read."""


class FolderUnwritableError(SurroundingsError, OSError):
    """What was to be saved there cannot be written."""


class SimulationError(SurroundingsError):
    """An environment raised, or returned something that Gymnasium's interface forbids."""


class WorkersLostError(SurroundingsError):
    """Rollout actors died more often than `restarts` allows."""


class MissingExtraError(SurroundingsError, ImportError):
    """An optional dependency is needed for what was asked."""


class PortUnavailableError(SurroundingsError, OSError):
    """The address to listen on is taken or not ours."""


class OverloadedError(SurroundingsError):
    """The server's queue is full. Safe to send again after a pause."""


class DeadlineError(SurroundingsError, TimeoutError):
    """The request's deadline passed before it could be answered."""


class ServerError(SurroundingsError):
    """The policy server cannot be reached, or answered with an error."""


class NonFiniteLossError(RLError, ArithmeticError):
    """The loss became NaN or infinite; the policy of the previous update is kept."""
