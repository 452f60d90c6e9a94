"""Fast layers against slow loops over Python's complex numbers: obviously correct, but slow."""

import cmath
import itertools

import pytest
import torch

import complexnn
from complexnn.rotation import functional as cF
from complexnn.rotation import fused, layers


def to_numbers(x):
    """``(B, 2, C, H, W)`` to nested lists of complex numbers ``[b][c][h][w]``."""
    return torch.complex(*x.unbind(1)).tolist()


def to_tensor(numbers):
    complex_tensor = torch.tensor(numbers, dtype=torch.complex128)
    return torch.stack([complex_tensor.real, complex_tensor.imag], dim=1)


def windows(height, width, kernel, stride, padding):
    """Output position to the input positions of its window, padding left out."""
    out_h, out_w = ((n + 2 * padding - kernel) // stride + 1 for n in (height, width))
    for i, j in itertools.product(range(out_h), range(out_w)):
        inside = [
            (u, v, i * stride - padding + u, j * stride - padding + v)
            for u in range(kernel)
            for v in range(kernel)
        ]
        yield i, j, [w for w in inside if 0 <= w[2] < height and 0 <= w[3] < width]


def pool_slowly(x, kernel, stride, padding, choose):
    numbers = to_numbers(x)
    height, width = x.shape[-2:]
    out_h, out_w = ((n + 2 * padding - kernel) // stride + 1 for n in (height, width))
    out = [[[[0j] * out_w for _ in range(out_h)] for _ in sample] for sample in numbers]
    for b, sample in enumerate(numbers):
        for c, plane in enumerate(sample):
            for i, j, window in windows(height, width, kernel, stride, padding):
                out[b][c][i][j] = choose([plane[h][w] for _, _, h, w in window])
    return to_tensor(out)


@pytest.fixture
def x():
    x = torch.randn(2, 2, 3, 7, 5, dtype=torch.float64)
    return x * (torch.rand_like(x) > 0.3)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 0)])
def test_max_pool(x, kernel, stride, padding):
    fast = layers.MaxPool2d(kernel, stride, padding)(x)
    slow = pool_slowly(x, kernel, stride, padding, lambda window: max(window, key=abs))
    torch.testing.assert_close(fast, slow, atol=1e-12, rtol=0)


def test_avg_pool(x):
    fast = cF.per_part(torch.nn.AvgPool2d(2), x)
    slow = pool_slowly(x, 2, 2, 0, lambda window: sum(window) / len(window))
    torch.testing.assert_close(fast, slow, atol=1e-12, rtol=0)


@pytest.mark.parametrize("weights", ["real", "complex"])
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1)])
def test_convolution(x, weights, stride, padding):
    if weights == "real":
        layer = layers.Conv2d(3, 4, 3, stride=stride, padding=padding).double()
        kernel = layer.weight.to(torch.complex128).tolist()
    else:
        layer = layers.ComplexConv2d(3, 4, 3, stride=stride, padding=padding).double()
        kernel = torch.complex(layer.real.weight, layer.imag.weight).tolist()
    numbers, (height, width) = to_numbers(x), x.shape[-2:]
    slow = torch.zeros(2, 4, *layer(x).shape[-2:], dtype=torch.complex128)
    for b, o in itertools.product(range(2), range(4)):
        for i, j, window in windows(height, width, 3, stride, padding):
            slow[b, o, i, j] = sum(
                kernel[o][c][u][v] * numbers[b][c][h][w] for c in range(3) for u, v, h, w in window
            )
    expected = torch.stack([slow.real, slow.imag], dim=1)
    torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=0)


def test_complex_linear():
    layer = layers.ComplexLinear(4, 3).double()
    x = torch.randn(2, 2, 4, dtype=torch.float64)
    weight = torch.complex(layer.real.weight, layer.imag.weight)
    slow = torch.complex(x[:, 0], x[:, 1]) @ weight.mT
    torch.testing.assert_close(layer(x), torch.stack([slow.real, slow.imag], 1))


