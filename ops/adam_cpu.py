"""The compiled loop of Adam."""

from __future__ import annotations

import numpy as np

from ops import adam
from ops.compiling import kernel

BETA1, BETA2, EPS = (np.float32(x) for x in (adam.BETA1, adam.BETA2, adam.EPS))
REST1, REST2 = np.float32(1 - adam.BETA1), np.float32(1 - adam.BETA2)


@kernel
def update(value, grad, mean, square, rate, correction):
    """One step: ``rate`` holds the first bias correction, ``correction`` the root of the second."""
    for i in range(len(value)):
        g = grad[i]
        m = BETA1 * mean[i] + REST1 * g
        v = BETA2 * square[i] + REST2 * (g * g)
        mean[i] = m
        square[i] = v
        value[i] -= rate * m / (np.sqrt(v) * correction + EPS)
