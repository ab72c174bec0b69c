"""A small policy to serve."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from rostral_rl import forward
from rostral_rl.policy import Policy, PolicyInfo

POLICY = Policy(
    observation_space=spaces.Box(-np.inf, np.inf, (2,), np.float32),
    action_space=spaces.Discrete(2),
    spec=forward.NetSpec(inputs=2, hidden=(), outputs=2, activation="tanh", head="categorical"),
    weights={
        "pi.0.weight": np.array([[-1.0, 1.0], [0.0, 0.0]], np.float32),
        "pi.0.bias": np.zeros(2, np.float32),
    },
    info=PolicyInfo(algorithm="ppo", version=7),
)
