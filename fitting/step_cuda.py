"""Training steps on the GPU: draw, compare, differentiate and update without waiting for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import torch
import triton
from torch import Tensor

from fitting.bands import Band, band_rows, bands
from fitting.faults import diverged
from fitting.gaussians import NAMES, Gaussians, raster_config
from fitting.step import STRETCH_SECONDS, Measured
from ops.adam import Adam
from ops.flags import FEAT, LOSS, OVERFLOW, ROT, SCALE, XY
from ops.photometric.cuda import FusedLoss
from ops.photometric.cuda_kernels import FIXED_POINT
from ops.planes import Rows, planes, shortened
from ops.splat2d import cuda_step
from ops.splat2d.cuda import Parameters, Rasterizer
from settings import Settings

BAND_ROWS = 512
CROWDED = 3  # Gaussians that reach a pixel on average, from which on small tiles are faster
PIXELS_REACHED = 1810  # by a Gaussian of 5 px as far as the weight at which it is cut
UPDATED = 32  # Gaussians that one program updates
MOST_GROWTHS = 20  # each makes half as much again, and there are two lists
PARAMETER_FLAGS = dict(zip(NAMES, (XY, SCALE, ROT, FEAT), strict=True))

_capturing = threading.Lock()  # torch records one graph at a time in a process


def stored_kind(pixels: Tensor, half: bool) -> torch.dtype:
    """How a picture (C, H, W) is kept on the GPU.

    8 bits where all values are k/255. Else half precision if allowed, which is wrong by 1/4096 at
    most: a sixteenth of a step of 8 bits.
    """
    for part in _parts(pixels):
        if not torch.equal(part.mul(255).round_().div_(255), part):
            return torch.float16 if half else torch.float32
    return torch.uint8


def _parts(pixels: Tensor) -> Iterator[Tensor]:
    channels, _, width = pixels.shape
    return iter(pixels.split(band_rows(channels, width), dim=1))


class Buffers:
    """The memory of a training step, from shapes alone; ``fitting.memory`` counts it.

    Parameters
    ----------
    count : N.
    shape : (C, H, W) of the picture.
    kind : dtype of the picture on the GPU.
    device : ``meta`` allocates nothing.
    """

    def __init__(
        self, settings: Settings, count: int, shape: tuple[int, int, int], kind: torch.dtype,
        device: torch.device | str,
    ):  # fmt: skip
        channels, height, width = shape
        half = settings.use_amp
        between = torch.float16 if half else torch.float32
        config = raster_config(settings)
        crowded = count * PIXELS_REACHED > CROWDED * height * width
        config = replace(config, tile=8 if crowded else 16)
        size = BAND_ROWS if settings.use_gradient_checkpointing else height
        self.bands: list[Band] = list(bands(height, size, config.tile))
        rows = max(band.rows for band in self.bands)
        self.flags = torch.zeros(1, dtype=torch.int32, device=device)
        self.progress = torch.zeros(2, dtype=torch.int32, device=device)
        self.rates = torch.zeros(len(NAMES), device=device)
        self.one = torch.ones(1, device=device)
        self.target = planes(channels, height, width, kind, device)
        self.painter = Rasterizer(
            count, channels, height, width, rows, config,
            memory=planes(channels, rows, width, between, device),
            guess=config.blending == "normalized", flags=self.flags,
        )  # fmt: skip
        ratios = (settings.l1_loss_ratio, settings.l2_loss_ratio, settings.ssim_loss_ratio)
        self.loss = FusedLoss(channels, rows, width, ratios, half=half, flags=self.flags)
        most = max(len(band.differs) for band in self.bands)
        self.grad = planes(channels, most, width, between, device)

    def tensors(self) -> Iterator[Tensor]:
        """All memory there is; several of them may share some."""
        for part in (self, self.painter, self.loss):
            yield from (value for value in vars(part).values() if isinstance(value, Tensor))


class CudaStep(Buffers):
    """Steps on the GPU, replayed as one graph of kernels; see :class:`fitting.step.Step`.

    Nothing waits for the GPU within a stretch of steps. Kernels report trouble in ``flags``; from
    then on steps change nothing, and ``progress`` says which was the last one counted.

    Parameters
    ----------
    pixels : (C, H, W) float32 picture to fit, on the CPU.
    optimizer : its moments are moved to the device; its rates may change between stretches.
    graph : whether to replay a graph; without it, each kernel is launched by itself.
    """

    def __init__(
        self, settings: Settings, gaussians: Gaussians, pixels: Tensor, optimizer: Adam,
        *, graph: bool = True, device: torch.device | str = "cuda",
    ):  # fmt: skip
        kind = stored_kind(pixels, settings.use_amp)
        super().__init__(settings, len(gaussians), tuple(pixels.shape), kind, device)
        self.settings, self.gaussians, self.optimizer = settings, gaussians, optimizer
        self.numel = pixels.numel()
        self._upload(pixels)
        self._place_moments()
        self.progress[0] = optimizer.steps
        self._known_rates: dict[str, float] = {}
        self._wants_graph = graph
        self._compiled = False  # an eager step must come before a graph of it
        self.graph: torch.cuda.CUDAGraph | None = None
        self._pace = 1  # steps in a stretch
        self._drawing: float | None = None  # seconds that drawing the picture once takes

    def measure(self) -> Measured:
        """See :class:`fitting.step.Step`."""
        with torch.no_grad():
            while True:
                self.loss.sums.zero_()
                shown = self._project()
                for band in self.bands:
                    image = self.painter.draw(shown, band.top, band.rows)
                    self._compare(band, image, None)
                flags = int(self.flags)
                if not flags & OVERFLOW:
                    break
                self._make_room()
            if flags:
                raise self._diverged(flags)
            self._drawing = self._time_drawing(shown)
            self.flags.zero_()
        l1, l2, ssim = self.losses()
        s = self.settings
        total = s.l1_loss_ratio * l1 + s.l2_loss_ratio * l2
        if s.ssim_loss_ratio:
            total += s.ssim_loss_ratio * (1 - ssim)
        return Measured(total, l1, l2, ssim if s.ssim_loss_ratio else float("nan"), 0.0)

    def advance(self, steps: int) -> float:
        """See :class:`fitting.step.Step`. The seconds are those of one drawing times the steps."""
        if self._drawing is None:
            self.measure()
        self._send_rates()
        done = min(steps, self._pace)
        begun = time.perf_counter()
        self._run(done)
        seconds = max(time.perf_counter() - begun, 1e-6)
        # Twice as many at most: the first ones compile, and are no guide.
        self._pace = max(1, min(2 * self._pace, int(done * STRETCH_SECONDS / seconds)))
        return done * self._drawing

    def stored(self, rows: Rows) -> Tensor | None:
        """See :class:`fitting.step.Step`."""
        if self.target.dtype == torch.float16:
            return None
        part = self.target[:, rows.first : rows.end].to(torch.float32)
        if self.target.dtype == torch.uint8:
            # By a tensor: dividing by a number, a GPU multiplies by its rounded reciprocal.
            part.div_(part.new_tensor(255.0))
        return part

    def close(self) -> None:
        """See :class:`fitting.step.Step`."""
        for name in ("graph", "painter", "loss", "target", "grad"):
            setattr(self, name, None)

    def losses(self) -> list[float]:
        """Means of |d|, d² and SSIM that were computed last."""
        return (self.loss.sums.double() / (FIXED_POINT * self.numel)).tolist()

    # One step

    def step(self) -> None:
        """Launch the kernels of one step."""
        with torch.no_grad():
            cuda_step.begin[(1,)](self.progress, self.flags, self.loss.sums, num_warps=1)
            shown, painter = self._project(), self.painter
            for band in self.bands:
                image = painter.draw(shown, band.top, band.rows)
                grad = shortened(self.grad, len(band.differs))
                self._compare(band, image, grad)
                painter.differentiate(
                    shown, grad, band.top, band.rows, band.differs.first, self.one
                )
            self._update(shown)

    def capture(self) -> None:
        """Record a step as a graph."""
        graph = torch.cuda.CUDAGraph()
        # torch's own stream for this stays on the GPU that the process captured on first.
        stream = torch.cuda.Stream(self.flags.device)
        with _capturing, torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            self.step()
        self.graph = graph

    def _project(self) -> Parameters:
        shown = self.gaussians.quantized().tensors().values()
        parameters = Parameters(*(tensor.detach() for tensor in shown))
        self.painter.project(parameters)
        return parameters

    def _compare(self, band: Band, image: Tensor, grad: Tensor | None) -> None:
        target = self.target[:, band.top : band.top + band.rows]
        differs = band.counted if grad is None else band.differs
        self.loss(image, target, band.counted, grad, differs)

    def _update(self, shown: Parameters) -> None:
        painter, count = self.painter, len(self.gaussians)
        values = [tensor.detach() for tensor in self.gaussians.tensors().values()]
        means, squares = zip(*(self.optimizer.moments[name] for name in NAMES), strict=True)
        cuda_step.update[(triton.cdiv(count, UPDATED),)](
            *values, *means, *squares, painter.sums, shown.scale, painter.geometry, self.rates,
            self.progress, self.flags, OVERFLOW | LOSS, count, painter.channels,
            float(painter.width), float(painter.height), 1 / self.numel,
            INVERSE=painter.config.inverse_scale, SIZE=UPDATED, **cuda_step.BITS, num_warps=1,
        )  # fmt: skip

    # Many steps

    def _run(self, steps: int) -> None:
        goal = self.gaussians.step + steps
        while (missing := goal - self.gaussians.step) > 0:
            try:
                if self._wants_graph and self._compiled:
                    if self.graph is None:
                        self.capture()
                    for _ in range(missing):
                        self.graph.replay()
                else:
                    for _ in range(1 if self._wants_graph else missing):
                        self.step()
                    self._compiled = True
            except KeyboardInterrupt:
                self._settle()
                raise
            self._settle()

    def _settle(self) -> None:
        """Wait for the GPU, count what was done, and see to what the flags say."""
        flags, step = int(self.flags), int(self.progress[0])
        diverged = any(flags & bit for bit in PARAMETER_FLAGS.values())
        if flags and not diverged:  # the step that was counted last changed nothing
            step -= 1
            self.progress[0] = step
        self.gaussians.step += step - self.optimizer.steps
        self.optimizer.steps = step
        if diverged or flags == LOSS:
            raise self._diverged(flags)
        if flags:  # a picture that is not whole may also make the loss infinite
            self._make_room()

    def _diverged(self, flags: int) -> ArithmeticError:
        names = [name for name, bit in PARAMETER_FLAGS.items() if flags & bit]
        return diverged(self.gaussians.step, names, self.settings, gpu=True)

    def _make_room(self) -> None:
        """Enlarge the lists until every band fits; a graph that uses the old ones is dropped."""
        self.graph = None
        shown = self._project()
        for band in self.bands:
            for _ in range(MOST_GROWTHS):
                self.flags.zero_()
                self.painter.draw(shown, band.top, band.rows)
                if not int(self.flags) & OVERFLOW:
                    break
                self.painter.grow()
            else:
                raise RuntimeError(f"step {self.gaussians.step}: the lists of Gaussians overflow")

    # What surrounds the steps

    def _time_drawing(self, shown: Parameters) -> float:
        """Seconds that drawing takes. It is not measured in every step: that would stop the GPU."""
        self._wait()
        begun = time.perf_counter()
        for band in self.bands:
            self.painter.draw(shown, band.top, band.rows)
        self._wait()
        return time.perf_counter() - begun

    def _wait(self) -> None:
        if self.flags.is_cuda:
            torch.cuda.synchronize(self.flags.device)

    def _upload(self, pixels: Tensor) -> None:
        at = 0
        for part in _parts(pixels):
            values = part.mul(255).round_() if self.target.dtype == torch.uint8 else part
            self.target[:, at : at + part.shape[1]] = values.to(self.target.dtype)
            at += part.shape[1]

    def _place_moments(self) -> None:
        moments = self.optimizer.moments
        for name, tensor in self.gaussians.tensors().items():
            pair = moments.get(name) or (torch.zeros_like(tensor), torch.zeros_like(tensor))
            moments[name] = tuple(m.detach().to(tensor.device).contiguous() for m in pair)

    def _send_rates(self) -> None:
        """In place, for the graph reads them."""
        if self._known_rates != self.optimizer.rates:
            self._known_rates = dict(self.optimizer.rates)
            self.rates.copy_(torch.tensor([self._known_rates[name] for name in NAMES]))
