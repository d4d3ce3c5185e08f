"""Small model files and checkpoints of a real training, and such with odd facts in them."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fitting import checkpoints
from fitting.gaussians import Gaussians
from model import GaussianSplatting2D
from settings import Settings

ODD = (
    None, True, False, -1, 0, 1, 3, 2**31, 2**62, 10**30, -0.5, 1e300, math.nan, math.inf, "", "a",
    "../../x", "a\0b", "/etc/passwd", "x" * 300, [], [1], [3, 3], ["a", "b"], {}, {"a": 1}, (),
    torch.zeros(0), torch.zeros(3), torch.zeros(2, 2), torch.full((5, 2), math.nan),
    torch.full((5, 2), 1e38), torch.zeros(5, 2, dtype=torch.int64), torch.zeros(5, 3).double(),
    torch.zeros(1).expand(10**9), torch.zeros(5, 2).to_sparse(), torch.zeros(5, 2, device="meta"),
    torch.quantize_per_tensor(torch.zeros(5, 2), 0.1, 0, torch.quint8), torch.zeros(1, 2).half(),
    torch.nn.Parameter(torch.zeros(5, 2)), torch.zeros(5, 2, dtype=torch.complex64),
)  # fmt: skip


def trained(
    rng: np.random.Generator, folder: Path
) -> tuple[GaussianSplatting2D, dict[str, list[bytes]]]:
    """A run of two steps, and its files: models of one picture and of a stack, a checkpoint."""
    Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).save(folder / "a.png")
    settings = Settings.build(
        input_filename=str(folder / "a.png"), gaussians=5, steps=2, device="cpu", eval_steps=1
    )
    run = GaussianSplatting2D(settings, folder / "run")
    checkpoints.resume_folder(run.folder).mkdir(parents=True)
    for _ in run.optimize():
        pass
    place = checkpoints.resume_folder(run.folder)
    place.mkdir(parents=True, exist_ok=True)
    checkpoint = checkpoints._save(run, place)
    whole = [run.folder / "model.pt", _stack(run.gaussians, folder / "stack.pt")]
    samples = {
        "model": [path.read_bytes() for path in whole],
        "checkpoint": [checkpoint.read_bytes()],
    }
    return run, samples


def _stack(gaussians: Gaussians, path: Path) -> Path:
    """The same as two pictures, a coloured and a grey one."""
    feat = torch.cat([gaussians.feat.detach(), torch.rand(len(gaussians), 1)], dim=1)
    values = vars(gaussians) | {"feat": feat, "channels": (3, 1), "names": ("a", "b.c ü")}
    Gaussians(**values).save(path)
    return path


def odd_facts(rng: np.random.Generator, data: bytes) -> bytes:
    """A model file whose facts are of another kind, too large, or missing."""
    content = torch.load(io.BytesIO(data), weights_only=True)
    for _ in range(rng.integers(1, 3)):
        _change(rng, content)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _change(rng: np.random.Generator, content: dict[str, Any]) -> None:
    """Change one entry, of the dict or of one that is in it."""
    inner = [value for value in content.values() if isinstance(value, dict) and value]
    if inner and rng.integers(2):
        _change(rng, inner[rng.integers(len(inner))])
        return
    name = list(content)[rng.integers(len(content))]
    odd, way = ODD[rng.integers(len(ODD))], rng.integers(8)
    if way == 0:
        del content[name]
    elif way == 1 and _is_plain(content[name]):
        content[name] = content[name] * float(rng.choice([1e30, -1e10, 0, 1e-40, math.nan]))
    elif way == 2 and isinstance(content[name], list) and content[name]:
        content[name][rng.integers(len(content[name]))] = odd
    else:
        content[name] = odd


def _is_plain(value: Any) -> bool:
    """Whether it is a tensor of a few numbers."""
    return isinstance(value, torch.Tensor) and value.dtype == torch.float32 and value.numel() < 100
