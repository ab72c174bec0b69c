"""Runtime environments as users type them: checked here, and turned into what a node understands.

Owns the names, types and defaults of `runtime_env=` of a job, a task or an actor. Packing local
directories is in `packages.py`; making environments is the local scheduler's.
"""

from __future__ import annotations

import base64
import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict, cast
from urllib.parse import unquote, urlparse

from rostral.exceptions import NotPicklableError, UnsupportedOptionError
from rostral.serialization import dumps
from rostral_scheduler.environment import EnvironmentSpec

SETUP_TIMEOUT_S = 600.0
HOOK_SIZE_MAX = 32 * 1024
PICKLED = "pickle:"

NOT_WANTED = {
    "conda": "use pip or uv, or start the node inside the conda environment",
    "container": "start the node inside the container",
    "image_uri": "start the node inside the container",
    "java_jars": "there are no Java workers",
    "nsight": "run the profiler around the whole driver",
    "rocprof_sys": "run the profiler around the whole driver",
}


class RuntimeEnvConfig(TypedDict, total=False):
    """How an environment is made.

    Keys: `setup_timeout_seconds`: after this it has failed, -1: never; `eager_install`: whether a
    job's is made at `init` and not with its first task; `log_files`: accepted, and of no effect.
    """

    setup_timeout_seconds: float
    eager_install: bool
    log_files: list[str]


class RuntimeEnv(dict[str, Any]):
    """A checked runtime environment: a dict of the fields that were given.

    Args:
        env_vars: Environment variables; `${NAME}` in a value stands for the node's own.
        working_dir: A directory, or a zip file of one: the workers' current directory, and the
            first place where they look for modules.
        py_modules: Directories of packages, modules, wheels or zip files to import from.
        pip: Requirements to install with pip: a list of lines, the path of a file, or a dict with
            `packages` and `pip_install_options`.
        uv: Likewise with uv: `packages` and `uv_pip_install_options`.
        excludes: Patterns of files, as in `.gitignore`, that are not sent along.
        py_executable: The command that is the workers' Python.
        worker_process_setup_hook: A function without arguments, or the name of one, that each
            worker calls before its first task.
        config: How it is made.

    Raises:
        UnsupportedOptionError: No such field, or one that this engine does not want (a ValueError).
        TypeError: A field of the wrong type.
        ValueError: pip and uv together; a path where nothing is; a value out of range.
    """

    def __init__(
        self,
        *,
        env_vars: Mapping[str, str] | None = None,
        working_dir: str | os.PathLike[str] | None = None,
        py_modules: list[Any] | None = None,
        pip: list[str] | str | Mapping[str, Any] | None = None,
        uv: list[str] | str | Mapping[str, Any] | None = None,
        excludes: list[str] | None = None,
        py_executable: str | None = None,
        worker_process_setup_hook: Callable[[], object] | str | None = None,
        config: RuntimeEnvConfig | Mapping[str, Any] | None = None,
        **unknown: object,
    ) -> None:
        for name in unknown:
            _refuse(name)
        given = {
            "env_vars": env_vars,
            "working_dir": working_dir,
            "py_modules": py_modules,
            "pip": pip,
            "uv": uv,
            "excludes": excludes,
            "py_executable": py_executable,
            "worker_process_setup_hook": worker_process_setup_hook,
            "config": config,
        }
        checked = {
            name: CHECKS[name](name, value) for name, value in given.items() if value is not None
        }
        if "pip" in checked and "uv" in checked:
            raise ValueError("runtime_env has both pip and uv: give one of them")
        super().__init__(checked)

    def __reduce__(self) -> tuple[Any, ...]:
        return parse, (dict(self),)

    @property
    def is_eager(self) -> bool:
        """Whether a job's environment is made at `init`."""
        return bool(self.get("config", {}).get("eager_install", True))


def _refuse(name: str) -> None:
    if name in NOT_WANTED:
        raise UnsupportedOptionError(
            f"runtime_env[{name!r}] is not something that Rostral does", hint=NOT_WANTED[name]
        )
    raise UnsupportedOptionError.unknown(name, list(CHECKS))


