"""A picture as Gaussians: the four parameters, drawing at any height, saving and loading."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from fitting.bands import band_rows
from fitting.model_files import FORMAT, CheckpointError, read_content
from imaging.files import MAX_PIXELS, atomic_write
from ops.quantize import quantize
from ops.splat2d import MAX_CHANNELS, RasterConfig, render
from settings import MOST_GAUSSIANS, MOST_STEPS, CommonSettings, Settings, shown

NAMES = ("xy", "scale", "rot", "feat")
LONGEST_NAME = 255  # characters of a file's name, on every common system


def raster_config(settings: CommonSettings) -> RasterConfig:
    """How a run's Gaussians blend."""
    return RasterConfig(
        blending=settings.blending, topk=settings.topk, inverse_scale=settings.inverse_scale
    )


@dataclass(frozen=True)
class Bits:
    """Bits per value of each parameter."""

    xy: int
    scale: int
    rot: int
    feat: int

    @classmethod
    def of(cls, settings: CommonSettings) -> Self:
        """32 each, unless the settings ask for quantisation."""
        if not settings.quantize:
            return cls(32, 32, 32, 32)
        return cls(settings.pos_bits, settings.scale_bits, settings.rot_bits, settings.feat_bits)

    def total(self, count: int, channels: int) -> int:
        """Bits of so many Gaussians: N (2 pos + 2 scale + rot + C feat)."""
        return count * (2 * self.xy + 2 * self.scale + self.rot + channels * self.feat)


