"""Where a user's store listens when nobody says where: one directory per user, one name in it.

Owns the directory that all of Rostral keeps its sockets in, and its permissions. Who listens there,
and what is said, is not known here.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from rostral_gcs.errors import ConfigError

SOCKET_VARIABLE = "ROSTRAL_STORE"
DIRECTORY_VARIABLE = "ROSTRAL_RUNTIME_DIR"
SOCKET_NAME = "objectstore.sock"


def runtime_dir() -> Path:
    """This user's directory for sockets, mode 0700; made if needed.

    It is `$ROSTRAL_RUNTIME_DIR`, else `$XDG_RUNTIME_DIR/rostral`, else `rostral-UID` beside the
    temporary files.

    Raises: ConfigError when it is not a directory of this user alone: another user who made it
        first could listen in our place.
    """
    base = os.environ.get(DIRECTORY_VARIABLE)
    xdg = os.environ.get("XDG_RUNTIME_DIR")
    if base is not None:
        path = Path(base)
    elif xdg and Path(xdg).is_dir():
        path = Path(xdg) / "rostral"
    else:
        import tempfile  # not at the top: it brings much along

        path = Path(tempfile.gettempdir()) / f"rostral-{os.getuid()}"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be made: {error.strerror}",
            hint=f"set {DIRECTORY_VARIABLE} to a directory of yours with mode 0700",
        ) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ConfigError(
            f"{path} is not a directory that belongs to this user alone",
            hint=f"remove it, or set {DIRECTORY_VARIABLE} to a directory of yours with mode 0700",
        )
    return path


def default_socket_path() -> str:
    """The socket that `serve` and `StoreClient.connect` use when none is named.

    It is `$ROSTRAL_STORE` if that is set, else `objectstore.sock` in `runtime_dir`.
    """
    return os.environ.get(SOCKET_VARIABLE) or str(runtime_dir() / SOCKET_NAME)