def parse(value: object) -> RuntimeEnv | None:
    """What was given for `runtime_env`, checked. Raises what `RuntimeEnv` raises."""
    if value is None or isinstance(value, RuntimeEnv):
        return value
    if not isinstance(value, Mapping):
        raise TypeError(f"runtime_env must be a dict, not {type(value).__name__}")
    for name in value:
        if not isinstance(name, str):
            raise TypeError(f"runtime_env has the key {name!r}: it must be a string")
    return RuntimeEnv(**value)


# ---- one check for each field


def _env_vars(name: str, value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise TypeError(f"runtime_env[{name!r}] must be a dict, not {type(value).__name__}")
    for key, text in value.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise TypeError(f"runtime_env[{name!r}] has {key!r}: {text!r}; both must be strings")
        if not key or "=" in key or "\0" in key or "\0" in text:
            raise ValueError(f"runtime_env[{name!r}]: {key!r} cannot be an environment variable")
    return dict(value)


def _strings(name: str, value: object) -> list[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise TypeError(f"runtime_env[{name!r}] must be a list of strings, not {value!r}")
    return list(value)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"runtime_env[{name!r}] must be a string, not {type(value).__name__}")
    if not value.strip():
        raise ValueError(f"runtime_env[{name!r}] is empty")
    return value


def local_path(name: str, value: object) -> str:
    """An absolute path of something that is there; `file://` in front of it is taken off."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} must be a path, not {type(value).__name__}")
    text = os.fsdecode(value)
    parts = urlparse(text)
    if parts.scheme == "file":
        text = unquote(parts.path)
    elif "://" in text:
        raise UnsupportedOptionError(
            f"{name} is {text!r}: of URIs only file:// is supported",
            hint="download it first, and give the path",
        )
    path = os.path.abspath(os.path.expanduser(text))
    if not os.path.exists(path):
        raise ValueError(f"{name}: there is nothing at {path}")
    return path


def _working_dir(name: str, value: object) -> str:
    path = local_path(f"runtime_env[{name!r}]", value)
    if not os.path.isdir(path) and not path.endswith(".zip"):
        raise ValueError(f"runtime_env[{name!r}]: {path} is neither a directory nor a zip file")
    return path


def _py_modules(name: str, value: object) -> list[str]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"runtime_env[{name!r}] must be a list, not {type(value).__name__}")
    return [_module_path(f"runtime_env[{name!r}]", item) for item in value]


def _module_path(name: str, item: object) -> str:
    if not inspect.ismodule(item):
        return local_path(name, item)
    file = getattr(item, "__file__", None)
    folders = list(getattr(item, "__path__", []))
    if folders or file:
        return os.path.abspath(folders[0] if folders else cast(str, file))
    raise ValueError(f"{name}: the module {item.__name__} has no files to send")


def _requirements(name: str, value: object) -> dict[str, Any]:
    options = f"{name}_install_options" if name == "pip" else "uv_pip_install_options"
    if isinstance(value, Mapping):
        for key in value:
            if key not in ("packages", options):
                raise UnsupportedOptionError.unknown(str(key), ["packages", options])
        extra = _strings(options, value.get(options, []))
        return {"packages": _lines(name, value.get("packages", [])), options: extra}
    return {"packages": _lines(name, value), options: []}


def _lines(name: str, value: object) -> list[str]:
    """Lines of a requirements file, which may be given by its path."""
    if isinstance(value, str | os.PathLike):
        path = Path(local_path(f"runtime_env[{name!r}]", value))
        return [
            line.strip()
            for line in path.read_text().splitlines()
            if line.strip() and not line.lstrip().startswith("#")
        ]
    return _strings(name, value)


def _hook(name: str, value: object) -> str:
    """The name of a function, or the function itself in a form that can be sent."""
    if isinstance(value, str):
        if value.startswith(PICKLED):
            return value
        module, _, function = _text(name, value).rpartition(".")
        if not module or not function:
            raise ValueError(f"runtime_env[{name!r}] is {value!r}: give module.function")
        return value
    if not callable(value):
        raise TypeError(
            f"runtime_env[{name!r}] must be a function or its name, not {type(value).__name__}"
        )
    try:
        blob = dumps(value)
    except NotPicklableError as error:
        raise NotPicklableError(
            f"runtime_env[{name!r}] cannot be sent to workers: {error.message}",
            hint=error.hint,
            reason=error.reason,
        ) from error
    if len(blob) > HOOK_SIZE_MAX:
        raise ValueError(
            f"runtime_env[{name!r}] pickles to {len(blob)} bytes, over the limit of "
            f"{HOOK_SIZE_MAX}: put it into a module of working_dir, and give its name"
        )
    return PICKLED + base64.b64encode(blob).decode()


def _config(name: str, value: object) -> dict[str, Any]:
    known = list(RuntimeEnvConfig.__annotations__)
    if not isinstance(value, Mapping):
        raise TypeError(f"runtime_env[{name!r}] must be a dict, not {type(value).__name__}")
    for key in value:
        if key not in known:
            raise UnsupportedOptionError.unknown(str(key), known)
    timeout_s = value.get("setup_timeout_seconds", SETUP_TIMEOUT_S)
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float):
        raise TypeError(f"setup_timeout_seconds must be a number, not {type(timeout_s).__name__}")
    if timeout_s != -1 and not 0 < timeout_s < float("inf"):
        raise ValueError(f"setup_timeout_seconds is {timeout_s}: it must be above 0, or -1")
    if not isinstance(value.get("eager_install", True), bool):
        raise TypeError("eager_install must be a bool")
    return dict(value)


CHECKS: dict[str, Callable[[str, object], Any]] = {
    "env_vars": _env_vars,
    "working_dir": _working_dir,
    "py_modules": _py_modules,
    "pip": _requirements,
    "uv": _requirements,
    "excludes": _strings,
    "py_executable": _text,
    "worker_process_setup_hook": _hook,
    "config": _config,
}


# ---- what a node understands


def spec_of(env: RuntimeEnv, parent: EnvironmentSpec, pack: Callable[..., str]) -> EnvironmentSpec:
    """The environment of what asks for `env` in an environment of its own.

    Variables of both are set, the child's where both have one; of all else the child's is taken
    where it has any.

    Args:
        env: Of the child.
        parent: Of the job, or of the task that makes the child.
        pack: Called with a directory or file, its excludes, and `keep_name`; returns a package.

    Raises: ValueError, OSError from packing.
    """
    excludes = env.get("excludes", [])
    fields: dict[str, Any] = {
        name: getattr(parent, name) for name in EnvironmentSpec.__struct_fields__
    }
    fields["env_vars"] = {**parent.env_vars, **env.get("env_vars", {})}
    if "working_dir" in env:
        fields["working_dir"] = pack(env["working_dir"], excludes, keep_name=False)
    if "py_modules" in env:
        fields["py_modules"] = tuple(
            pack(module, excludes, keep_name=True) for module in env["py_modules"]
        )
    installer: Literal["pip", "uv"]
    for installer, options in (("pip", "pip_install_options"), ("uv", "uv_pip_install_options")):
        if installer in env:
            fields["installer"] = installer
            fields["requirements"] = tuple(env[installer]["packages"])
            fields["install_options"] = tuple(env[installer][options])
    if "py_executable" in env:
        fields["py_executable"] = env["py_executable"]
    if "worker_process_setup_hook" in env:
        fields["setup_hook"] = env["worker_process_setup_hook"]
    if "config" in env:
        timeout_s = float(env["config"].get("setup_timeout_seconds", SETUP_TIMEOUT_S))
        fields["setup_timeout_s"] = 0.0 if timeout_s == -1 else timeout_s
    return EnvironmentSpec(**fields)
