"""What an environment is: the record that a driver writes and a local scheduler makes workers for.

This file owns that record and its name. Checking what users type is the client's (`runtime_env`);
making an environment is in ``local/environment_setup.py``. It imports nothing slow.
"""

from __future__ import annotations

import hashlib
from typing import Final, Literal

import msgspec

from rostral_scheduler.errors import RequestError

__all__ = ["NO_ENVIRONMENT", "EnvironmentSpec", "decode_environment", "encode_environment"]

NO_ENVIRONMENT: Final = b""
"""The key of the environment that workers have of themselves."""

TEXT_SIZE_MAX: Final = 64 * 1024
"""Bytes of one encoded environment: it travels in one packet to the zygote for each worker."""


class EnvironmentSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What workers of the environment have that others do not.

    Attributes:
        env_vars: Set in their environment; ``${NAME}`` stands for the node's own value.
        working_dir: The package that becomes their directory and the head of their import path:
            the name of a file among the node's packages, or the absolute path of a zip file.
        py_modules: Packages, likewise, that go behind it on the import path.
        installer: What installs the requirements; empty: there are none.
        requirements: Lines of a requirements file.
        install_options: Further arguments of the installer.
        py_executable: The command that is their interpreter; empty: the node's own.
        setup_hook: What each worker calls before its first task: ``module.function``, or a pickle
            in base64; empty: nothing.
        setup_timeout_s: How long making the environment may take; 0: as long as it wants.
    """

    env_vars: dict[str, str] = {}
    working_dir: str = ""
    py_modules: tuple[str, ...] = ()
    installer: Literal["", "pip", "uv"] = ""
    requirements: tuple[str, ...] = ()
    install_options: tuple[str, ...] = ()
    py_executable: str = ""
    setup_hook: str = ""
    setup_timeout_s: float = 600.0

    @property
    def needs_interpreter(self) -> bool:
        """Whether its workers cannot be forked from the process that forks all others."""
        early = ("LD_", "PYTHON", "MALLOC_", "GLIBC_", "OMP_", "MKL_", "OPENBLAS_")
        return bool(self.installer or self.py_executable) or any(
            # The loader, the interpreter and libraries that are loaded early have read them.
            name.startswith(early)
            for name in self.env_vars
        )


def encode_environment(spec: EnvironmentSpec) -> str:
    """The record as text; equal environments give equal text."""
    return msgspec.json.encode(spec, order="deterministic").decode()


def decode_environment(text: str) -> tuple[bytes, EnvironmentSpec]:
    """(16 bytes that name it, the environment). Raises RequestError."""
    if len(text) > TEXT_SIZE_MAX:
        raise RequestError(
            f"the runtime environment takes {len(text)} bytes, over the limit of {TEXT_SIZE_MAX}",
            hint="put large values into files of its working_dir",
        )
    try:
        spec = msgspec.json.decode(text, type=EnvironmentSpec)
    except msgspec.MsgspecError as error:
        raise RequestError(f"this is no runtime environment: {error}") from error
    return hashlib.blake2b(text.encode(), digest_size=16).digest(), spec
