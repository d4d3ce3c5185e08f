"""The GPU kernels against the twin on the GPU itself: the tests, and a whole picture's gradients.

python -m benchmarks.gpu_parity
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from benchmarks import common

TESTS = ("splat2d_cuda", "photometric_cuda", "step_cuda", "memory", "machine", "faults")
SIZE, COUNT = 256, 3000


def main() -> dict[str, Any]:
    """Run the tests and compare one larger picture in float64."""
    result = {"tests": tests(), "picture": picture()}
    common.save("parity_gpu", result)
    print(result)
    return result


def tests() -> dict[str, int]:
    """Counts of the tests that use the GPU where there is one."""
    names = [f"tests/test_{name}.py" for name in TESTS]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-o", "filterwarnings=", *names]
        subprocess.run([*command, f"--junitxml={report}"], check=False)
        suite = ElementTree.parse(report).getroot().find("testsuite")
        counts = ("tests", "failures", "errors", "skipped")
        return {name: int(suite.get(name)) for name in counts}


def picture() -> dict[str, Any]:
    """Largest error of the image, and errors of the gradients relative by norm."""
    import torch

    from ops.photometric import PhotometricLoss
    from ops.photometric import reference as loss_reference
    from ops.splat2d import RasterConfig, reference, render

    seed = int(torch.seed() % 2**31)
    generator = torch.Generator().manual_seed(seed)
    parameters = [
        torch.rand(COUNT, 2, generator=generator),
        1 / (1 + 7 * torch.rand(COUNT, 2, generator=generator)),
        3 * torch.randn(COUNT, 1, generator=generator),
        torch.rand(COUNT, 3, generator=generator),
    ]
    target = torch.rand(3, SIZE, SIZE, generator=generator).cuda()
    fast = [p.cuda().requires_grad_() for p in parameters]
    slow = [p.cuda().double().requires_grad_() for p in parameters]
    image = render(*fast, SIZE, SIZE)
    PhotometricLoss(target)(image).total.backward()
    exact = reference.render(*slow, SIZE, SIZE, RasterConfig())
    loss_reference.loss_terms(exact, target.double(), 1.0, 0.0, 0.1)[0].backward()
    names = ("xy", "scale", "rot", "feat")
    return {
        "size": SIZE,
        "gaussians": COUNT,
        "seed": seed,
        "image": float((image.detach() - exact.detach()).abs().max()),
        **{
            name: float((a.grad - b.grad).norm() / b.grad.norm())
            for name, a, b in zip(names, fast, slow, strict=True)
        },
    }


if __name__ == "__main__":
    main()
