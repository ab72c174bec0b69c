"""SAC's gradients written out, beside autograd's: two critics at once, and a squashed Gaussian.

At a batch of 256 a step is sixteen products of 256 x 256 matrices, 1.6 ms on two cores; what
autograd adds is pages that are fresh in every step, and the gradients of critics that only pass
something on. Here all lies in memory that is kept. What is as narrow as an action is computed in
NumPy, in a third of torch's time: its calls are cheaper, and so are its products with one column.
Tests hold everything to autograd's own numbers.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from rostral_rl.arrays import FloatArray
from rostral_rl.heads import LOG_2PI, LOG_STD_RANGE
from rostral_rl.train.parts.direct import TowerGradient
from rostral_rl.train.parts.qnet import BoxActor, TwinQ

aten = torch.ops.aten


class TwinGradient:
    """Two critics, forth and back; the gradient goes to where their parameters' gradients lie.

    What lies between two layers is kept from call to call while the number of rows stays.

    Args:
        net: Whose parameters stay where they are, and have gradients if it shall learn.
        inputs: D, width of the features; the actions come after them.
        lender: Of the same shape, and about to go back: what this one computes, which need not be
            kept, lies where the lender's slopes will. Less memory is more of it in the cache.
    """

    def __init__(self, net: TwinQ, inputs: int, lender: TwinGradient | None = None) -> None:
        self._lender = lender
        self._weights = [weight.detach() for weight in net.weights]  # (2, in, out)
        self._transposed = [weight.transpose(1, 2) for weight in self._weights]
        self._biases = [bias.detach() for bias in net.biases]  # (2, 1, out)
        self._gradients = [
            (weight.grad, bias.grad) for weight, bias in zip(net.weights, net.biases, strict=True)
        ]
        self._by_actions: FloatArray = self._transposed[0][:, :, inputs:].numpy()  # (2, H, A)
        self._inputs: list[Tensor] = []  # of each layer, (2, N, width)
        self._outputs: list[Tensor] = []  # of each layer but the last, (2, N, width)
        self._slopes: list[Tensor] = []  # the loss's gradient by them

    def forth(self, features: Tensor, actions: Tensor) -> FloatArray:
        """Features (N, D) and actions (N, A) to values (2, N)."""
        if not self._outputs or self._outputs[0].shape[1] != len(features):
            self._make_room(len(features))
        x = torch.cat((features, actions), 1).expand(2, -1, -1)  # (2, N, D + A)
        self._inputs.clear()
        for weight, bias, room in zip(self._weights, self._biases, self._outputs, strict=False):
            self._inputs.append(x)
            x = torch.baddbmm(bias, x, weight, out=room).relu_()
        self._inputs.append(x)
        values = np.matmul(x.numpy(), self._weights[-1].numpy())  # (2, N, 1)
        values += self._biases[-1].numpy()
        result: FloatArray = values[:, :, 0]
        return result

    def back(self, slope: FloatArray) -> None:
        """The loss's gradient by the values (2, N), to that by the parameters."""
        last = len(self._weights) - 1
        by_output = torch.from_numpy(slope[:, :, None])  # (2, N, 1)
        for i in reversed(range(last + 1)):
            by_weight, by_bias = self._gradients[i]
            assert by_weight is not None and by_bias is not None
            x = self._inputs[i]
            if i == last:
                # The same numbers as a row: a product with one column takes three times as long.
                torch.bmm(by_output.transpose(1, 2), x, out=by_weight.transpose(1, 2))
            else:
                torch.bmm(x.transpose(1, 2), by_output, out=by_weight)
            torch.sum(by_output, 1, keepdim=True, out=by_bias)
            if not i:
                break
            room = self._slopes[i - 1]
            if i == last:
                torch.mul(by_output, self._transposed[i], out=room)
            else:
                torch.bmm(by_output, self._transposed[i], out=room)
            by_output = aten.threshold_backward.grad_input(room, x, 0, grad_input=room)

    def by_actions(self, values: FloatArray, scale: float) -> FloatArray:
        """How `scale` times the sum of the smaller values changes with the actions, (N, A).

        Args:
            values: (2, N), as `forth` gave them last.
            scale: A number.
        """
        smaller = values[0] <= values[1]  # (N,)
        result = np.empty((len(smaller), self._by_actions.shape[2]), np.float32)  # (N, A)
        last = len(self._weights) - 1
        # A row's slope comes through one of the critics alone, so it goes back through that one.
        for k, mine in enumerate((smaller, ~smaller)):
            rows = np.flatnonzero(mine)  # (n,)
            index = torch.from_numpy(rows)
            # What a rectifier has let through is positive, so that its slope is the sign.
            slope = self._picked(last, k, index).sign_()  # (n, width)
            slope *= self._transposed[-1][k]
            for i in reversed(range(1, last)):
                room = self._slopes[i - 1][k, : len(rows)]
                torch.mm(slope, self._transposed[i][k], out=room)
                passed = self._picked(i, k, index)
                slope = aten.threshold_backward.grad_input(room, passed, 0, grad_input=room)
            result[rows] = np.matmul(slope.numpy(), self._by_actions[k])
        result *= scale
        return result

    def _picked(self, i: int, k: int, index: Tensor) -> Tensor:
        """Rows (n,) of what came to layer i of critic k, (n, width), until the next call."""
        x = self._inputs[i][k]  # (N, width)
        room = self._pick[: len(index) * x.shape[1]].view(len(index), x.shape[1])
        return torch.index_select(x, 0, index, out=room)

    def _make_room(self, rows: int) -> None:
        if self._lender is not None:
            self._outputs = self._lender._slopes
            return
        widths = [weight.shape[2] for weight in self._weights[:-1]]
        self._outputs = [torch.empty(2, rows, width) for width in widths]
        self._slopes = [torch.empty_like(room) for room in self._outputs]
        self._pick = torch.empty(rows * max(widths))


