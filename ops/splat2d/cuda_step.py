"""The end of a training step on the GPU: gradients and Adam in one kernel, one pass over N."""

from __future__ import annotations

import math

import triton
import triton.language as tl

from ops import adam, flags
from ops.splat2d.cuda_backward import FIRST_CHANNEL, chain_rule, feature_sum

BETA1, BETA2, EPS = tl.constexpr(adam.BETA1), tl.constexpr(adam.BETA2), tl.constexpr(adam.EPS)
LOG1, LOG2 = tl.constexpr(math.log(adam.BETA1)), tl.constexpr(math.log(adam.BETA2))


@triton.jit
def begin(progress, flags, loss_sums):
    """Count a step, unless an earlier one was not applied: ``progress`` is (step, frozen)."""
    frozen = tl.load(flags) != 0
    tl.store(progress, tl.load(progress) + tl.where(frozen, 0, 1))
    tl.store(progress + 1, frozen.to(tl.int32))
    for k in tl.static_range(3):
        tl.store(loss_sums + k, tl.zeros((), tl.int64))


@triton.jit
def _adam(value, mean, square, at, inside, gradient, rate, correction, flags, BIT: tl.constexpr):
    """Adam (Kingma and Ba 2015); a value that would not be finite stays as it is."""
    m = tl.load(mean + at, mask=inside, other=0.0)
    v = tl.load(square + at, mask=inside, other=0.0)
    old = tl.load(value + at, mask=inside, other=0.0)
    m = m * BETA1 + gradient * (1.0 - BETA1)
    v = v * BETA2 + gradient * gradient * (1.0 - BETA2)
    new = old - rate * m / (tl.sqrt(v) * correction + EPS)
    finite = new * 0.0 == 0.0
    keep = inside & finite
    tl.store(mean + at, m, mask=keep)
    tl.store(square + at, v, mask=keep)
    tl.store(value + at, new, mask=keep)
    if tl.sum((inside & (finite == 0)).to(tl.int32), 0) > 0:
        tl.atomic_or(flags, BIT)


@triton.jit(do_not_specialize=["blocked", "n", "channels"])
def update(
    xy, scale, rot, feat, xy_mean, scale_mean, rot_mean, feat_mean,
    xy_square, scale_square, rot_square, feat_square,
    sums, shown_scale, geometry, rates, progress, flags, blocked,
    n, channels, width, height, factor,
    INVERSE: tl.constexpr, SIZE: tl.constexpr,
    XY: tl.constexpr, SCALE: tl.constexpr, ROT: tl.constexpr, FEAT: tl.constexpr,
):  # fmt: skip
    """Move the parameters against their gradients, and set the sums to 0 for the next step.

    Nothing moves where ``flags`` has a bit of ``blocked``, or had any before this step.
    ``factor`` turns the sums into gradients of the loss.
    """
    i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    inside = i < n
    stopped = (tl.load(progress + 1) != 0) | ((tl.load(flags) & blocked) != 0)
    if not stopped:
        step = tl.load(progress).to(tl.float64)
        first = (1.0 / (1.0 - tl.exp(step * LOG1))).to(tl.float32)
        correction = (1.0 / tl.sqrt(1.0 - tl.exp(step * LOG2))).to(tl.float32)
        gx, gy, g0, g1, angle = chain_rule(
            sums, shown_scale, geometry, i, inside, channels, width, height, INVERSE
        )
        rate = tl.load(rates) * first
        _adam(xy, xy_mean, xy_square, 2 * i, inside, gx * factor, rate, correction, flags, XY)
        _adam(xy, xy_mean, xy_square, 2 * i + 1, inside, gy * factor, rate, correction, flags, XY)
        rate = tl.load(rates + 1) * first
        at = 2 * i
        _adam(
            scale, scale_mean, scale_square, at, inside, g0 * factor, rate, correction, flags,
            SCALE,
        )  # fmt: skip
        _adam(
            scale, scale_mean, scale_square, at + 1, inside, g1 * factor, rate, correction, flags,
            SCALE,
        )  # fmt: skip
        rate = tl.load(rates + 2) * first
        _adam(rot, rot_mean, rot_square, i, inside, angle * factor, rate, correction, flags, ROT)
        rate = tl.load(rates + 3) * first
        for c in range(channels):
            g = feature_sum(sums, i, c, inside, channels) * factor
            at = i * channels + c
            _adam(feat, feat_mean, feat_square, at, inside, g, rate, correction, flags, FEAT)
    row = sums + i * (FIRST_CHANNEL + channels)
    for k in range(channels + FIRST_CHANNEL):
        tl.store(row + k, tl.zeros((SIZE,), tl.int64), mask=inside)


BITS = {name: getattr(flags, name) for name in ("XY", "SCALE", "ROT", "FEAT")}
