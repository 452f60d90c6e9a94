"""The contract of every equivariant layer and of every network's processing module."""

import copy

import pytest
import torch

import complexnn
from complexnn.networks.registry import topology
from complexnn.rotation import functional as cF
from complexnn.rotation import layers


class WithShortcut(torch.nn.Module):
    """A norm that adds its shortcut, on one input."""

    def __init__(self):
        super().__init__()
        self.norm = layers.NormAdd(4)

    def forward(self, x):
        return self.norm(x.roll(1, dims=-1), x)


class Tokens(torch.nn.Module):
    def forward(self, x):
        return x.unflatten(2, (18, 8))


def attention():
    return layers.MultiheadAttention(8, 2)


SHAPE = (4, 6, 6)  # channels and positions of the maps that the layers are given
CASES = {  # every public layer gets one line here
    "conv": lambda: layers.Conv2d(4, 6, 3, padding=1),
    "conv-strided-grouped": lambda: layers.Conv2d(4, 8, 3, stride=2, groups=2),
    "complex-conv": lambda: layers.ComplexConv2d(4, 6, 3, stride=2, padding=1),
    "linear": lambda: torch.nn.Sequential(layers.Flatten(), layers.Linear(144, 5)),
    "complex-linear": lambda: torch.nn.Sequential(layers.Flatten(), layers.ComplexLinear(144, 5)),
    "soft-gate": lambda: layers.SoftGate(1.2),
    "bound": lambda: layers.Bound(0.8),
    "mean-gate": layers.MeanGate,
    "mean-gate-flat": lambda: torch.nn.Sequential(layers.Flatten(), layers.MeanGate()),
    "norm": lambda: layers.BatchNorm(4),
    "norm-add": WithShortcut,
    "norm-gate": lambda: layers.NormGate(4, 1.4),
    "norm-mean-gate": lambda: layers.NormGate(4, None),
    "norm-mixing-gate": lambda: layers.NormMixingGate(4),
    "norm-flat": lambda: torch.nn.Sequential(layers.Flatten(), layers.BatchNorm(144)),
    "max-pool": lambda: layers.MaxPool2d(2),
    "max-pool-overlapping": lambda: layers.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
    "adaptive-pool": lambda: layers.AdaptiveAvgPool2d(1),
    "dropout": lambda: layers.Dropout(0.4),
    "channel-dropout": lambda: layers.Dropout(0.4, whole_channels=True),
    "stochastic-depth": lambda: layers.StochasticDepth(0.4),
    "stochastic-depth-of-all": lambda: layers.StochasticDepth(0.1, "batch"),
    "flatten": layers.Flatten,
    "layer-norm": lambda: layers.LayerNorm((6, 6)),
    "rms-norm": lambda: layers.RMSNorm(6, eps=None),
    "group-norm": lambda: layers.GroupNorm(2, 4),
    "instance-norm": lambda: layers.GroupNorm(4, 4),
    "attention": lambda: torch.nn.Sequential(layers.Flatten(), Tokens(), attention()),
    "smooth-gate": lambda: layers.SmoothGate("gelu"),
    "smooth-gate-fixed": lambda: layers.SmoothGate("elu", 1.0),
    "leaky-gate": lambda: layers.LeakyGate(layers.MeanGate(), torch.nn.Parameter(torch.rand(4))),
}
NETWORKS = [
    (arch, variant)
    for arch in complexnn.names()
    for variant in (("alpha", "beta") if arch.startswith("resnet") else ("alpha",))
]
TWO_PARTS_ONLY = ("complex-conv", "complex-linear")


def test_every_public_layer_is_under_contract():
    public = {
        name
        for name, value in vars(layers).items()
        if isinstance(value, type) and value.__module__.startswith("complexnn.rotation.layers.")
    }
    covered = set()
    for make in CASES.values():
        covered |= {type(module).__name__ for module in make().modules()}
    assert public <= covered


def processing(arch, variant, dim):
    """A processing module that looks trained: random scales, warmed-up statistics."""
    side = {"vgg16": 32, "alexnet": 63}.get(arch, 16)
    config = complexnn.NetConfig(arch, variant, dim=dim, image_size=(side, side))
    plan = topology(config)
    module, shape = plan.processing.double(), plan.released
    for parameter in module.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    module(torch.randn(4, dim, *shape, dtype=torch.float64))
    return module, shape


def all_subjects():
    for dim in (2, 3, 5):
        for name in CASES:
            if dim == 2 or name not in TWO_PARTS_ONLY:
                yield pytest.param(name, None, dim, id=f"{name}-d{dim}")
        for arch, variant in NETWORKS:
            yield pytest.param(arch, variant, dim, id=f"{arch}-{variant}-d{dim}")


