"""L1, L2 and SSIM as one differentiable loss, and SSIM as a metric.

``reference.py`` defines the values; ``cpu.py`` computes them fast for float32 tensors in main
memory, ``gpu.py`` for those on an NVIDIA GPU. Everything else (float64, other devices) is computed
by the reference. A backend is a module with the three functions that ``cpu.py`` offers, chosen in
``_backend``; it is imported when first used, so that importing this package compiles nothing.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ops.photometric import reference

__all__ = ["LossTerms", "PhotometricLoss", "ssim", "ssim_map", "ssim_sum"]

MAX_CHANNELS = 32
DTYPES = (torch.float32, torch.float64)


class LossTerms(NamedTuple):
    """What a loss is made of: scalars of the image's dtype, on its device.

    Of a band of rows, each is the band's contribution to that of the picture: they add up.

    Attributes
    ----------
    total : l1_ratio · l1 + l2_ratio · l2 + ssim_ratio · (1 - ssim); it carries the gradient. Of a
        band, the 1 is its share of the picture, counted values / numel.
    l1 : mean |x - y|, detached.
    l2 : mean (x - y)², detached.
    ssim : mean SSIM, detached; NaN where ssim_ratio is 0, because it is then not computed.
    """

    total: Tensor
    l1: Tensor
    l2: Tensor
    ssim: Tensor


class PhotometricLoss:
    """Compare images with one target: L1, L2 and SSIM, weighted and summed.

    SSIM (Wang et al. 2004) uses an 11×11 Gaussian window of σ 1.5 px, zeros outside the picture,
    C1 = 0.01², C2 = 0.03² and a data range of 1. Means are over all pixels and channels.

    A picture may be compared in bands, one in memory at a time. The target of the band [r0, r1) of
    the rows of a picture is then its window [a, b), a = max(r0 - 5, 0) and b = min(r1 + 5, H),
    ``counted`` is (r0 - a, r1 - a) and ``numel`` C · H · W. Terms and gradients of all bands add
    up to those of the picture. The gradient of a band is that by all rows of its window: SSIM at
    the counted rows depends on up to 5 others on each side.

    Parameters
    ----------
    target : (C, H, W) float32 or float64 tensor, 1 ≤ C ≤ 32, values nominally in [0, 1]. What
        depends on it alone is computed once, here: do not change it afterwards.
    l1_ratio, l2_ratio, ssim_ratio : weights of the terms. With ssim_ratio 0, SSIM costs nothing.
    counted : first and one past the last row of the target whose pixels the means are over; None
        is all. The other rows are only neighbours to SSIM; beyond the target, it sees zeros.
    numel : what the sums over the counted pixels and channels are divided by, at least 1; None is
        their number.

    Raises
    ------
    ValueError
        If the target's shape or dtype is not one of these, it has no such rows, or numel is not
        positive.
    """

    def __init__(
        self,
        target: Tensor,
        *,
        l1_ratio: float = 1.0,
        l2_ratio: float = 0.0,
        ssim_ratio: float = 0.1,
        counted: tuple[int, int] | None = None,
        numel: int | None = None,
    ) -> None:
        _check_picture("target", target)
        channels, height, width = target.shape
        self.target = target.detach().contiguous()
        self.ratios = (l1_ratio, l2_ratio, ssim_ratio)
        self.counted = _check_counted(counted, height)
        values = channels * (self.counted[1] - self.counted[0]) * width
        self.numel = values if numel is None else numel
        if self.numel < 1:
            raise ValueError(f"numel must be at least 1; found {numel}")
        self._share = values / self.numel
        self._statistics: Any = None  # the backend's own, handed back to it unread
        backend = _backend(self.target)
        if backend is not None and ssim_ratio != 0:
            self._statistics = backend.target_statistics(self.target, self.counted)

    def __call__(self, image: Tensor) -> LossTerms:
        """Return the loss of an image; its gradient, if needed, is computed at the same time.

        Parameters
        ----------
        image : tensor of the target's shape, dtype and device, of any range and layout. NaN in
            it makes the loss NaN. The gradient of |x - y| where x = y is taken as 0. The fast
            backends can be differentiated once, the reference any number of times.

        Raises
        ------
        ValueError
            If shape, dtype or device differ from the target's.
        """
        _check_same_kind(image, self.target)
        if _backend(self.target) is None:
            total, *parts = reference.loss_terms(
                image, self.target, *self.ratios, self.counted, self.numel
            )
            return LossTerms(total, *(part.detach() for part in parts))
        if image.requires_grad and torch.is_grad_enabled():
            return LossTerms(*_FusedLoss.apply(image, self))
        means, _ = self._evaluate(image, wants_gradient=False)
        return self._weigh(means, image)

    def _evaluate(self, image: Tensor, wants_gradient: bool) -> tuple[Any, Tensor | None]:
        return _backend(image).means_and_gradient(
            image.detach().contiguous(),
            self.target,
            self._statistics,
            self.ratios,
            self.counted,
            self.numel,
            wants_gradient,
        )

    def _weigh(self, means: tuple[float, float, float], image: Tensor) -> LossTerms:
        l1, l2, similarity = means
        l1_ratio, l2_ratio, ssim_ratio = self.ratios
        total = l1_ratio * l1 + l2_ratio * l2
        if ssim_ratio != 0:
            total += ssim_ratio * (self._share - similarity)
        return LossTerms(*(image.new_tensor(value) for value in (total, l1, l2, similarity)))


def ssim(image: Tensor, target: Tensor) -> Tensor:
    """Return the mean structural similarity of two pictures: a metric, not differentiable.

    Parameters
    ----------
    image, target : (C, H, W) tensors of one shape, dtype (float32 or float64) and device,
        1 ≤ C ≤ 32, values nominally in [0, 1].

    Returns
    -------
    Scalar tensor of their dtype, in [-1, 1]; 1 where the pictures are equal. For the definition
    see `PhotometricLoss`.

    Raises
    ------
    ValueError
        If a shape or dtype is not allowed, or the two pictures differ in theirs.
    """
    with torch.no_grad():
        return PhotometricLoss(target, l1_ratio=0.0, ssim_ratio=1.0)(image).ssim


def ssim_sum(image: Tensor, target: Tensor, counted: tuple[int, int] | None = None) -> Tensor:
    """Return the sum of `ssim_map` over the counted rows: for `ssim` of a picture in bands.

    The sums of the bands, divided by C · H · W, add up to the picture's `ssim`.

    Parameters
    ----------
    image, target : two windows of rows, (C, H, W), as those that `ssim` takes.
    counted : first and one past the last of their rows to sum over; None is all. For a band's
        window see `PhotometricLoss`.

    Returns
    -------
    Scalar tensor of their dtype.

    Raises
    ------
    ValueError
        Where `ssim` does, or if there are no such rows.
    """
    loss = PhotometricLoss(target, l1_ratio=0.0, ssim_ratio=1.0, counted=counted, numel=1)
    with torch.no_grad():
        return loss(image).ssim


def ssim_map(image: Tensor, target: Tensor) -> Tensor:
    """Return the structural similarity at every pixel, (C, H, W); see `ssim`."""
    _check_picture("target", target)
    _check_same_kind(image, target)
    image, target = image.detach().contiguous(), target.detach().contiguous()
    backend = _backend(target)
    if backend is None:
        return reference.ssim_map(image, target)
    return backend.ssim_map(image, target, backend.target_statistics(target, (0, target.shape[1])))


class _FusedLoss(torch.autograd.Function):
    """Ties the gradient that a backend computed with the loss into autograd."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, loss: PhotometricLoss) -> LossTerms:
        means, gradient = loss._evaluate(image, wants_gradient=True)
        ctx.save_for_backward(gradient)
        ctx.set_materialize_grads(False)
        terms = loss._weigh(means, image)
        ctx.mark_non_differentiable(*terms[1:])
        return terms

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor | None, *_: None) -> tuple[Tensor | None, None]:
        if grad_total is None:
            return None, None
        (gradient,) = ctx.saved_tensors
        # The usual case needs no copy of the size of a picture.
        return gradient if grad_total == 1 else grad_total * gradient, None


