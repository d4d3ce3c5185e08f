"""The loss with its gradient on the CPU, beside its twin and a matrix product of the same run."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks import common

SIZES = ((3, 300, 451), (3, 512, 512), (1, 512, 512), (3, 1080, 1920))


def main() -> dict[str, Any]:
    """Time loss and gradient at several sizes."""
    rows = []
    print("         picture  kernel ms    twin ms product ms  ratio")
    for shape in SIZES:
        row = _measure(shape)
        rows.append(row)
        print(
            f"{'×'.join(map(str, shape)):>16} {row['kernel']['median_ms']:10.2f} "
            f"{row['twin']['median_ms']:10.1f} {row['product']['median_ms']:10.2f} "
            f"{row['ratio']:6.2f}"
        )
    result = {"rows": rows}
    common.save("photometric_cpu", result)
    return result


def _measure(shape: tuple[int, ...]) -> dict[str, Any]:
    import torch

    from ops.photometric import PhotometricLoss, reference

    target = torch.rand(shape)
    image = (target + 0.1 * torch.randn(shape)).requires_grad_()
    loss = PhotometricLoss(target)

    def twin() -> None:
        reference.loss_terms(image, target, *loss.ratios)[0].backward()

    def kernel() -> None:
        image.grad = None
        loss(image).total.backward()

    seconds = {
        "kernel": common.timed(kernel, 30),
        "product": common.timed(common.matrix_product(), 10),
        "twin": common.timed(twin, 5, 1),
    }
    ratio = statistics.median(seconds["kernel"]) / statistics.median(seconds["product"])
    rows = {name: common.spread(values) for name, values in seconds.items()}
    return {"shape": list(shape), **rows, "ratio": round(ratio, 3)}


if __name__ == "__main__":
    main()
