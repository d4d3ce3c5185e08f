"""Bits by which GPU kernels report why a step must not be applied, or where it went wrong."""

from __future__ import annotations

OVERFLOW, LOSS, XY, SCALE, ROT, FEAT = (1 << bit for bit in range(6))