class SoftGradient:
    """What SAC's actor and critics learn from one minibatch.

    `draw`, then `critics`, then, with a step taken by the critics between them, `actor`: the order
    of the losses, each of which needs what the one before has computed.

    Args:
        actor: Whose parameters have gradients already.
        critic: Likewise.
        target: The critics that rate what follows.
        inputs: D, width of the features.
    """

    def __init__(self, actor: BoxActor, critic: TwinQ, target: TwinQ, *, inputs: int) -> None:
        self._pi = TowerGradient(actor.pi, actor.spec.activation)
        self._critic = TwinGradient(critic, inputs)
        self._target = TwinGradient(target, inputs, lender=self._critic)

    @torch.no_grad()
    def draw(self, features: Tensor, next_features: Tensor, noise: FloatArray) -> None:
        """Draws the actions that are taken in these states and in the next.

        Args:
            features: (N, D).
            next_features: (N, D).
            noise: (2 N, A) standard normals, those of the next states first.
        """
        count, width = len(features), noise.shape[1]
        self._features, self._next_features = features, next_features
        # One pass for both: the actor does not change before its own step.
        outputs = self._pi.forth(torch.cat((features, next_features))).numpy()  # (2 N, 2 A)
        self._noise = np.concatenate((noise[count:], noise[:count]))  # (2 N, A)
        self._log_std = outputs[:, width:]  # (2 N, A)
        cut = np.minimum(np.maximum(self._log_std, LOG_STD_RANGE[0]), LOG_STD_RANGE[1])
        self._scale = np.exp(cut)  # (2 N, A)
        before = outputs[:, :width] + self._scale * self._noise  # (2 N, A)
        # log(1 - tanh(u)^2), written so that it does not round to log(0) for large u.
        slope = 2.0 * (math.log(2.0) - before - np.logaddexp(np.float32(0.0), -2.0 * before))
        density = -0.5 * np.square(self._noise) - cut - 0.5 * LOG_2PI - slope  # (2 N, A)
        self._logp = density.sum(1)  # (2 N,)
        self._action = np.tanh(before)  # (2 N, A)

    @torch.no_grad()
    def critics(
        self, actions: Tensor, reward: FloatArray, discount: FloatArray, temperature: float
    ) -> tuple[float, float]:
        """Sets the gradient of the critics' parameters.

        Args:
            actions: (N, A), those taken.
            reward: (N,).
            discount: (N,), of what follows.
            temperature: Weight of the entropy.

        Returns:
            Loss and mean value.
        """
        count = len(reward)
        values = self._critic.forth(self._features, actions)  # (2, N)
        drawn = torch.from_numpy(self._action[count:])  # (N, A)
        rated = self._target.forth(self._next_features, drawn)  # (2, N)
        following = np.minimum(rated[0], rated[1]) - temperature * self._logp[count:]  # (N,)
        error = values - (reward + discount * following)  # (2, N)
        self._critic.back(error / count)
        return float(0.5 / count * np.vdot(error, error)), float(values.mean())

    @torch.no_grad()
    def actor(self, temperature: float) -> tuple[float, float]:
        """Sets the gradient of the actor's parameters.

        Args:
            temperature: Weight of the entropy.

        Returns:
            Loss and mean log-probability.
        """
        count = len(self._features)
        action, logp = self._action[:count], float(self._logp[:count].mean())  # (N, A), ()
        values = self._critic.forth(self._features, torch.from_numpy(action))  # (2, N)
        loss = temperature * logp - float(np.minimum(values[0], values[1]).mean())
        by_action = self._critic.by_actions(values, -1.0 / count)  # (N, A)
        weight = temperature / count
        log_std = self._log_std[:count]  # (N, A)
        within = (log_std >= LOG_STD_RANGE[0]) & (log_std <= LOG_STD_RANGE[1])  # (N, A)
        # The log-probability falls with log(1 - tanh(u)^2), whose slope is -2 tanh(u).
        by_before = 2.0 * weight * action + by_action * (1.0 - np.square(action))  # (N, A)
        drawn = self._scale[:count] * self._noise[:count]  # (N, A)
        by_log_std = (by_before * drawn - weight) * within  # (N, A)
        self._pi.back(torch.from_numpy(np.concatenate((by_before, by_log_std), 1)))
        return loss, logp
