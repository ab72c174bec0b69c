"""Data-parallel PPO: actors that each hold the net, and share out every minibatch.

Each learner differentiates the loss of its rows, an allreduce on the object store sums the
gradients, and all take the same step. So the result is that of one learner up to rounding,
whatever their number. The trainer's process keeps the net and the optimiser's moments as they were
after the last update: when a learner dies, all are replaced and the update is done again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rostral_rl.arrays import FloatArray, SpaceArray
from rostral_rl.forward import NetSpec
from rostral_rl.simulate.crew import Crew, engine, split
from rostral_rl.threads import flushed_denormals, threads_for
from rostral_rl.train.actor_critic import build_net
from rostral_rl.train.parts.allreduce import Allreduce, Mailbox
from rostral_rl.train.parts.optimiser import FlatAdam
from rostral_rl.train.parts.schedules import at

if TYPE_CHECKING:
    from rostral_rl.train.ppo import PPO, Batch

LEARN_THREADS = 4
"""Calls that a learner runs at once: one that learns, and messages of others."""

State = dict[str, SpaceArray]


class LearnerActor:
    """What runs inside an actor: a replica of net and optimiser."""

    def __init__(self, settings: PPO, spec: NetSpec, rank: int, count: int) -> None:
        self._settings = settings
        # Advantages come normalised over the whole minibatch.
        self._as_given = dataclasses.replace(settings, normalise_advantage=False)
        self._rank = rank
        self._count = count
        self._net = build_net(spec, log_std=settings.log_std, seed=0)
        self._adam = FlatAdam(self._net)
        self._mailbox = Mailbox()
        self._allreduce: Allreduce | None = None

    def begin(self, others: Sequence[Any], state: State) -> None:
        """Makes the other learners known, and takes parameters and moments."""
        self._adam.load(state)
        rostral = engine()

        def post(turn: int, array: FloatArray) -> None:
            shared = rostral.put(array)
            for other in others:
                other.deliver.remote(turn, self._rank, shared)

        self._allreduce = Allreduce(self._rank, self._count, self._mailbox, post)

    def deliver(self, turn: int, rank: int, array: FloatArray) -> None:
        """A message of another learner; see `Mailbox`."""
        self._mailbox.deliver(turn, rank, array)

    def learn(self, batch: dict[str, Any], orders: Sequence[Any], fraction: float) -> State:
        """One update, minibatch by minibatch.

        Args:
            batch: The columns of a `Batch`, as arrays.
            orders: The rows, or environments, of each minibatch; None for all.
            fraction: How much of the training is done, for schedules.

        Returns:
            Parameters and moments, and the diagnostics of the last epoch (5,); of the first learner
            alone, for all have the same.
        """
        from rostral_rl.train.ppo import Batch

        assert self._allreduce is not None
        with threads_for(0), flushed_denormals():
            whole, valid = Batch.from_arrays(batch)
            told: list[FloatArray] = []
            last = len(orders) - len(orders) // self._settings.epochs
            for i, order in enumerate(orders):
                index = None if order is None else torch.from_numpy(np.array(order))
                minibatch = whole.take(index, valid)
                if len(minibatch.logp) < 2 and self._settings.normalise_advantage:
                    continue
                found = self._step_down(minibatch, fraction)
                if i >= last:
                    told.append(found)
        if self._rank:
            return {}
        return {**self._adam.state(), "diagnostics": np.mean(told, axis=0)}

    def _step_down(self, minibatch: Batch, fraction: float) -> FloatArray:
        """One gradient step of all learners together; returns the diagnostics (5,)."""
        from rostral_rl.train.ppo import ppo_loss, weighed

        settings = self._settings
        advantage = weighed(minibatch.advantage, settings)
        minibatch = dataclasses.replace(minibatch, advantage=advantage)
        mine = minibatch.share(self._rank, self._count)
        share = len(mine.logp) / len(minibatch.logp)
        # Gradient, loss and diagnostics of our rows, weighed by how many they are.
        sums = np.zeros(self._adam.size + 6, np.float32)
        if share:
            loss, terms = ppo_loss(self._net, mine, self._as_given, fraction)
            self._adam.differentiate(loss)
            sums[:-6] = self._adam.gradient
            sums[-6] = loss.item()
            sums[-5:] = terms.diagnostics().detach().numpy()
            sums *= share
        assert self._allreduce is not None
        self._allreduce.sum(sums)
        self._adam.gradient[...] = sums[:-6]
        lr, norm_max = at(settings.lr, fraction), settings.grad_norm_max
        self._adam.descend(float(sums[-6]), lr=lr, norm_max=norm_max)
        return sums[-5:]


class Learners:
    """The crew of learners, as the trainer sees it.

    Args:
        settings: The training's; `settings.learners` of them are started.
        spec: Shape of the net.
        adam: Net and moments; after each update as the learners have them.
        address: As for `Crew`, whose errors this raises too.
    """

    def __init__(
        self, settings: PPO, spec: NetSpec, adam: FlatAdam, *, address: str | None
    ) -> None:
        count = settings.learners
        self._adam = adam
        self._crew = Crew(
            LearnerActor,
            lambda seat: (settings, spec, seat.first, count),
            split(count, count),
            address=address,
            cpus_each=0.0,
            options={"max_concurrency": LEARN_THREADS},
        )
        self._known: list[Any] = []  # actors that have the trainer's net

    @property
    def restarts(self) -> int:
        """Learners that died and were replaced."""
        return self._crew.restarts

    def forget(self) -> None:
        """The trainer's net was changed otherwise: learners take it before they go on."""
        self._known = []

    def learn(self, batch: Batch, valid: Any, orders: Sequence[Tensor | None], at: float) -> Tensor:
        """One update; the trainer's net and moments are then the learners'.

        Returns:
            Mean diagnostics (5,) of the last epoch.

        Raises:
            NonFiniteLossError: Training diverged; the trainer's net is that of the update before.
            WorkersLostError: Learners kept dying.
        """
        arrays = self._crew.put(batch.arrays(valid))
        plain = [None if order is None else order.numpy() for order in orders]
        shared = self._crew.put(plain)
        state = self._crew.together(
            lambda seat: self._crew.call(seat, "learn", arrays, shared, at), self._prepare
        )[0]
        self._known = self._actors()
        diagnostics = torch.from_numpy(np.array(state["diagnostics"]))
        self._adam.load({k: v for k, v in state.items() if k != "diagnostics"})
        return diagnostics

    def close(self) -> None:
        """Ends the learners. May be called twice."""
        self._crew.close()

    def _actors(self) -> list[Any]:
        return [seat.actor for seat in self._crew.seats]

    def _prepare(self) -> None:
        """Before an update: learners that are new, or behind, meet and take the net."""
        actors = self._actors()
        if self._known == actors:
            return
        state = self._crew.put(self._adam.state())
        self._crew.gather(
            [
                self._crew.call(seat, "begin", [a for a in actors if a is not seat.actor], state)
                for seat in self._crew.seats
            ]
        )