@pytest.mark.parametrize("c", [0.5, 1.0, 3.0])
def test_soft_gate(x, c):
    def gate(f):
        return abs(f) / max(abs(f), c) * f

    slow = pool_slowly(x, 1, 1, 0, lambda window: gate(window[0]))
    torch.testing.assert_close(layers.SoftGate(c)(x), slow, atol=1e-12, rtol=0)


def test_mean_gate(x):
    numbers = to_numbers(x)
    for sample in numbers:
        for c, plane in enumerate(sample):
            lengths = [abs(f) for row in plane for f in row]
            mean = sum(lengths) / len(lengths)
            sample[c] = [[abs(f) / max(abs(f), mean) * f for f in row] for row in plane]
    torch.testing.assert_close(layers.MeanGate()(x), to_tensor(numbers), atol=1e-12, rtol=0)


def test_norm(x):
    norm = layers.BatchNorm(3).double()
    norm.weight.data = torch.tensor([0.5, 1.0, -2.0], dtype=torch.float64)
    numbers = to_numbers(x)
    for c in range(3):
        values = [f for sample in numbers for row in sample[c] for f in row]
        mean_square = sum(abs(f) ** 2 for f in values) / (2 * len(values))
        scale = norm.weight[c].item() / (mean_square + norm.eps) ** 0.5
        for sample in numbers:
            sample[c] = [[scale * f for f in row] for row in sample[c]]
    torch.testing.assert_close(norm(x), to_tensor(numbers), atol=1e-12, rtol=0)


def test_rotation_is_multiplication_by_a_phase(x):
    theta = torch.tensor([0.3, 4.0], dtype=torch.float64)
    numbers = to_numbers(x)
    for sample, angle in zip(numbers, theta.tolist(), strict=True):
        for c, plane in enumerate(sample):
            sample[c] = [[cmath.exp(1j * angle) * f for f in row] for row in plane]
    fast = cF.rotate(x, cF.angle_matrix(theta))
    torch.testing.assert_close(fast, to_tensor(numbers), atol=1e-12, rtol=0)


def plain_modulus(x):
    return x.square().sum(1, keepdim=True).sqrt()


def plain_gate(x, c):
    length = plain_modulus(x)
    return x * (length / torch.maximum(length, torch.as_tensor(c).to(x)))


def plain_mean_gate(x):
    axes = tuple(range(3, x.dim())) or (2,)
    return plain_gate(x, plain_modulus(x).mean(axes, keepdim=True))


def plain_norm(x, weight):
    power = x.square().mean([axis for axis in range(x.dim()) if axis != 2])
    scale = weight / (power + 1e-5).sqrt()
    return x * scale.view(-1, *[1] * (x.dim() - 3))


WEIGHT = torch.tensor([0.5, -2.0], dtype=torch.float64)


def plain_scale(x):
    """Of a norm that has seen mean squares of WEIGHT squared."""
    scale = WEIGHT.to(x) / (WEIGHT.to(x).square() + 1e-5).sqrt()
    return scale.view(-1, *[1] * (x.dim() - 3))


