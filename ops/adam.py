"""Adam for a handful of small tensors that may grow while they are optimised.

One serial compiled loop per tensor: with thousands of values, waking threads costs more than the
arithmetic. Growing keeps the moments of what was there already.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


class Adam:
    """Adam (Kingma and Ba 2015) with a learning rate per named tensor.

    Parameters
    ----------
    rates : learning rate per name.

    Attributes
    ----------
    moments : per name, the running means of the gradient and of its square.
    steps : updates so far.
    """

    def __init__(self, rates: Mapping[str, float]):
        self.rates = dict(rates)
        self.moments: dict[str, tuple[Tensor, Tensor]] = {}
        self.steps = 0

    @torch.no_grad()
    def update(self, tensors: Mapping[str, Tensor]) -> None:
        """Move every tensor against its ``grad``, in place, and forget the gradient."""
        self.steps += 1
        for name, tensor in tensors.items():
            if tensor.grad is None:
                continue
            if name not in self.moments:
                self.moments[name] = torch.zeros_like(tensor), torch.zeros_like(tensor)
            mean, square = self.moments[name]
            self._apply(tensor.data, tensor.grad, mean, square, self.rates[name])
            tensor.grad = None

    def _apply(self, value: Tensor, grad: Tensor, mean: Tensor, square: Tensor, rate: float):
        from ops.adam_cpu import update

        flat = [t.view(-1).numpy() for t in (value, grad.contiguous(), mean, square)]
        correction = (1 - BETA2**self.steps) ** 0.5
        update(*flat, np.float32(rate / (1 - BETA1**self.steps)), np.float32(1 / correction))

    def divide_rates(self, ratio: float) -> None:
        """Divide all learning rates."""
        self.rates = {name: rate / ratio for name, rate in self.rates.items()}

    def replace(self, name: str, moved: np.ndarray, added: int) -> None:
        """Forget the moments of the rows ``moved``, and make room for ``added`` rows at the end."""
        if name in self.moments:
            self.moments[name] = tuple(
                extend(moment, moved, moment.new_zeros(len(moved) + added, *moment.shape[1:]))
                for moment in self.moments[name]
            )


def extend(values: Tensor, moved: np.ndarray, fresh: Tensor) -> Tensor:
    """A copy with the rows ``moved`` replaced by the first fresh rows, the others at the end."""
    values, fresh = values.detach().clone(), fresh.to(values.device)
    values[moved] = fresh[: len(moved)]
    return torch.cat([values, fresh[len(moved) :]])
