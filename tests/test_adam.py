"""Adam: PyTorch's trajectory, a rate per tensor, and moments that survive growth."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ops.adam import Adam, extend

STEPS = 50


def assert_same(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-6) -> None:
    found, wanted = found.detach().double(), wanted.detach().double()
    assert (found - wanted).abs().max() <= tolerance * wanted.abs().max()


def gradient(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Gradients from 1e-9 to 1, so that Adam's small constant counts as well."""
    size = 10 ** torch.empty(shape).uniform_(-9, 0, generator=generator)
    return size * torch.randn(shape, generator=generator)


def test_the_trajectory_is_that_of_pytorch_for_each_tensors_own_rate(generator):
    rates = {"a": 5e-4, "b": 1e-2}
    shapes = {"a": (40, 2), "b": (17, 3)}
    ours = {n: torch.randn(s, generator=generator).requires_grad_() for n, s in shapes.items()}
    # In float64, so that only our own rounding is measured.
    theirs = {n: t.detach().double().requires_grad_() for n, t in ours.items()}
    optimizer = Adam(rates)
    groups = [{"params": [theirs[name]], "lr": rate} for name, rate in rates.items()]
    reference = torch.optim.Adam(groups)
    for _ in range(STEPS):
        for name in rates:
            ours[name].grad = gradient(generator, *shapes[name])
            theirs[name].grad = ours[name].grad.double()
        optimizer.update(ours)
        reference.step()
        for name in rates:
            assert_same(ours[name], theirs[name])
    assert optimizer.steps == STEPS


def test_a_minimum_is_found_through_autograd(generator):
    goal = torch.randn(30, 2, generator=generator)
    x = torch.zeros(30, 2, requires_grad=True)
    optimizer = Adam({"x": 0.05})
    for _ in range(400):
        ((x - goal) ** 2).sum().backward()
        optimizer.update({"x": x})
    assert (x - goal).abs().max() < 0.01


def test_divided_rates_make_smaller_steps_of_all_tensors(generator):
    start = torch.randn(9, 2, generator=generator)
    whole, tenth = Adam({"x": 1e-2, "y": 1e-3}), Adam({"x": 1e-2, "y": 1e-3})
    tenth.divide_rates(10)
    assert tenth.rates == pytest.approx({"x": 1e-3, "y": 1e-4})
    moved = []
    for optimizer in (whole, tenth):
        tensors = {name: start.clone().requires_grad_() for name in ("x", "y")}
        for tensor in tensors.values():
            tensor.grad = torch.ones(9, 2)
        optimizer.update(tensors)
        moved.append({name: (t.detach() - start).abs().max() for name, t in tensors.items()})
    for name, rate in (("x", 1e-2), ("y", 1e-3)):
        assert moved[0][name] == pytest.approx(rate, rel=1e-2)
        assert moved[1][name] == pytest.approx(rate / 10, rel=1e-2)


def test_a_gradient_is_forgotten_after_its_update(generator):
    x = torch.randn(4, 1, generator=generator).requires_grad_()
    optimizer = Adam({"x": 1e-2})
    x.grad = torch.ones(4, 1)
    optimizer.update({"x": x})
    assert x.grad is None
    after = x.detach().clone()
    optimizer.update({"x": x})
    assert torch.equal(x.detach(), after)


def test_a_tensor_without_gradient_is_skipped(generator):
    x, y = (torch.randn(5, 2, generator=generator).requires_grad_() for _ in range(2))
    before = y.detach().clone()
    x.grad = torch.ones(5, 2)
    optimizer = Adam({"x": 1e-2, "y": 1e-2})
    optimizer.update({"x": x, "y": y})
    assert torch.equal(y.detach(), before)
    assert set(optimizer.moments) == {"x"}


def test_a_gradient_in_another_memory_order_counts_the_same(generator):
    start = torch.randn(6, 4, generator=generator)
    grad = torch.randn(4, 6, generator=generator).T
    results = []
    for given in (grad, grad.contiguous()):
        x = start.clone().requires_grad_()
        x.grad = given
        Adam({"x": 0.1}).update({"x": x})
        results.append(x.detach())
    assert torch.equal(*results)


def test_growth_keeps_the_moments_of_rows_that_stay_and_clears_the_others(generator, rng):
    x = torch.randn(20, 3, generator=generator).requires_grad_()
    optimizer = Adam({"x": 1e-2})
    for _ in range(3):
        x.grad = torch.randn(20, 3, generator=generator)
        optimizer.update({"x": x})
    before = [moment.clone() for moment in optimizer.moments["x"]]
    moved = rng.choice(20, 6, replace=False)
    optimizer.replace("x", moved, 5)
    stays = np.setdiff1d(np.arange(20), moved)
    for old, new in zip(before, optimizer.moments["x"], strict=True):
        assert new.shape == (25, 3)
        assert torch.equal(new[stays], old[stays])
        assert old.abs().min() > 0
        assert not new[moved].any()
        assert not new[20:].any()


def test_rows_that_stay_go_on_as_if_nothing_had_grown(generator, rng):
    """The reference this product follows loses the optimiser's state whenever it grows."""
    x = torch.randn(12, 2, generator=generator).requires_grad_()
    alone = x.detach().clone().requires_grad_()
    optimizer, unbroken = Adam({"x": 1e-2}), Adam({"x": 1e-2})
    moved = rng.choice(12, 3, replace=False)
    stays = np.setdiff1d(np.arange(12), moved)
    for step in range(10):
        if step == 5:
            x = extend(x, moved, torch.zeros(3 + 4, 2)).requires_grad_()
            optimizer.replace("x", moved, 4)
        grad = torch.randn(16, 2, generator=generator)
        x.grad, alone.grad = grad[: len(x)].clone(), grad[:12].clone()
        optimizer.update({"x": x})
        unbroken.update({"x": alone})
    assert torch.equal(x.detach()[stays], alone.detach()[stays])


def test_growth_before_the_first_update_needs_nothing():
    optimizer = Adam({"x": 1e-2})
    optimizer.replace("x", np.array([0]), 3)
    assert optimizer.moments == {}


def test_extend_puts_the_first_fresh_rows_in_the_place_of_moved_ones(generator, rng):
    values = torch.randn(10, 2, generator=generator).requires_grad_()
    fresh = torch.randn(7, 2, generator=generator)
    moved = rng.choice(10, 4, replace=False)
    before = values.detach().clone()
    longer = extend(values, moved, fresh)
    assert longer.shape == (13, 2)
    assert not longer.requires_grad
    assert torch.equal(longer[moved], fresh[:4])
    assert torch.equal(longer[10:], fresh[4:])
    stays = np.setdiff1d(np.arange(10), moved)
    assert torch.equal(longer[stays], before[stays])
    assert torch.equal(values.detach(), before)


def test_extend_without_moved_rows_only_appends(generator):
    values, fresh = torch.randn(4, 1, generator=generator), torch.randn(2, 1, generator=generator)
    assert torch.equal(extend(values, np.empty(0, np.int64), fresh), torch.cat([values, fresh]))