HAND_DERIVED = {
    "modulus": (cF.modulus, plain_modulus),
    "soft gate": (lambda x: cF.soft_gate(x, 1.5), lambda x: plain_gate(x, 1.5)),
    "mean gate": (cF.mean_gate, plain_mean_gate),
    "norm and gate": (
        lambda x: fused.NormGate.apply(x, WEIGHT.to(x), 1e-5, 1.5, None)[0],
        lambda x: plain_gate(plain_norm(x, WEIGHT.to(x)), 1.5),
    ),
    "norm and gate in eval mode": (
        lambda x: fused.NormGate.apply(x, WEIGHT.to(x), 1e-5, 0.75, WEIGHT.to(x).square())[0],
        lambda x: plain_gate(x * plain_scale(x), 0.75),
    ),
    "norm": (
        lambda x: fused.PowerNorm.apply(x, WEIGHT.to(x), 1e-5, None)[0],
        lambda x: plain_norm(x, WEIGHT.to(x)),
    ),
    "norm and shortcut": (
        lambda x: fused.PowerNorm.apply(x, WEIGHT.to(x), 1e-5, x.sin())[0],
        lambda x: plain_norm(x, WEIGHT.to(x)) + x.sin(),
    ),
    "norm and shortcut in eval mode": (
        lambda x: fused.scaled(x, plain_scale(x).flatten(), x.sin()),
        lambda x: x * plain_scale(x) + x.sin(),
    ),
}


@pytest.mark.parametrize("shape", [(3, 4, 2, 5), (4, 2, 2), (2, 2, 2, 3, 4)])
@pytest.mark.parametrize("name", HAND_DERIVED)
def test_hand_derived_passes_equal_the_plain_formulas(name, shape):
    """Values, gradients (also against finite differences), and half precision."""
    fast, plain = HAND_DERIVED[name]
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(fast(x), plain(x), atol=1e-12, rtol=0)
    weight = torch.randn_like(fast(x))
    gradients = [torch.autograd.grad((f(x) * weight).sum(), x)[0] for f in (fast, plain)]
    torch.testing.assert_close(*gradients, atol=1e-11, rtol=0)
    assert torch.autograd.gradcheck(fast, x)
    half = x.detach().bfloat16().requires_grad_()
    (gradient,) = torch.autograd.grad((fast(half) * weight.to(half)).sum(), half)
    torch.testing.assert_close(gradient.double(), gradients[1], atol=0.15, rtol=0.1)


def test_the_norm_weight_gets_the_plain_gradient():
    x = torch.randn(3, 2, 2, 4, 4, dtype=torch.float64)
    weight = WEIGHT.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda w: fused.PowerNorm.apply(x, w, 1e-5, None)[0], weight)
    for power in (None, torch.tensor([0.5, 2.0], dtype=torch.float64)):
        assert torch.autograd.gradcheck(
            lambda w, power=power: fused.NormGate.apply(x, w, 1e-5, 1.2, power)[0], weight
        )


def test_the_norm_that_processes_share_is_batch_norm():
    """In one process, against torch's own: values, moments and all three gradients."""
    x = torch.randn(5, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.randn(2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    y, mean, variance = fused.CentredNorm.apply(x, weight, bias, 1e-5)
    plain = torch.nn.functional.batch_norm(x, None, None, weight, bias, training=True, eps=1e-5)
    torch.testing.assert_close(y, plain, atol=1e-12, rtol=0)
    torch.testing.assert_close(mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(variance, x.var((0, 2, 3), correction=0))
    out = torch.randn_like(y)
    ours, theirs = (torch.autograd.grad((v * out).sum(), (x, weight, bias)) for v in (y, plain))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-11, rtol=0)


@pytest.mark.parametrize("name", ["modulus", "soft gate", "mean gate"])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-12])
def test_gradients_at_and_near_zero_are_finite(name, size):
    x = torch.full((2, 2, 2, 3), size, requires_grad=True)
    HAND_DERIVED[name][0](x).sum().backward()
    assert torch.isfinite(x.grad).all()
    if size == 0:
        assert not (name == "modulus" and x.grad.any())