def run(module, x):
    """Call ``module`` on a copy with a fixed seed: same dropout masks, statistics untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return copy.deepcopy(module)(x)


@pytest.mark.parametrize(("name", "variant", "dim"), list(all_subjects()))
def test_contract(name, variant, dim, rng):
    if variant is None:
        module, shape = CASES[name]().double(), SHAPE
    else:
        module, shape = processing(name, variant, dim)
    x = torch.randn(5, dim, *shape, dtype=torch.float64)
    x = x * (torch.rand_like(x) > 0.3)  # exact zeros, drawn per component
    kept = x.clone()
    keys = cF.draw_rotations(5, dim, rng)

    for training in (True, False):
        module.train(training)
        got, want = run(module, cF.rotate(x, keys)), cF.rotate(run(module, x), keys)
        torch.testing.assert_close(got, want, atol=1e-10, rtol=0)
        assert got.abs().max() > 1e-3, "a constant would pass"
        assert torch.equal(x, kept), "the module modified its input"

    module.eval()
    alone = torch.cat([run(module, x[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(run(module, x), alone, atol=1e-10, rtol=0)

    again = copy.deepcopy(module)
    for tensor in again.state_dict().values():
        tensor.zero_()
    again.load_state_dict(module.state_dict())
    assert torch.equal(run(again, x), run(module, x))

    for training in (True, False):
        zero = torch.zeros_like(x).requires_grad_()
        run(module.train(training), zero).square().sum().backward()
        assert torch.equal(zero.grad, torch.zeros_like(zero))


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-23, 1e-12])
@pytest.mark.parametrize(
    "name",
    ["soft-gate", "mean-gate", "norm", "max-pool", "layer-norm", "rms-norm", "smooth-gate"],
)
def test_gradients_stay_finite_near_zero(name, scale):
    x = (scale * torch.randn(3, 2, *SHAPE)).requires_grad_()
    CASES[name]()(x).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", ["soft-gate", "norm", "max-pool", "conv", "linear"])
def test_real_weights_commute_with_reflections_too(name):
    module = CASES[name]().double()
    x = torch.randn(4, 2, *SHAPE, dtype=torch.float64)
    mirror = torch.tensor([[1.0, 0.0], [0.0, -1.0]], dtype=torch.float64).expand(4, 2, 2)
    torch.testing.assert_close(
        run(module, cF.rotate(x, mirror)), cF.rotate(run(module, x), mirror), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [0.0, 1e-4, 300.0])
def test_half_precision_neither_overflows_nor_divides_by_zero(dtype, value):
    x = torch.full((2, 2, 4, 6, 6), value, dtype=dtype, requires_grad=True)
    others = ("layer-norm", "rms-norm", "group-norm", "smooth-gate", "leaky-gate")
    for name in ("soft-gate", "mean-gate", "norm", "max-pool", *others):
        y = CASES[name]().train()(x)
        assert y.dtype == dtype
        y.float().sum().backward()
        assert y.isfinite().all()
        assert x.grad.isfinite().all()


def test_statistics_are_unit_after_norm_and_follow_the_data():
    norm = layers.BatchNorm(3, momentum=1.0)
    x = 7 * torch.randn(64, 2, 3, 5, 5)
    for training in (True, False):
        power = norm.train(training)(x).square().mean((0, 1, 3, 4))
        torch.testing.assert_close(power, torch.ones(3), atol=1e-3, rtol=0)


def test_statistics_keep_no_graph():
    norm = layers.BatchNorm(4)
    norm(torch.randn(2, 2, *SHAPE, requires_grad=True))
    assert not norm.running_mean_square.requires_grad


def test_dropout_drops_all_parts_together_and_scales_the_rest():
    x = torch.randn(8, 3, *SHAPE)
    x[:, 0] = 0  # a mask read back from values would drop the other parts here
    y = layers.Dropout(0.5)(x)
    kept = y[:, 1] != 0
    assert torch.equal(kept, y[:, 2] != 0)
    assert 0.4 < kept.float().mean() < 0.6
    torch.testing.assert_close(y[:, 1:], torch.where(y[:, 1:] != 0, 2 * x[:, 1:], 0))


def test_a_bias_is_refused():
    for make in (layers.Conv2d, layers.ComplexConv2d):
        with pytest.raises(ValueError, match="bias breaks rotation"):
            make(2, 2, 3, bias=True)
    with pytest.raises(ValueError, match="bias breaks rotation"):
        layers.Linear(2, 2, bias=True)


def test_a_single_value_has_no_statistics():
    with pytest.raises(ValueError, match="more than one value"):
        layers.BatchNorm(4)(torch.randn(1, 2, 4, 1, 1))


@pytest.mark.parametrize("bad", [lambda: layers.SoftGate(0), lambda: layers.Dropout(1.0)])
def test_senseless_settings_are_refused(bad):
    with pytest.raises(ValueError, match="must be"):
        bad()


@pytest.mark.parametrize("c", [0.8, None])
def test_norm_and_gate_in_one_are_the_two_in_a_row(c):
    torch.manual_seed(0)
    one = layers.NormGate(4, c).double()
    norm, gate = (
        layers.BatchNorm(4).double(),
        layers.MeanGate() if c is None else layers.SoftGate(c),
    )
    one.weight.data.normal_()
    norm.load_state_dict(one.state_dict())
    for training in (True, True, False):
        x = torch.randn(5, 2, 4, 6, 6, dtype=torch.float64)
        torch.testing.assert_close(
            one.train(training)(x), gate(norm.train(training)(x)), atol=1e-12, rtol=0
        )
    for a, b in zip(one.buffers(), norm.buffers(), strict=True):
        torch.testing.assert_close(a, b)


def test_norm_gate_refuses_what_its_parts_refuse():
    with pytest.raises(ValueError, match="c must be positive"):
        layers.NormGate(4, 0.0)
    with pytest.raises(ValueError, match="more than one value per channel"):
        layers.NormGate(4)(torch.randn(1, 2, 4, 1, 1))
