"""The photometric loss with its gradient on the CPU, beside a matrix product and the reference."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import common
from ops.photometric import PhotometricLoss, reference, ssim

SIZES = [(3, 300, 451), (1, 512, 512), (3, 512, 512), (12, 512, 512), (3, 1080, 1920)]
ROUNDS = 25
CALLS = 4  # of one action in a row, in each round; the first does not count


def main() -> dict[str, Any]:
    """Time a training step's share of the loss at several sizes, print a table, write a file."""
    result: dict[str, Any] = {"torch_threads": torch.get_num_threads(), "rows": []}
    print(
        f"{'C×H×W':>14} {'loss ms':>8} {'min':>7} {'max':>7} {'product':>8} {'ratio':>6} "
        f"{'no grad':>8} {'L1 only':>8} {'metric':>7} {'reference':>10}"
    )
    for shape in SIZES:
        row = _measure(shape)
        result["rows"].append(row)
        loss = row["loss"]
        print(
            f"{'×'.join(map(str, shape)):>14} {loss['median_ms']:8.2f} {loss['min_ms']:7.2f} "
            f"{loss['max_ms']:7.2f} {row['product']['median_ms']:8.2f} {row['ratio']:6.3f} "
            f"{row['without_gradient']['median_ms']:8.2f} {row['l1_only']['median_ms']:8.2f} "
            f"{row['metric']['median_ms']:7.2f} {row['reference']['median_ms']:10.1f}"
        )
    common.save("photometric_cpu", result)
    return result


def _measure(shape: tuple[int, int, int]) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(shape, generator=generator)
    image = target + 0.1 * torch.randn(shape, generator=generator)
    loss = PhotometricLoss(target)
    seconds = _in_turn(
        {
            "loss": _step(loss, image),
            "product": common.matrix_product(),
            "without_gradient": lambda: loss(image),
            "l1_only": _step(PhotometricLoss(target, ssim_ratio=0.0), image),
            "metric": lambda: ssim(image, target),
        }
    )
    seconds["reference"] = common.timed(_reference_step(image, target), repeats=3, warm_up=1)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "shape": list(shape),
        "ratio": round(medians["loss"] / medians["product"], 4),
        "ratio_of_minima": round(min(seconds["loss"]) / min(seconds["product"]), 4),
        **{name: common.spread(values) for name, values in seconds.items()},
    }


def _in_turn(actions: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Time the actions in short runs by turns, so that a machine's drift hits all alike.

    The first call of a run does not count: threads left over by another library, which still
    wait for work, disturb it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(ROUNDS):
        for name, action in actions.items():
            seconds[name] += common.timed(action, CALLS - 1, warm_up=1)
    return seconds


def _step(loss: PhotometricLoss, image: Tensor) -> Callable[[], Any]:
    """Loss and gradient as a training step uses them."""
    leaf = image.detach().clone().requires_grad_()

    def step() -> None:
        leaf.grad = None
        loss(leaf).total.backward()

    return step


def _reference_step(image: Tensor, target: Tensor) -> Callable[[], Any]:
    leaf = image.detach().clone().requires_grad_()

    def step() -> None:
        leaf.grad = None
        total, *_ = reference.loss_terms(leaf, target, 1.0, 0.0, 0.1)
        total.backward()

    return step


if __name__ == "__main__":
    main()
