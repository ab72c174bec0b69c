"""Plays a policy before a camera: episodes as a video. Needs the `video` extra.

Frames are what the environment draws. Atari's vector environment draws nothing: there the newest
frame that the policy sees is shown, enlarged.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.error import Error as GymnasiumError

from rostral_rl import spaces
from rostral_rl.errors import (
    FolderUnwritableError,
    InvalidSettingError,
    MissingExtraError,
    ShapeError,
    SimulationError,
)
from rostral_rl.policy import Policy
from rostral_rl.recurrent import RecurrentPolicy
from rostral_rl.seeding import SeedTree, Stream
from rostral_rl.simulate.atari import is_atari
from rostral_rl.simulate.make import check_known, make_vector
from rostral_rl.simulate.slabs import Slab

Frame = npt.NDArray[np.uint8]
FPS = 30
"""Where an environment does not say how fast it is."""
ATARI_FPS = 15
"""Every fourth frame of 60."""
ENLARGED = 4


def record(
    policy: Policy, env: str, file: str | os.PathLike[str], *, episodes: int = 1, seed: int = 0
) -> list[float]:
    """Plays episodes greedily and writes them to `file` as H.264 video.

    Args:
        policy: Of the environment's spaces.
        env: Gymnasium id.
        file: Ends in .mp4 or .mkv; replaced where there is one.
        episodes: How many, one after the other.
        seed: The episodes are the first of `evaluate` with this seed.

    Returns:
        The episodes' returns.

    Raises:
        InvalidSettingError: `episodes` is not positive, or the file is of another kind.
        ShapeError: The environment's spaces are not those of the policy.
        SimulationError: The environment cannot be made, or draws nothing.
        MissingExtraError: The `video` extra is not installed.
        FolderUnwritableError: The file cannot be written.
    """
    path = Path(file)
    if episodes <= 0:
        raise InvalidSettingError(f"episodes must be > 0, got {episodes}")
    if path.suffix not in (".mp4", ".mkv"):
        raise InvalidSettingError(f"{path} is no kind of video", hint="name it NAME.mp4")
    check_known(env)
    returns: list[float] = []
    with _Video(path) as video:
        for index in range(episodes):
            play = _atari_episode if is_atari(env) else _drawn_episode
            returns.append(play(_actor(policy), policy, env, seed, index, video))
    return returns


Act = Callable[[Any], Any]


def _actor(policy: Policy) -> Act:
    return policy.player() if isinstance(policy, RecurrentPolicy) else policy


def _drawn_episode(
    act: Act, policy: Policy, env_id: str, seed: int, index: int, video: _Video
) -> float:
    try:
        env: Any = gymnasium.make(env_id, render_mode="rgb_array", disable_env_checker=True)
    except (GymnasiumError, ImportError) as error:
        raise SimulationError(f"gymnasium cannot draw {env_id}: {error}") from error
    try:
        _check(policy, env.observation_space, env.action_space)
        obs, _ = env.reset(seed=SeedTree(seed).seed(Stream.EVALUATION, index))
        total, over = 0.0, False
        video.fps = video.fps or int(env.metadata.get("render_fps", FPS))
        video.add(_drawn(env, env_id))
        while not over:
            obs, reward, terminated, truncated, _ = env.step(act(obs))
            total += float(reward)
            over = terminated or truncated
            video.add(_drawn(env, env_id))
        return total
    finally:
        env.close()


def _drawn(env: Any, env_id: str) -> Frame:
    try:
        frame = env.render()
    except (GymnasiumError, ImportError, RuntimeError) as error:
        raise SimulationError(f"{env_id} cannot be drawn: {error}") from error
    if not isinstance(frame, np.ndarray):
        raise SimulationError(f"{env_id} draws nothing")
    return np.asarray(frame, np.uint8)


def _atari_episode(
    act: Act, policy: Policy, env_id: str, seed: int, index: int, video: _Video
) -> float:
    vector = make_vector(env_id, 1, seed=seed, first=index, stream=Stream.EVALUATION)
    try:
        _check(policy, vector.observation_space, vector.action_space)
        slab = Slab.allocate(
            1, 1, observation_space=vector.observation_space, action_space=vector.action_space
        )
        vector.reset(slab.obs[0])
        total, over = 0.0, False
        video.fps = video.fps or ATARI_FPS
        while not over:
            seen = np.asarray(slab.obs[0, 0, -1])
            video.add(np.repeat(np.kron(seen, np.ones((ENLARGED,) * 2, np.uint8))[..., None], 3, 2))
            slab.actions[0] = act(slab.obs[0])
            vector.step(slab, 0)
            total += float(slab.reward[0, 0])
            over = bool(slab.terminated[0, 0] or slab.truncated[0, 0])
            slab.obs[0] = slab.obs[1]
        return total
    finally:
        vector.close()


def _check(policy: Policy, observation_space: Any, action_space: Any) -> None:
    if not (
        spaces.alike(policy.observation_space, observation_space)
        and spaces.alike(policy.action_space, action_space)
    ):
        raise ShapeError(
            f"the policy is for {policy.observation_space} and {policy.action_space}, the "
            f"environment has {observation_space} and {action_space}",
            hint="record it where it was trained",
        )


class _Video:
    """A video file that is begun with its first frame, whose size the others must have.

    Written beside its place and moved there when it is whole.
    """

    def __init__(self, file: Path) -> None:
        try:
            import imageio_ffmpeg
        except ImportError as error:
            raise MissingExtraError(
                "videos need imageio-ffmpeg", hint="pip install 'rostral-rl[video]'"
            ) from error
        self._library = imageio_ffmpeg
        self._file = file
        self._part = file.with_name(f".{file.stem}.part{file.suffix}")
        self._writer: Any = None
        self.fps = 0

    def __enter__(self) -> _Video:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._writer is None:
            return
        self._writer.close()
        if kind is None:
            os.replace(self._part, self._file)
        else:
            self._part.unlink(missing_ok=True)

    def add(self, frame: Frame) -> None:
        """Appends a frame (height, width, 3)."""
        even = frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]  # H.264 has no odd sides
        if self._writer is None:
            try:
                self._part.parent.mkdir(parents=True, exist_ok=True)
                self._part.touch()
            except OSError as error:
                raise FolderUnwritableError(
                    f"cannot write {self._part.parent}: {error.strerror}",
                    hint="give another folder",
                ) from error
            self._writer = self._library.write_frames(
                str(self._part), (even.shape[1], even.shape[0]), fps=self.fps, macro_block_size=2
            )
            self._writer.send(None)
        self._writer.send(np.ascontiguousarray(even))
