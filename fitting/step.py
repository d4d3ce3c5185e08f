"""What the trainer asks of a device: measure where it is, and do some steps."""

from __future__ import annotations

import math
import time
from typing import NamedTuple, Protocol

from torch import Tensor

from fitting.bands import Band, band_rows, bands
from fitting.faults import diverged
from fitting.gaussians import Gaussians
from ops.adam import Adam
from ops.photometric import LossTerms, PhotometricLoss
from ops.planes import Rows
from settings import Settings

STRETCH_SECONDS = 0.2  # of steps between two signs of life


class Measured(NamedTuple):
    """The loss of the Gaussians as they are.

    Attributes
    ----------
    total, l1, l2, ssim : as in :class:`ops.photometric.LossTerms`.
    seconds : spent drawing, so far as it was not counted before.
    image : (C, H, W) as drawn, where it was kept.
    """

    total: float
    l1: float
    l2: float
    ssim: float
    seconds: float
    image: Tensor | None = None


class Step(Protocol):
    """Trains a run's Gaussians in place, and counts their steps."""

    def measure(self) -> Measured:
        """The loss now; a :class:`DivergedError` where it or a parameter is not finite."""

    def advance(self, steps: int) -> float:
        """Do at least one step and at most so many, about ``STRETCH_SECONDS`` of them.

        Returns the seconds spent drawing. Raises a :class:`DivergedError` as :meth:`measure` does.
        """

    def stored(self, rows: Rows) -> Tensor | None:
        """Rows of the fitted picture exactly as they were read, (C, r, W), if near the device."""

    def close(self) -> None:
        """Free the device's memory; the Gaussians stay. Nothing else may be called after it."""


def make_step(settings: Settings, gaussians: Gaussians, pixels: Tensor, optimizer: Adam) -> Step:
    """How to train Gaussians where they are.

    Parameters
    ----------
    pixels : (C, H, W) float32 on the CPU: the picture to fit.
    optimizer : keeps its state where the Gaussians are.
    """
    if not gaussians.xy.is_cuda:
        return CpuStep(settings, gaussians, pixels, optimizer)
    from fitting.step_cuda import CudaStep

    graph = settings.use_cuda_graph
    return CudaStep(settings, gaussians, pixels, optimizer, graph=graph)


class CpuStep:
    """Steps on the CPU by autograd: draw, compare, differentiate, update.

    With ``use_gradient_checkpointing`` the picture is handled in bands of rows: each is drawn,
    compared and differentiated before the next, so that nothing is as large as the picture.
    """

    def __init__(self, settings: Settings, gaussians: Gaussians, pixels: Tensor, optimizer: Adam):
        self.settings, self.gaussians, self.optimizer = settings, gaussians, optimizer
        self.pixels = pixels
        self._ratios = {
            "l1_ratio": settings.l1_loss_ratio,
            "l2_ratio": settings.l2_loss_ratio,
            "ssim_ratio": settings.ssim_loss_ratio,
        }
        channels, height, width = pixels.shape
        self._bands: list[Band] = []
        self._loss: PhotometricLoss | None = None
        if settings.use_gradient_checkpointing:
            self._bands = list(bands(height, band_rows(channels, width)))
        else:
            self._loss = PhotometricLoss(pixels, **self._ratios)
        self._total: Tensor | None = None  # carries the gradient of what was measured last
        self._measured: Measured | None = None  # at this very step

    def measure(self) -> Measured:
        """See :class:`Step`. The next step goes on from the picture drawn here."""
        self._measured = self._in_bands() if self._bands else self._whole()
        self._check(self._measured)
        return self._measured

    def advance(self, steps: int) -> float:
        """See :class:`Step`."""
        begun, drawing = time.perf_counter(), 0.0
        for _ in range(steps):
            if self._measured is None:
                drawing += self.measure().seconds
            if self._total is not None:
                self._total.backward()
            self._measured = self._total = None
            self.optimizer.update(self.gaussians.tensors())
            self.gaussians.step += 1
            if time.perf_counter() - begun > STRETCH_SECONDS:
                break
        return drawing

    def stored(self, rows: Rows) -> Tensor:
        """See :class:`Step`."""
        return self.pixels[:, rows.first : rows.end]

    def close(self) -> None:
        """See :class:`Step`."""
        self._measured = self._total = None

    def _whole(self) -> Measured:
        begun = time.perf_counter()
        image = self.gaussians.draw()
        seconds = time.perf_counter() - begun
        terms = self._loss(image)
        self._total = terms.total
        return Measured(*(term.item() for term in terms), seconds, image.detach())

    def _in_bands(self) -> Measured:
        """Add up the bands' terms, and their gradients in the parameters' ``grad``."""
        for tensor in self.gaussians.tensors().values():
            tensor.grad = None
        sums, seconds = [0.0] * len(LossTerms._fields), 0.0
        for band in self._bands:
            begun = time.perf_counter()
            image = self.gaussians.draw(rows=band.window)
            seconds += time.perf_counter() - begun
            loss = PhotometricLoss(
                self.stored(Rows(*band.window)), **self._ratios,
                counted=band.counted, numel=self.pixels.numel(),
            )  # fmt: skip
            terms = loss(image)
            terms.total.backward()
            sums = [value + term.item() for value, term in zip(sums, terms, strict=True)]
        return Measured(*sums, seconds)

    def _check(self, measured: Measured) -> None:
        """Stop a run whose loss or parameters are no longer numbers, and say which."""
        bad = [n for n, t in self.gaussians.tensors().items() if not bool(t.isfinite().all())]
        if bad or not math.isfinite(measured.total):
            raise diverged(self.gaussians.step, bad, self.settings, gpu=False)
