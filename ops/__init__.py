"""Differentiable operations; one folder each, with a slow twin and a kernel per device."""
