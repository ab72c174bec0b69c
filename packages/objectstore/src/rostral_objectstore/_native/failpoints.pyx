"""Which failpoints this process has armed, and how often it came to each.

The steps themselves are in failpoints.h, and in the code: this module only reads
ROSTRAL_FAILPOINTS, for example `seal.before_publish=kill@3,delete.begun=stop`. There is one plan to
a process, which all its attachments point at. For tests: nothing here is of use to a store that is
to live.
"""
import os

from libc.string cimport memset

from rostral_gcs.errors import ConfigError

VARIABLE = "ROSTRAL_FAILPOINTS"
NAMES = tuple([FAILPOINT_NAMES[i].decode() for i in range(FAILPOINT_COUNT)])
# Those of the store daemon alone.
DAEMON_NAMES = NAMES[FAILPOINT_FIRST_OF_DAEMON:]
ACTIONS = ("count", "kill", "stop")

cdef failpoint_plan plan
cdef object armed_text = ""


def arm_from_environment():
    """The address of the plan that ROSTRAL_FAILPOINTS asks for, or 0 when it asks for nothing.

    Counting begins anew when the text has changed. Raises ConfigError.
    """
    text = os.environ.get(VARIABLE, "")
    if text != armed_text:
        arm(text)
    return <size_t>&plan if text else 0


def arm(text):
    """Arms what the text says and nothing else: `name=action@hit,...`. Raises ConfigError.

    The actions are `kill` (SIGKILL to this process), `stop` (SIGSTOP) and `count`; `@hit` is the
    number of the visit, 1 unless it is said.
    """
    global armed_text
    cdef int index
    steps = [parse(part.strip()) for part in text.split(",") if part.strip()]
    memset(&plan, 0, sizeof(plan))
    for index, action, hit in steps:
        plan.action[index], plan.at[index] = action, hit
    armed_text = text


def parse(part):
    """One `name=action@hit` as (index, action, hit). Raises ConfigError."""
    name, _, rest = part.partition("=")
    action, _, hit = rest.partition("@")
    if name not in NAMES:
        import difflib

        near = difflib.get_close_matches(name, NAMES, 3)
        raise ConfigError(
            f"{VARIABLE}: there is no failpoint {name!r}",
            hint=f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(NAMES)}")
    if action not in ACTIONS:
        raise ConfigError(
            f"{VARIABLE}: {part!r}: a failpoint cannot {action!r}",
            hint=f"what it can is {', '.join(ACTIONS)}: {name}=kill@1")
    if hit and (not hit.isdecimal() or hit == "0"):
        raise ConfigError(
            f"{VARIABLE}: {part!r}: {hit!r} is not the number of a visit",
            hint="visits count from 1")
    return NAMES.index(name), ACTIONS.index(action), int(hit or 1)


def hit(name):
    """A step that is Python code: the process dies here if that is armed."""
    if armed_text:
        reach_failpoint(&plan, NAMES.index(name))


def hits():
    """How often this process came to each step since it armed something, by name."""
    return {name: plan.hits[index] for index, name in enumerate(NAMES)}