def away_from_kinks(shape):
    """Moduli near 0.25 and near 4.25, so that no gate is at its edge; some parts exactly 0."""
    direction = torch.randn(shape, dtype=torch.float64)
    if shape[1] > 1:
        direction[:, 0] *= torch.rand(direction[:, 0].shape) > 0.3
    small = torch.rand(shape[0], 1, *shape[2:], dtype=torch.float64) * 0.1 + 0.2
    large = small + 4
    length = torch.where(torch.rand(small.shape) < 0.5, small, large)
    length[..., 0], length[..., 1] = small[..., 0], large[..., 1]  # a mean is between the two
    return (length * torch.nn.functional.normalize(direction, dim=1)).requires_grad_()


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("name", HAND_DERIVED)
def test_second_derivatives_are_those_of_the_plain_formulas(name, dim):
    """Against finite differences of the gradient, and against the formula: gradient-leakage attacks
    differentiate a gradient. A graph of gradients leaves the gradients themselves alone."""
    fast, plain = HAND_DERIVED[name]
    x = away_from_kinks((2, dim, 2, 3))
    weight, along = torch.randn_like(fast(x)), torch.randn_like(x)
    ordinary = torch.autograd.grad(fast(x), x, weight)[0]
    found = []
    for f in (fast, plain):
        (gradient,) = torch.autograd.grad(f(x), x, weight, create_graph=True)
        torch.testing.assert_close(gradient, ordinary, atol=1e-11, rtol=0)
        found.append(torch.autograd.grad(gradient, x, along)[0])
    torch.testing.assert_close(*found, atol=1e-9, rtol=1e-9)
    assert torch.autograd.gradgradcheck(fast, x)


@pytest.mark.parametrize("power", [None, WEIGHT.square() + 0.1], ids=["train", "eval"])
def test_second_derivatives_reach_weights_and_shortcuts(power):
    x = away_from_kinks((2, 2, 2, 3))
    weight = WEIGHT.clone().requires_grad_()
    bias = torch.randn(2, dtype=torch.float64, requires_grad=True)

    def gate(x, weight):
        return fused.NormGate.apply(x, weight, 1e-5, 1.2, power)[0]

    def norm(x, weight):
        return fused.PowerNorm.apply(x, weight, 1e-5, x)[0]

    def centred(x, weight, bias):
        return fused.CentredNorm.apply(x, weight, bias, 1e-5)[0]

    assert torch.autograd.gradgradcheck(gate, (x, weight))
    assert torch.autograd.gradgradcheck(norm, (x, weight))
    assert torch.autograd.gradgradcheck(centred, (x[:, 0], weight, bias))


@pytest.mark.parametrize("name", ["modulus", "soft gate", "mean gate"])
def test_second_derivatives_at_zero_are_finite(name):
    x = torch.zeros(2, 2, 2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(HAND_DERIVED[name][0](x).sum(), x, create_graph=True)
    assert not gradient.any()
    assert torch.autograd.grad((gradient * torch.randn(3)).sum(), x)[0].isfinite().all()


def test_several_processes_refuse_second_derivatives(monkeypatch):
    x = torch.randn(2, 2, 2, 3, requires_grad=True)
    y = fused.PowerNorm.apply(x, torch.ones(2), 1e-5, None)[0].sum()
    monkeypatch.setattr(fused, "processes", lambda: 2)
    with pytest.raises(RuntimeError, match="in one process only"):
        torch.autograd.grad(y, x, create_graph=True)


def test_gradient_leakage_finds_its_slope():
    """The size of a gradient, differentiated by the images, against central differences."""
    net = complexnn.build("thin1", image_size=8, num_classes=3).double()
    images, step = torch.rand(2, 4, 3, 8, 8, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0])

    def size(images):
        logits = net(images, generator=torch.Generator().manual_seed(0))
        loss = torch.nn.functional.cross_entropy(logits, labels)
        gradients = torch.autograd.grad(loss, list(net.parameters()), create_graph=True)
        return sum(g.square().sum() for g in gradients)

    images.requires_grad_()
    slope = (torch.autograd.grad(size(images), images)[0] * step).sum()
    ahead, behind = (size(images + e * step).detach() for e in (1e-6, -1e-6))
    torch.testing.assert_close(slope, (ahead - behind) / 2e-6, atol=0, rtol=1e-5)
