"""Trains CartPole on a cluster, serves the policy over HTTP, plays through the server, cleans up.

    python demo.py

Progress is shown on stderr. The last line on stdout is one JSON object:

    {"return_mean": ..., "served_return_mean": ..., "env_steps": ..., "train_s": ...,
     "processes_left": 0}

Exit status 1 where the policy stayed below 475 or anything was left behind, 130 after Ctrl-C.
"""

from __future__ import annotations

import json
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from leftovers import Leftovers, interruptible, remove_private_directory, restart_marked

ENV = "CartPole-v1"
GOAL = 475.0
ATTEMPTS_MAX = 3
SERVED_EPISODES = 20


def say(text: str) -> None:
    """Writes to stderr, so that stdout holds nothing but the result."""
    print(text, file=sys.stderr, flush=True)


def train(folder: Path) -> dict[str, float]:
    """Trains until the goal is met, with another seed if one was not enough; saves the policy."""
    import rostral
    import rostral_rl as rl

    env_steps, train_s, return_mean = 0, 0.0, float("-inf")
    with rostral.init("local", num_cpus=2):
        for seed in range(ATTEMPTS_MAX):
            run = rl.train("ppo", ENV, seed=seed, workers=2, stop_at=GOAL, progress=True)
            env_steps += run.env_steps
            train_s += run.train_s
            result = run.evaluate(episodes=100, seed=1_000 + seed)
            say(f"seed {seed}: {result}")
            if result.mean > return_mean:
                return_mean = result.mean
                run.policy.save(folder)
            if return_mean >= GOAL:
                break
    return {"return_mean": return_mean, "env_steps": env_steps, "train_s": round(train_s, 2)}


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Runs `rostral-rl serve` on a free port of loopback; yields its URL."""
    command = [sys.executable, "-m", "rostral_rl", "serve", str(folder), "--http", "0"]
    # In a session of its own, so that Ctrl-C reaches us alone and we stop it in order.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()  # "serving FOLDER at URL", or nothing where it failed.
            if not line:
                raise RuntimeError(f"the server ended with status {process.wait()}")
            say(line.strip())
            yield line.split()[-1]
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
        if process.wait() != 0:
            raise RuntimeError(f"the server ended with status {process.returncode}")


def play(url: str) -> float:
    """Plays episodes of the plain environment, one request a step; returns their mean return."""
    import gymnasium

    from rostral_rl import PolicyClient

    env = gymnasium.make(ENV)
    total = 0.0
    with PolicyClient(url) as client:
        for episode in range(SERVED_EPISODES):
            obs, _ = env.reset(seed=2_000 + episode)
            over = False
            while not over:
                obs, reward, terminated, truncated, _ = env.step(int(client.act(obs)))
                total += float(reward)
                over = terminated or truncated
    env.close()
    return total / SERVED_EPISODES


def run(result: dict[str, float]) -> int:
    """Trains, serves and plays, noting figures in `result`; returns the exit status."""
    try:
        interruptible()
        with TemporaryDirectory() as folder:
            result.update(train(Path(folder)))
            with served(Path(folder)) as url:
                result["served_return_mean"] = play(url)
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except Exception:
        traceback.print_exc()
        return 1
    return 0 if min(result["return_mean"], result["served_return_mean"]) >= GOAL else 1


def main() -> int:
    """Runs the demo and looks for what it left; returns the exit status."""
    leftovers = Leftovers()
    result: dict[str, float] = {}
    try:
        # Returns before the count: a traceback would keep alive what its frames held.
        status = run(result)
        processes, others = leftovers.settled()
    finally:
        remove_private_directory()
    for each in (*processes, *others):
        say(f"left behind: {each}")
    names = ("return_mean", "served_return_mean", "env_steps", "train_s")
    if all(name in result for name in names):
        figures = {name: result[name] for name in names}
        print(json.dumps({**figures, "processes_left": len(processes)}))
    return status or int(bool(processes or others))


if __name__ == "__main__":
    restart_marked()
    sys.exit(main())