def _backend(tensor: Tensor) -> ModuleType | None:
    """Return the module of fast kernels for a tensor, or None where there is the reference only."""
    if tensor.device.type == "cpu" and tensor.dtype == torch.float32:
        from ops.photometric import cpu

        return cpu
    if tensor.device.type == "cuda" and tensor.dtype == torch.float32:
        from ops.photometric import gpu

        return gpu
    return None


def _check_picture(name: str, picture: Tensor) -> None:
    shape = tuple(picture.shape)
    if len(shape) != 3 or not 1 <= shape[0] <= MAX_CHANNELS or math.prod(shape) == 0:
        raise ValueError(
            f"{name} must have the shape (C, H, W) with C from 1 to {MAX_CHANNELS} and at least "
            f"one pixel; found {shape}"
        )
    if picture.dtype not in DTYPES:
        allowed = " or ".join(map(str, DTYPES))
        raise ValueError(f"{name} must be a {allowed} tensor; found {picture.dtype}")


def _check_counted(counted: tuple[int, int] | None, height: int) -> tuple[int, int]:
    counted = (0, height) if counted is None else tuple(counted)
    if len(counted) != 2 or not 0 <= counted[0] < counted[1] <= height:
        raise ValueError(
            f"counted must be (first, end) with 0 <= first < end <= {height}, the target's rows; "
            f"found {counted}"
        )
    return counted


def _check_same_kind(image: Tensor, target: Tensor) -> None:
    for what in ("shape", "dtype", "device"):
        found, wanted = getattr(image, what), getattr(target, what)
        if found != wanted:
            raise ValueError(f"image must have the target's {what}, {wanted}; found {found}")
