"""SAC's gradients written out, beside autograd's: two critics at once, and a squashed Gaussian.

At a batch of 256 a step is sixteen products of 256 x 256 matrices; what autograd adds is pages that
are fresh in every step, and the gradients of critics that only pass something on. Here all lies in
memory that is kept. Tests hold it to autograd's own numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rostral_rl.heads import LOG_STD_RANGE
from rostral_rl.train.parts import dists
from rostral_rl.train.parts.direct import TowerGradient
from rostral_rl.train.parts.qnet import BoxActor, TwinQ

aten = torch.ops.aten


class TwinGradient:
    """Two critics, forth and back; the gradient goes to where their parameters' gradients lie.

    What lies between two layers is kept from call to call while the number of rows stays.

    Args:
        net: Whose parameters stay where they are, and have gradients if it shall learn.
        inputs: D, width of the features; the actions come after them.
    """

    def __init__(self, net: TwinQ, inputs: int) -> None:
        self._weights = [weight.detach() for weight in net.weights]  # (2, in, out)
        self._transposed = [weight.transpose(1, 2) for weight in self._weights]
        self._biases = [bias.detach() for bias in net.biases]  # (2, 1, out)
        self._gradients = [
            (weight.grad, bias.grad) for weight, bias in zip(net.weights, net.biases, strict=True)
        ]
        self._by_actions = self._transposed[0][:, :, inputs:]  # (2, H, A)
        self._inputs: list[Tensor] = []  # of each layer, (2, N, width)
        self._outputs: list[Tensor] = []  # of each layer, (2, N, width)
        self._slopes: list[Tensor] = []  # the loss's gradient by each layer's input but the first's

    def forth(self, features: Tensor, actions: Tensor) -> Tensor:
        """Features (N, D) and actions (N, A) to values (2, N), which the next call overwrites."""
        if not self._outputs or self._outputs[0].shape[1] != len(features):
            self._make_room(len(features))
        x = torch.cat((features, actions), 1).expand(2, -1, -1)  # (2, N, D + A)
        self._inputs.clear()
        layers = zip(self._weights, self._biases, self._outputs, strict=True)
        for i, (weight, bias, room) in enumerate(layers):
            if i:
                x = x.relu_()
            self._inputs.append(x)
            x = torch.baddbmm(bias, x, weight, out=room)
        return x[:, :, 0]

    def back(self, slope: Tensor) -> None:
        """The loss's gradient by the values (2, N), to that by the parameters."""
        slope = slope[:, :, None]  # (2, N, 1)
        for i in reversed(range(len(self._weights))):
            by_weight, by_bias = self._gradients[i]
            assert by_weight is not None and by_bias is not None
            torch.bmm(self._inputs[i].transpose(1, 2), slope, out=by_weight)
            torch.sum(slope, 1, keepdim=True, out=by_bias)
            if i:
                slope = self._through(i, slope)

    def by_actions(self, values: Tensor, scale: float) -> Tensor:
        """How `scale` times the sum of the smaller values changes with the actions, (N, A).

        Args:
            values: (2, N), as `forth` gave them last.
            scale: A number.
        """
        smaller = values[0] <= values[1]  # (N,)
        result = values.new_empty(len(smaller), self._by_actions.shape[2])  # (N, A)
        # A row's slope comes through one of the critics alone, so it goes back through that one.
        for k, mine in enumerate((smaller, ~smaller)):
            index = mine.nonzero()[:, 0]  # (n,)
            slope = self._weights[-1][k].t().mul(scale).expand(len(index), -1)  # (n, width)
            for i in reversed(range(1, len(self._weights))):
                slope = aten.threshold_backward(slope, self._inputs[i][k][index], 0)
                before = self._transposed[i - 1][k] if i > 1 else self._by_actions[k]
                slope = slope @ before
            result[index] = slope
        return result

    def _through(self, i: int, slope: Tensor) -> Tensor:
        """From layer i's outputs to the outputs of the one before, (2, N, width)."""
        room = self._slopes[i - 1]
        torch.bmm(slope, self._transposed[i], out=room)
        aten.threshold_backward.grad_input(room, self._inputs[i], 0, grad_input=room)
        return room

    def _make_room(self, rows: int) -> None:
        widths = [weight.shape[2] for weight in self._weights]
        self._outputs = [torch.empty(2, rows, width) for width in widths]
        self._slopes = [torch.empty_like(room) for room in self._outputs[:-1]]


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
        self._target = TwinGradient(target, inputs)

    @torch.no_grad()
    def draw(self, features: Tensor, next_features: Tensor, noise: Tensor) -> None:
        """Draws the actions that are taken in these states and in the next.

        Args:
            features: (N, D).
            next_features: (N, D).
            noise: (2 N, A) standard normals, those of the next states first.
        """
        count = len(features)
        self._features, self._next_features = features, next_features
        # One pass for both: the actor does not change before its own step.
        outputs = self._pi.forth(torch.cat((features, next_features)))  # (2 N, 2 A)
        noise = noise.roll(count, 0)
        self._action, self._logp = dists.squashed(outputs, noise)  # (2 N, A), (2 N,)
        self._outputs, self._noise = outputs[:count], noise[:count]

    @torch.no_grad()
    def critics(
        self, actions: Tensor, reward: Tensor, discount: Tensor, temperature: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sets the gradient of the critics' parameters.

        Args:
            actions: (N, A), those taken.
            reward: (N,).
            discount: (N,), of what follows.
            temperature: (), weight of the entropy.

        Returns:
            Loss () and mean value ().
        """
        count = len(reward)
        following = self._target.forth(self._next_features, self._action[count:]).amin(0)  # (N,)
        goal = reward + discount * (following - temperature * self._logp[count:])  # (N,)
        values = self._critic.forth(self._features, actions)  # (2, N)
        error = values - goal  # (2, N)
        self._critic.back(error / count)
        return 0.5 * error.square().mean(1).sum(), values.mean()

    @torch.no_grad()
    def actor(self, temperature: Tensor) -> tuple[Tensor, Tensor]:
        """Sets the gradient of the actor's parameters.

        Args:
            temperature: (), weight of the entropy.

        Returns:
            Loss () and mean log-probability ().
        """
        count, width = len(self._features), self._noise.shape[1]
        action, logp = self._action[:count], self._logp[:count]  # (N, A), (N,)
        values = self._critic.forth(self._features, action)  # (2, N)
        value = values.amin(0)  # (N,)
        loss = (temperature * logp - value).mean()
        by_action = self._critic.by_actions(values, -1.0 / count)  # (N, A)
        weight = temperature / count  # ()
        log_std = self._outputs[:, width:]  # (N, A)
        within = (log_std >= LOG_STD_RANGE[0]) & (log_std <= LOG_STD_RANGE[1])  # (N, A)
        scale = log_std.clamp(*LOG_STD_RANGE).exp()  # (N, A)
        # The log-probability falls with log(1 - tanh(u)^2), whose slope is -2 tanh(u).
        by_before = 2.0 * weight * action + by_action * (1.0 - action.square())  # (N, A)
        by_log_std = (by_before * scale * self._noise - weight) * within  # (N, A)
        self._pi.back(torch.cat((by_before, by_log_std), 1))
        return loss, logp.mean()