@dataclass
class Gaussians:
    """Parameters of N Gaussians and what is needed to draw them.

    Attributes
    ----------
    xy, scale, rot, feat : (N, 2), (N, 2), (N, 1), (N, C) float32; see :func:`ops.splat2d.render`.
    width, height : size in pixels at which ``scale`` was fitted.
    settings : of the run that made them.
    channels, names : of the pictures that share the Gaussians; the channels sum to C.
    step : optimisation steps so far.
    """

    xy: Tensor
    scale: Tensor
    rot: Tensor
    feat: Tensor
    width: int
    height: int
    settings: Settings
    channels: tuple[int, ...]
    names: tuple[str, ...]
    step: int = 0
    extra: dict[str, Any] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.xy)

    def tensors(self) -> dict[str, Tensor]:
        """The four parameters by name."""
        return {name: getattr(self, name) for name in NAMES}

    def quantized(self) -> Self:
        """The same Gaussians rounded as the settings say; gradients pass straight through."""
        if not self.settings.quantize:
            return self
        bits = Bits.of(self.settings)
        rounded = {n: quantize(t, getattr(bits, n)) for n, t in self.tensors().items()}
        return replace(self, **rounded)

    def draw(self, height: int | None = None, *, rows: tuple[int, int] | None = None) -> Tensor:
        """Draw at some height in pixels, as fitted: (C, h, w), not clamped, gamma not undone.

        ``rows`` (first, end) draws only these.
        """
        height = height or self.height
        width = self.width_at(height)
        shown = self.quantized()
        scale = shown.scale
        if height != self.height:
            ratio = height / self.height
            scale = scale / ratio if self.settings.inverse_scale else scale * ratio
        config = raster_config(self.settings)
        return render(shown.xy, scale, shown.rot, shown.feat, height, width, config, rows=rows)

    def draw_at(self, height: int, width: int, *, rows: tuple[int, int] | None = None) -> Tensor:
        """Draw at the size of an original, of which a reduced picture may have been fitted."""
        drawn = self.draw(height, rows=rows)
        if drawn.shape[2] == width:
            return drawn
        # Rounding of the reduced size may leave the sides a pixel apart.
        size = drawn.shape[1], width
        return torch.nn.functional.interpolate(drawn[None], size, mode="bilinear")[0]

    @torch.no_grad()
    def picture(self, height: int | None = None, width: int | None = None) -> Tensor:
        """The picture as it should look: (C, h, w) in [0, 1], on the CPU."""
        height = height or self.height
        width = width or self.width_at(height)
        if height * width > MAX_PIXELS:
            raise ValueError(
                f"a picture of {width}×{height} is too large to be drawn: at most {MAX_PIXELS} "
                "pixels are allowed. Choose a smaller height."
            )
        if not self.in_bands:
            return self._encoded(self.draw_at(height, width))
        picture = torch.empty(self.feat.shape[1], height, width)
        for first, end in self._bands(height, width):
            drawn = self.draw_at(height, width, rows=(first, end))
            picture[:, first:end] = self._encoded(drawn)
        return picture

    @torch.no_grad()
    def drawing(self) -> Tensor:
        """What :meth:`draw` gives, (C, H, W), but on the CPU and without a gradient."""
        if not self.in_bands:
            return self.draw()
        drawing = torch.empty(self.feat.shape[1], self.height, self.width)
        for first, end in self._bands(self.height, self.width):
            drawing[:, first:end] = self.draw(rows=(first, end))
        return drawing

    @property
    def in_bands(self) -> bool:
        """Whether pictures are drawn band by band: on a GPU, and where memory is to be saved."""
        return self.xy.is_cuda or self.settings.use_gradient_checkpointing

    def width_at(self, height: int) -> int:
        """Width of the picture that is so high."""
        return max(1, round(self.width * height / self.height))

    def _bands(self, height: int, width: int) -> Iterator[tuple[int, int]]:
        rows = band_rows(self.feat.shape[1], width)
        return ((first, min(first + rows, height)) for first in range(0, height, rows))

    def _encoded(self, drawn: Tensor) -> Tensor:
        return drawn.clamp(0, 1).pow(1 / self.settings.gamma)

    def move_to(self, device: torch.device) -> None:
        """Bring the parameters to a device; they stay leaves that want gradients."""
        for name, tensor in self.tensors().items():
            setattr(self, name, tensor.detach().to(device).requires_grad_())

    def on_host(self) -> Self:
        """A copy in main memory."""
        copies = {name: tensor.detach().cpu().clone() for name, tensor in self.tensors().items()}
        return replace(self, **copies)

    def bits(self) -> int:
        """Theoretical size of the parameters in bits."""
        return Bits.of(self.settings).total(len(self), sum(self.channels))

    def save(self, path: Path, **extra: Any) -> None:
        """Write a model file; ``extra`` may hold tensors, numbers, texts and lists of them."""
        content = {
            "format": FORMAT,
            **{name: tensor.detach().cpu() for name, tensor in self.quantized().tensors().items()},
            "width": self.width,
            "height": self.height,
            "settings": self.settings.model_dump(),
            "channels": list(self.channels),
            "names": list(self.names),
            "step": self.step,
            **({"extra": extra} if extra else {}),
        }
        # Through Python's file: torch's own leaves it open where the disk is full, and says less.
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            torch.save(content, file)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a model file. Nothing in it is executed.

        Raises
        ------
        CheckpointError
            If the file is missing, damaged, of another kind, or holds anything but data.
        """
        content = read_content(Path(path))
        try:
            loaded = cls(
                **{name: content[name] for name in NAMES},
                width=content["width"],
                height=content["height"],
                settings=Settings.build(**content["settings"]),
                channels=tuple(content["channels"]),
                names=tuple(content["names"]),
                step=content["step"],
                extra=content.get("extra", {}),
            )
            loaded._check()
        except KeyError as error:
            raise CheckpointError(f"{path} is damaged: it lacks {error}. Train again.") from error
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged: {error}. Train again.") from error
        return loaded

    def _check(self) -> None:
        """Raise a ValueError where these are no Gaussians that Splatbook could have made."""
        sides = self.width, self.height
        if not all(_is_count(side, MAX_PIXELS) and side for side in sides) or (
            self.width * self.height > MAX_PIXELS
        ):
            size = "×".join(map(shown, sides))
            raise ValueError(f"its size is {size}, and at most {MAX_PIXELS} pixels are allowed")
        if not _is_count(self.step, MOST_STEPS):
            raise ValueError(f"its step is {shown(self.step)}, not one of 0 to {MOST_STEPS}")
        if not isinstance(self.extra, dict):
            raise ValueError(f"extra is a {type(self.extra).__name__}, it must be a dict")
        if not self.channels or any(type(c) is not int or c not in (1, 3) for c in self.channels):
            raise ValueError(f"its channels are {shown(self.channels)}, and each must be 1 or 3")
        if sum(self.channels) > MAX_CHANNELS:
            raise ValueError(f"it has {sum(self.channels)} channels, not 1 to {MAX_CHANNELS}")
        if len(self.names) != len(self.channels):
            raise ValueError(
                f"it names {len(self.names)} pictures, and has the channels of {len(self.channels)}"
            )
        for name in self.names:
            _check_name(name)
        self._check_tensors()

    def _check_tensors(self) -> None:
        columns = {"xy": 2, "scale": 2, "rot": 1, "feat": sum(self.channels)}
        count = len(self.xy) if isinstance(self.xy, Tensor) and self.xy.dim() else 0
        if not 1 <= count <= MOST_GAUSSIANS:
            raise ValueError(f"it has {count} Gaussians, and 1 to {MOST_GAUSSIANS} are allowed")
        for name, tensor in self.tensors().items():
            wanted = (count, columns[name])
            found = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            if found != wanted or tensor.dtype != torch.float32:
                raise ValueError(f"{name} is {found}, it must be {wanted} of float32")
            if not tensor.isfinite().all():
                raise ValueError(f"{name} holds values that are no finite numbers")


def _is_count(value: Any, most: int) -> bool:
    return type(value) is int and 0 <= value <= most  # not a bool, which is an int to Python


def _check_name(name: Any) -> None:
    """Refuse a picture's name that is no file's: pictures of a stack are saved under theirs.

    Whatever a file can be called is allowed, with dots, blanks and letters of any language.
    """
    separators = {"/", "\0", os.sep, os.altsep or "/"}
    if not isinstance(name, str) or separators & set(name) or not 0 < len(name) <= LONGEST_NAME:
        raise ValueError(
            f"it names a picture {shown(name)}, which is no file's name: one has at most "
            f"{LONGEST_NAME} characters, and leads to no other folder"
        )
