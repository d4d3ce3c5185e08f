"""LPIPS v0.1 with AlexNet features, in plain torch, from a weights file that the user supplies.

Source: Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features as
a Perceptual Metric", CVPR 2018; features of Krizhevsky, "One weird trick for parallelizing
convolutional neural networks", 2014. Nothing is ever downloaded, and nothing is unpickled.

A state dict (`.pt` or `.pth`), or two that together hold these keys, is accepted:

=============================================  ==================================  ==============
features, as in torchvision's `alexnet`         the same in `lpips.LPIPS`            shape of weight
=============================================  ==================================  ==============
features.0.weight, features.0.bias             net.slice1.0.weight, ...bias        (64, 3, 11, 11)
features.3.weight, features.3.bias             net.slice2.3.weight, ...bias        (192, 64, 5, 5)
features.6.weight, features.6.bias             net.slice3.6.weight, ...bias        (384, 192, 3, 3)
features.8.weight, features.8.bias             net.slice4.8.weight, ...bias        (256, 384, 3, 3)
features.10.weight, features.10.bias           net.slice5.10.weight, ...bias       (256, 256, 3, 3)
lin0.model.1.weight ... lin4.model.1.weight    the same (lpips's `v0.1/alex.pth`)   (1, C, 1, 1)
=============================================  ==================================  ==============

Other keys, such as AlexNet's classifier, are left aside.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

ENVIRONMENT_VARIABLE = "SPLATBOOK_LPIPS_WEIGHTS"
MIN_SIDE = 31  # below, the second pooling has nothing left to pool

# (index in `features`, in channels, out channels, kernel, stride, padding)
_CONVOLUTIONS = (
    (0, 3, 64, 11, 4, 2),
    (3, 64, 192, 5, 1, 2),
    (6, 192, 384, 3, 1, 1),
    (8, 384, 256, 3, 1, 1),
    (10, 256, 256, 3, 1, 1),
)
_POOLED_BEFORE = (3, 6)
# ImageNet's mean and standard deviation for inputs in [-1, 1], as rounded in LPIPS v0.1.
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)

_KEY = re.compile(r"^(?:features|net\.slice[1-5])\.(\d+)\.(weight|bias)$")


class WeightsError(ValueError):
    """LPIPS weights are missing or unsuitable; the message says which and what to do."""


class PictureTooSmall(ValueError):
    """AlexNet's strides leave nothing of a picture as small as this."""


@dataclass(frozen=True, eq=False)
class Lpips:
    """The metric with its weights. Callable on two (1 | 3, H, W) pictures in [0, 1]."""

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    heads: tuple[Tensor, ...]

    @torch.no_grad()
    def __call__(self, image: Float[Tensor, "c H W"], target: Float[Tensor, "c H W"]) -> float:
        """Distance d(image, target) >= 0, averaged over pixels; 0 for equal pictures.

        d = sum over layers l of mean over pixels of w_l · (f_l(image) - f_l(target))², with f_l
        the activations divided by their length across channels (Zhang et al. 2018, eq. 1).
        """
        if min(image.shape[1:]) < MIN_SIDE:
            height, width = image.shape[1:]
            raise PictureTooSmall(
                f"LPIPS needs at least {MIN_SIDE} px on both sides; the picture has "
                f"{width} × {height}"
            )
        total = 0.0
        pairs = zip(self._features(image), self._features(target), self.heads, strict=True)
        for ours, theirs, head in pairs:
            distance = (_unit(ours) - _unit(theirs)).square()
            total += float((distance * head.to(distance)).sum(1).mean(dtype=torch.float64))
        return total

    def _features(self, image: Float[Tensor, "c H W"]) -> list[Tensor]:
        """The five rectified convolutions of AlexNet, (1, C_l, H_l, W_l) each."""
        # On a GPU, float32 convolutions may be rounded to TF32; float64 ones are not.
        image = image.double() if image.is_cuda else image.float()
        shift, scale = image.new_tensor([_SHIFT, _SCALE]).view(2, 3, 1, 1)
        x = (2 * image.expand(3, -1, -1) - 1 - shift)[None] / scale
        features = []
        for (index, _, _, _, stride, padding), weight, bias in zip(
            _CONVOLUTIONS, self.weights, self.biases, strict=True
        ):
            if index in _POOLED_BEFORE:
                x = F.max_pool2d(x, kernel_size=3, stride=2)
            x = F.conv2d(x, weight.to(x), bias.to(x), stride, padding).relu()
            features.append(x)
        return features


def _unit(features: Tensor) -> Tensor:
    length = features.square().sum(1, keepdim=True).sqrt()
    return features / (length + 1e-10)


def weights_paths(
    given: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
) -> list[Path]:
    """The weights files asked for: the argument, or else the environment variable's, or none.

    The variable holds one path, or several separated like those of PATH.
    """
    if given is None:
        given = [p for p in os.environ.get(ENVIRONMENT_VARIABLE, "").split(os.pathsep) if p]
    given = [given] if isinstance(given, str | os.PathLike) else given
    return [Path(path).expanduser() for path in given]


def load_lpips(paths: Sequence[Path]) -> Lpips:
    """Read the weights from one file, or from several that complete each other.

    Raises
    ------
    WeightsError : if a file is missing or no state dict, or a weight is missing, of a wrong
        shape or not finite.
    """
    state: dict[str, Tensor] = {}
    for path in paths:
        state |= _renamed(_read_state(path))
    names = ", ".join(map(str, paths))
    weights, biases, heads = [], [], []
    for layer, (index, inputs, outputs, kernel, _, _) in enumerate(_CONVOLUTIONS):
        shape = (outputs, inputs, kernel, kernel)
        weights.append(_take(state, f"features.{index}.weight", shape, names))
        biases.append(_take(state, f"features.{index}.bias", (outputs,), names))
        heads.append(_take(state, f"lin{layer}.model.1.weight", (1, outputs, 1, 1), names))
    return Lpips(tuple(weights), tuple(biases), tuple(heads))


def _read_state(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise WeightsError(f"{path}: no such LPIPS weights file. Check the path.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load meets foreign files with errors of many classes
        raise WeightsError(
            f"{path}: not readable as a state dict of tensors ({type(error).__name__}). "
            "Save one with torch.save(model.state_dict(), path)."
        ) from error
    if not isinstance(state, Mapping):
        raise WeightsError(f"{path}: holds a {type(state).__name__}, not a state dict.")
    return state


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {_KEY.sub(r"features.\1.\2", str(key)): value for key, value in state.items()}


def _take(state: Mapping[str, Tensor], key: str, shape: tuple[int, ...], names: str) -> Tensor:
    value = state.get(key)
    if not isinstance(value, Tensor):
        raise WeightsError(
            f"{names}: the LPIPS weight '{key}' is missing. Give torchvision's alexnet state dict "
            "and the lpips package's v0.1/alex.pth, as two paths or merged in one file."
        )
    if tuple(value.shape) != shape or not value.isfinite().all():
        raise WeightsError(
            f"{names}: the LPIPS weight '{key}' has the shape {tuple(value.shape)} or values that "
            f"are not finite; needed are finite values of shape {shape}. Give AlexNet's weights."
        )
    return value.detach().float()
