"""Stretches of today's networks, and their layers: norms within a sample, attention, shapes and
activations. What each becomes is exact, and at d = 1 the plain layer where that is promised."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models, ops

import complexnn
from complexnn.networks.revise import layer_rules
from complexnn.rotation import functional as cF
from complexnn.rotation import layers

DIMS = (1, 2, 3, 7)


def jittered(module):
    """In float64, with scales, shifts and statistics that are not their defaults."""
    module = module.double()
    for tensor in module.state_dict().values():
        if tensor.dim() == 1:
            tensor.add_(0.2 * torch.rand_like(tensor))
    return module


def run(module, x):
    """A call of a copy with a fixed seed: same dropout masks, statistics untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return copy.deepcopy(module)(x)


def assert_lawful(plain, shape, dim, gate="mean"):
    """Every law of a revised network, for an input with exact zeros."""
    revised = complexnn.revise(plain, dim=dim, gate=gate)
    x = torch.randn(3, dim, *shape, dtype=torch.float64)
    x = x * (torch.rand_like(x) > 0.3)
    kept, keys = x.clone(), cF.draw_rotations(3, dim, torch.Generator().manual_seed(0))
    if dim == 1:  # the orthogonal matrices of one part
        keys = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64).view(3, 1, 1)
    for training in (True, False):
        revised.train(training)
        got, want = run(revised, cF.rotate(x, keys)), cF.rotate(run(revised, x), keys)
        torch.testing.assert_close(got, want, atol=1e-10, rtol=0)
        assert got.abs().max() > 1e-3, "a constant would pass"
        assert torch.equal(x, kept), "the module modified its input"
    assert want.shape == (3, dim, *plain.eval()(x[:, 0]).shape[1:])
    alone = torch.cat([revised(x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(revised(x), alone, atol=1e-10, rtol=0)
    zero = torch.zeros_like(x).requires_grad_()
    for training in (True, False):
        (gradient,) = torch.autograd.grad(run(revised.train(training), zero).sum(), zero)
        assert gradient.isfinite().all()


# ------------------------------------------------------------------------------------ networks


def middle(make, after, until):
    return lambda: complexnn.split(make(), after=after, until=until).processing


def convnext():
    features = models.convnext_tiny().features
    return nn.Sequential(features[1][0], features[2], features[3][0])


def densenet():
    """A block and a transition as densenet121's, with fewer channels."""
    block = models.densenet._DenseBlock(2, 8, bn_size=2, growth_rate=4, drop_rate=0.1)
    return nn.Sequential(block, models.densenet._Transition(16, 8))


def transformer():
    """vit_b_16's encoder layers, of smaller width."""
    sizes = {"image_size": 8, "patch_size": 4, "hidden_dim": 16, "mlp_dim": 32}
    vit = models.VisionTransformer(num_layers=2, num_heads=2, dropout=0.1, **sizes)
    return vit.encoder.layers


NETWORKS = {
    "resnet18": (middle(models.resnet18, "bn1", "layer2.0"), (64, 6, 6)),
    "vgg11_bn": (
        lambda: models.vgg.make_layers(models.vgg.cfgs["A"], batch_norm=True)[4:11],
        (64, 4, 4),
    ),
    "densenet121": (densenet, (8, 4, 4)),
    "mobilenet_v2": (lambda: models.mobilenet_v2().features[2:5], (16, 6, 6)),
    "mobilenet_v3_small": (lambda: models.mobilenet_v3_small().features[1:6], (16, 8, 8)),
    "efficientnet_b0": (lambda: models.efficientnet_b0().features[2], (16, 6, 6)),
    "regnet_y_400mf": (lambda: models.regnet_y_400mf().trunk_output[:2], (32, 8, 8)),
    "shufflenet_v2_x0_5": (middle(models.shufflenet_v2_x0_5, "maxpool", "stage2"), (24, 8, 8)),
    "mnasnet0_5": (lambda: models.mnasnet0_5().layers[6:9], (16, 6, 6)),
    "convnext_tiny": (convnext, (96, 4, 4)),
    "vit_b_16": (transformer, (5, 16)),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    make, shape = NETWORKS[request.param]
    torch.manual_seed(0)
    return jittered(make()), shape


@pytest.mark.parametrize("dim", DIMS)
def test_stretches_of_todays_networks(network, dim):
    assert_lawful(*network, dim)


def test_what_stays_refused_is_named():
    with pytest.raises(complexnn.RevisionError) as error:
        complexnn.revise(models.swin_t().features[1:2])
    for obstacle in ("attn, shifted_window_attention", "torchvision.models.swin_transformer"):
        assert obstacle in str(error.value)
    vit = models.VisionTransformer(16, 8, 1, 2, hidden_dim=8, mlp_dim=8)
    with pytest.raises(complexnn.RevisionError) as error:
        complexnn.revise(vit)
    for obstacle in ("2 obstacles", "cat (cat)", "encoder, add (add)", "cut behind it"):
        assert obstacle in str(error.value)


# -------------------------------------------------------------------------------------- layers


def function(body, **stored):
    """A module of one call, with tensors that it stores."""

    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            for name, tensor in stored.items():
                self.register_buffer(name, tensor)

        def forward(self, x):
            return body(self, x) if stored else body(x)

    return Module().double()


def self_attention(**settings):
    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, **settings)
            self.register_buffer("hidden", torch.ones(6, 6, dtype=torch.bool).triu(1))

        def forward(self, x):
            x = x.flatten(2)  # (B, 4, 16) to 6 tokens and more
            x = torch.cat([x, x], 1).view(x.size(0), 16, 8)[:, :6]
            if not self.attention.batch_first:
                x = x.transpose(0, 1)
            y, _ = self.attention(x, x, x, attn_mask=self.hidden)
            y = y + x
            return y if self.attention.batch_first else y.permute(1, 0, 2)

    return Module()


class ByHand(nn.Module):
    """Attention as it is often written, with a position bias and a mask on the products."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48, bias=False), nn.Linear(16, 16, bias=False)
        self.position = nn.Parameter(torch.randn(2, 4, 4))
        self.register_buffer("seen", torch.ones(4, 4).tril()[None, None])
        self.scale = nn.Parameter(torch.rand(16))

    def forward(self, x):
        x = x.flatten(2)
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        products = (q @ k.transpose(-2, -1)) * (c // 2) ** -0.5 + self.position
        products = products.masked_fill(self.seen == 0, float("-inf"))
        y = (products.softmax(dim=-1) @ v).transpose(1, 2).reshape(b, n, c)
        return self.scale * self.out(y) + F.scaled_dot_product_attention(x, x, x)


def shuffled(x):
    b, c, h, w = x.size()
    y = x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, -1, h, w)
    first, second = y.chunk(2, dim=1)
    return torch.cat([second, first], dim=1)


def merged_patches(x):
    x = x.permute(0, 2, 3, 1)
    corners = [x[..., i::2, j::2, :] for i in (0, 1) for j in (0, 1)]
    return torch.cat(corners, -1).flatten(1, 2).unsqueeze(1).squeeze(1).sum(1)


def moved(x):
    """Samples leave the first axis, and come back."""
    y = x.permute(1, 0, 3, 2).unsqueeze(0)[0].roll(1, 0)
    a, b, *_ = y.split(1, 0)[0].unbind(0), x.dim(), x.ndim
    return a[0].mean(1) * b + y[2].mean(2) - y.reshape(4, x.shape[0], -1)[0][:, :4]


# At d = 1 the form is the plain layer, as long as that has no shift.
EXACT = {
    "layer norm": lambda: nn.LayerNorm((4, 4), bias=False),
    "layer norm without scale": lambda: nn.LayerNorm(4, elementwise_affine=False),
    "rms norm": lambda: nn.RMSNorm(4),
    "group norm": lambda: nn.GroupNorm(2, 4),
    "instance norm": lambda: nn.InstanceNorm2d(4),
    "instance norm of lines": lambda: nn.Sequential(nn.Flatten(2), nn.InstanceNorm1d(4)),
    "layer norm call": lambda: function(
        lambda m, x: F.layer_norm(x, (4,), m.weight), weight=torch.rand(4)
    ),
    "rms norm call": lambda: function(lambda x: F.rms_norm(x, (4, 4), eps=0.1)),
    "group norm call": lambda: function(
        lambda m, x: F.group_norm(x, 2, m.weight), weight=torch.rand(4)
    ),
    "instance norm call": lambda: function(lambda x: F.instance_norm(x, eps=0.1)),
    "attention": lambda: self_attention(bias=False, batch_first=True),
    "attention, batch second": lambda: self_attention(bias=False),
    "attention with dropout": lambda: self_attention(bias=False, dropout=0.2),
    "attention by hand": ByHand,
    "channel shuffle": lambda: function(shuffled),
    "channel shuffle layer": lambda: nn.ChannelShuffle(2),
    "patch merging": lambda: function(merged_patches),
    "moved samples": lambda: function(moved),
    "stored scale": lambda: function(lambda m, x: x * m.s / m.s, s=torch.rand(4, 1, 1) + 1),
    "samples elsewhere": lambda: nn.Sequential(
        Swapped(), nn.Linear(4, 3, bias=False), nn.LayerNorm(3, bias=False), Swapped()
    ),
    "means": lambda: function(lambda x: x.mean(1, keepdim=True) + x.sum((-1, -2), keepdim=True)),
}


class Swapped(nn.Module):
    def forward(self, x):
        return x.transpose(0, 1)


GATED = {
    "GELU": nn.GELU,
    "SiLU": nn.SiLU,
    "Hardswish": nn.Hardswish,
    "Mish": nn.Mish,
    "ELU": nn.ELU,
    "LeakyReLU": lambda: nn.LeakyReLU(0.2),
    "PReLU": lambda: nn.PReLU(4),
    "calls": lambda: function(
        lambda x: (
            F.gelu(x) + F.silu(x) + F.hardswish(x) + F.mish(x) + F.elu(x) + F.leaky_relu(x, 0.2)
        )
    ),
    "squeeze and excitation": lambda: ops.SqueezeExcitation(4, 2),
    "hard gate": lambda: ops.SqueezeExcitation(4, 2, scale_activation=nn.Hardsigmoid),
    "gate call": lambda: function(lambda x: x * (0.5 - torch.sigmoid(x.mean((2, 3), True))) * 2),
    "plain layers of what is invariant": lambda: Gate(),
}


class Gate(nn.Module):
    """Layers behind a sigmoid, which keep their biases."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Sigmoid(), nn.Conv2d(4, 4, 1), nn.Tanh(), nn.Softmax(1))

    def forward(self, x):
        return F.relu(self.net(x)) * x


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("name", [*EXACT, *GATED])
def test_laws_of_every_layer(name, dim):
    torch.manual_seed(0)
    plain = jittered((EXACT | GATED)[name]())
    assert_lawful(plain, (4, 4, 4), dim, gate="mean" if dim < 3 else "fixed")


@pytest.mark.parametrize("name", EXACT)
def test_one_part_is_the_plain_layer(name):
    torch.manual_seed(0)
    plain = jittered(EXACT[name]()).eval()
    for path, tensor in plain.state_dict().items():
        if path.endswith("bias"):  # a shift, which goes
            tensor.zero_()
    x = torch.randn(3, 4, 4, 4, dtype=torch.float64)
    y = complexnn.revise(plain, dim=1)(x.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(y, plain(x), atol=1e-10, rtol=0)


def test_shifts_leave_nothing_behind():
    norms = nn.LayerNorm(4), nn.GroupNorm(2, 4), models.convnext.LayerNorm2d(4)
    plain = nn.Sequential(*norms[:2], ByHand(), norms[2])
    names = set(complexnn.revise(plain[:2]).state_dict())
    assert names == {"0.weight", "1.weight"}
    assert set(complexnn.revise(plain[3]).state_dict()) == {"weight"}
    revised = complexnn.revise(plain[2])
    assert {"position", "scale", "qkv.weight", "out.weight"} == {
        n for n, _ in revised.named_parameters()
    }
    assert revised.position is not plain[2].position


def test_the_page_names_every_layer():
    page = (Path(__file__).parents[1] / "docs/your-own-network.md").read_text()
    plain = [row.split("|")[1] for row in page.splitlines() if row.startswith("| ")]
    for kinds, _ in layer_rules.FORMS:
        for kind in kinds:
            assert any(f"`{kind.__name__}`" in column for column in plain), kind


def test_the_page_runs():
    page = (Path(__file__).parents[1] / "docs/your-own-network.md").read_text()
    names = {}
    exec(page.split("```python\n")[1].split("```")[0], names)
    assert names["net"].eval()(torch.rand(2, 3, 64, 64)).shape == (2, 10)


@pytest.mark.parametrize(
    ("plain", "shape"), [(function(shuffled), (4, 4, 4)), (transformer(), (5, 16))]
)
def test_changed_shapes_and_attention_export_for_any_batch(plain, shape):
    revised = complexnn.revise(plain).eval().double()
    x = torch.randn(3, 2, *shape, dtype=torch.float64)
    sizes = ({0: torch.export.Dim("batch", min=2)},)
    graph = torch.export.export(revised, (x,), dynamic_shapes=sizes).module()
    torch.testing.assert_close(graph(torch.cat([x, x])), revised(torch.cat([x, x])))


def test_the_smooth_gate_is_near_the_average_slope_of_its_window():
    """The formula from which the gates follow: g averaged over [r - c, r]."""
    x = torch.randn(4, 2, 8, 5, 5, dtype=torch.float64)
    r = cF.modulus(x) / 2**0.5
    c = r.mean((2, 3, 4), keepdim=True)
    for name, g in layers.gates.SLOPES.items():
        window = torch.stack([g(r - c * (i + 0.5) / 100) for i in range(100)]).mean(0)
        torch.testing.assert_close(layers.SmoothGate(name)(x), x * window, atol=0.06, rtol=0)
    step = torch.stack([(r - c * (i + 0.5) / 1000 > 0).double() for i in range(1000)]).mean(0)
    expected = x * (r / c).clamp(max=1)
    torch.testing.assert_close(x * step, expected, atol=1e-2, rtol=0)
    torch.testing.assert_close(layers.SoftGate(2**0.5)(x), x * r.clamp(max=1))
