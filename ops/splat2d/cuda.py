"""2D splatting on the GPU: buffers, and the order in which the Triton kernels run.

Project and list (``cuda_lists``), draw (``cuda_draw``), differentiate (``cuda_backward``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from ops.flags import OVERFLOW
from ops.planes import shortened
from ops.splat2d import cuda_backward, cuda_draw, cuda_lists
from ops.splat2d.cuda_draw import FETCH, PAD, SHARDS
from ops.splat2d.cuda_lists import (
    CELLS,
    FEATURE_COLUMN,
    FEATURES,
    GEOMETRY,
    SEGMENT,
    SLACK,
)
from ops.splat2d.cuda_select import BATCH
from ops.splat2d.reference import RasterConfig

# A cell of the coarse grid has this many times as many pixels as its side to the fourth power: the
# finer the grid, the more cells test all Gaussians, and the fewer Gaussians its tiles test.
CELL_FACTOR = 12
SMALLEST_SHIFT = 6  # cells of 64 pixels
PROGRAMS = 20_000  # that fill lists of cells: enough to keep a GPU busy
FARTHEST = 1e18  # pixels
REACH = 48  # pixels across a Gaussian at the start of a training: room to begin with
# By the side of a tile, of which large ones are for pictures where few Gaussians meet: registers of
# a thread. Fewer than the compiler would take leave room for more tiles at a time.
DRAWING = {8: {"maxnreg": 72}, 16: {"maxnreg": 128}}


@dataclass
class Parameters:
    """What is drawn: the four tensors of :func:`ops.splat2d.render`, contiguous float32."""

    xy: Tensor
    scale: Tensor
    rot: Tensor
    feat: Tensor


class Rasterizer:
    """Buffers to draw N Gaussians on windows of rows of one picture, and to differentiate that.

    Nothing here waits for the GPU. Lists whose length depends on the Gaussians have a capacity:
    where it does not suffice, the picture is wrong, ``flags`` gets the bit ``OVERFLOW``, and
    :meth:`grow` makes room.

    Parameters
    ----------
    count, channels : N and C.
    height, width : of the whole picture in pixels.
    rows : of the largest window.
    config : how to blend; its ``tile`` must be 8 or 16.
    memory : (C, rows, W) tensor that receives the picture; its rows may lie further apart than W.
    guess : remember per tile how large a weight must be to count, which makes drawing almost the
        same picture again faster. The picture does not depend on it.
    flags : (1,) int32 tensor that receives error bits.
    """

    def __init__(
        self, count: int, channels: int, height: int, width: int, rows: int, config: RasterConfig,
        *, memory: Tensor, guess: bool, flags: Tensor,
    ):  # fmt: skip
        device = flags.device
        self.count, self.channels, self.height, self.width = count, channels, height, width
        self.config, self.flags = config, flags
        self.tile = min(config.tile, max(DRAWING))
        self.shift = max(SMALLEST_SHIFT, round(math.log2(CELL_FACTOR * rows * width) / 4))
        self.cells_x = triton.cdiv(width, 1 << self.shift)
        cells = self.cells_x * triton.cdiv(rows, 1 << self.shift)
        self.segments = triton.cdiv(max(count, 1), SEGMENT)
        tiles_x = triton.cdiv(width, self.tile)
        tiles = tiles_x * triton.cdiv(rows, self.tile)

        def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        self.geometry = new(count + 1, GEOMETRY)
        self.geometry[count] = 0.0  # one that reaches nothing, to fill up lists
        self.geometry[count, :2] = FARTHEST
        self.geometry[count, 2 : FEATURE_COLUMN.value] = 1.0
        self.boxes, self.extents = new(4, count), new(self.segments, 4)
        listed = cells * self.segments
        self.cell_counts, self.cell_ends = (new(listed, dtype=torch.int32) for _ in range(2))
        side = 1 << self.shift
        self._new_members(min(cells, _about(side + REACH, side)) * count)
        listed = min(tiles, _about(side + REACH, self.tile)) * count
        listed = triton.cdiv(listed, SHARDS) + triton.cdiv(tiles, SHARDS) * PAD.value
        self.owners = new(SHARDS, listed, dtype=torch.int32)
        self.tile_start, self.tile_count = (new(tiles, dtype=torch.int32) for _ in range(2))
        self.memory = memory
        self.stride = memory.stride(1)
        self.threshold, self.inverse = new(rows, self.stride), new(rows, self.stride)
        self.sums = torch.zeros(
            count, cuda_backward.MOMENTS + channels, dtype=torch.int64, device=device
        )
        self.cursors = new(SHARDS + 1, dtype=torch.int32)  # of tile lists, and of cells' lists
        self.cell_lists = new(cells, 2, dtype=torch.int32)
        # Lengths of the lists of cells and of tiles that would have sufficed, where they did not.
        self.needed = torch.zeros(2, dtype=torch.int32, device=device)
        all_tiles = tiles_x * triton.cdiv(height, self.tile)
        self.guess = torch.zeros(all_tiles if guess else 1, device=device)
        self.guessing = guess

    def _new_members(self, length: int) -> None:
        device = self.flags.device
        self.members = torch.empty(length, dtype=torch.int32, device=device)
        self.shapes = torch.empty(4, length, 2, device=device)

    def grow(self) -> None:
        """Make room for what was missing, and half as much again; waits for the GPU."""
        members, owners = self.needed.tolist()
        if members:
            self._new_members(members * 3 // 2)
        if owners:
            self.owners = self.owners.new_empty(SHARDS, owners * 3 // 2)
        self.needed.zero_()

    def project(self, p: Parameters) -> None:
        """Prepare the Gaussians for drawing."""
        if self.count == 0:
            return
        cuda_lists.project[(self.segments,)](
            p.xy, p.scale, p.rot, p.feat, self.geometry, self.boxes, self.extents, self.count,
            self.channels, float(self.width), float(self.height), self.config.cut * SLACK,
            INVERSE=self.config.inverse_scale, FEATURES=FEATURES, BLOCK=SEGMENT, num_warps=4,
        )  # fmt: skip

    def draw(self, p: Parameters, top: int, rows: int) -> Tensor:
        """Draw the rows [top, top + rows) of the picture, (C, rows, W), into the own buffer.

        ``top`` is a multiple of ``tile``. :meth:`project` must have been called.
        """
        self._list_cells(top, rows)
        config, image = self.config, shortened(self.memory, rows)
        tiles = triton.cdiv(self.width, self.tile) * triton.cdiv(rows, self.tile)
        group = min(self.channels, FEATURES)
        cuda_draw.forward[(tiles,)](
            self.geometry.view(torch.int64), p.feat, self.members, self.shapes.view(torch.int64),
            self.cell_lists, self.owners, self.tile_start, self.tile_count, image, self.threshold,
            self.inverse, self.guess, self.cursors, self.flags, self.needed, self.owners.shape[1],
            len(self.members), self.count, self.channels, self.width, self.stride, rows, top,
            self.cells_x, self.shift,
            config.w_min, -math.log2(config.w_min) * SLACK, config.tie, config.eps,
            TILE=self.tile, TOPK=config.topk if config.blending == "normalized" else 0,
            GROUP=group, FEATURES=group if group == self.channels else 0, GUESS=self.guessing,
            FETCH=FETCH, BATCH=BATCH, SHARDS=SHARDS, OVERFLOW=OVERFLOW,
            num_warps=1, **DRAWING[self.tile],
        )  # fmt: skip
        return image

    def _list_cells(self, top: int, rows: int) -> None:
        """List the Gaussians near each cell."""
        cells = self.cells_x * triton.cdiv(rows, 1 << self.shift)
        place = (self.count, cells, self.cells_x, top, self.shift)
        counts, ends = self.cell_counts, self.cell_ends
        cuda_lists.count_cells[(triton.cdiv(cells, CELLS), self.segments)](
            self.boxes, self.extents, counts, self.cursors, *place, BLOCK=SEGMENT, CELLS=CELLS,
            SHARDS=SHARDS, num_warps=1,
        )  # fmt: skip
        cuda_lists.place_cells[(cells,)](
            counts, ends, self.cell_lists, self.cursors[SHARDS:], self.segments, BLOCK=SEGMENT,
            num_warps=1,
        )  # fmt: skip
        several = min(CELLS, triton.next_power_of_2(cells * self.segments // PROGRAMS + 1))
        cuda_lists.fill_cells[(triton.cdiv(cells, several), self.segments)](
            self.boxes, self.geometry, counts, ends, self.members, self.shapes, self.flags,
            self.needed, len(self.members), *place, OVERFLOW=OVERFLOW, BLOCK=SEGMENT,
            CELLS=several, num_warps=1,
        )  # fmt: skip

    def differentiate(
        self, p: Parameters, grad: Tensor, top: int, rows: int, first: int, unit: Tensor
    ) -> None:
        """Add to ``sums`` what follows from the gradient of some rows of the window drawn last.

        ``grad`` (C, r, W) belongs to the rows [first, first + r) of the window; its rows lie as
        far apart as those of ``memory``. It is multiplied by ``unit`` (1,), which should make it
        about 1.
        """
        if self.count == 0:
            return
        side = cuda_backward.SIDE
        blocks = triton.cdiv(self.width, side) * triton.cdiv(rows, side)
        cuda_backward.backward[(blocks,)](
            self.geometry, p.feat, self.owners, self.tile_start, self.tile_count, grad, self.memory,
            self.threshold, self.inverse, self.sums, unit, self.channels, self.width, self.stride,
            rows, top, first, first + grad.shape[1],
            TILE=self.tile, NORMALIZED=self.config.blending == "normalized",
            LANES=cuda_backward.LANES, GROUP=min(self.channels, cuda_backward.HELD),
            num_warps=1, maxnreg=128,
        )  # fmt: skip

    def collect(self, p: Parameters, unit: Tensor) -> tuple[Tensor, ...]:
        """Gradients of the parameters from ``sums``, divided by ``unit``."""
        grads = tuple(torch.empty_like(t) for t in (p.xy, p.scale, p.rot, p.feat))
        if self.count:
            cuda_backward.collect[(triton.cdiv(self.count, 128),)](
                self.sums, p.scale, self.geometry, unit, *grads, self.count, self.channels,
                float(self.width), float(self.height), INVERSE=self.config.inverse_scale, SIZE=128,
                num_warps=4,
            )  # fmt: skip
        return grads


def _about(length: int, side: int) -> int:
    """Squares of a grid that a square meets on average, and a quarter more."""
    return math.ceil(1.25 * (length / side) ** 2)


def render(
    p: Parameters, height: int, width: int, config: RasterConfig, rows: tuple[int, int]
) -> tuple[Tensor, Rasterizer]:
    """Picture of some rows (C, r, W), and what :func:`differentiate` needs. Waits for the GPU."""
    flags = torch.zeros(1, dtype=torch.int32, device=p.xy.device)
    top = rows[0] // 16 * 16
    channels = p.feat.shape[1]
    memory = p.xy.new_empty(channels, rows[1] - top, width)
    painter = Rasterizer(
        len(p.xy), channels, height, width, rows[1] - top, config,
        memory=memory, guess=False, flags=flags,
    )  # fmt: skip
    painter.project(p)
    while True:
        image = painter.draw(p, top, rows[1] - top)
        if not int(flags) & OVERFLOW:
            return image[:, rows[0] - top :], painter
        painter.grow()
        flags.zero_()


def differentiate(
    p: Parameters, grad: Tensor, painter: Rasterizer, rows: tuple[int, int]
) -> tuple[Tensor, ...]:
    """Gradients of xy, scale, rot and feat from the gradient of the picture (C, r, W)."""
    top = rows[0] // 16 * 16
    largest = grad.abs().amax().clamp_min(torch.finfo(torch.float32).tiny)
    unit = (1 / largest).reshape(1)  # no number where the gradient holds one that is none
    painter.sums.zero_()  # of an earlier time, where autograd's graph was retained
    painter.differentiate(p, grad.contiguous(), top, rows[1] - top, rows[0] - top, unit)
    return painter.collect(p, unit)
