"""Networks of the user's own: revised and cut."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models

import complexnn
from complexnn import functional as cF
from complexnn import layers


def looks_trained(module):
    """Random statistics, scales and biases: defaults would hide what a rule gets wrong."""
    for m in module.modules():
        if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
            m.running_var.uniform_(0.5, 2)
            m.running_mean.normal_()
            nn.init.uniform_(m.weight, 0.5, 2)
            nn.init.normal_(m.bias)
    return module


def resnet18():
    return complexnn.split(models.resnet18(), after="layer1", until="layer3").processing


def densenet121():
    features = models.densenet121().features
    return nn.Sequential(features.denseblock2, features.transition2)


STRETCHES = {
    "resnet18": (resnet18, (64, 16, 16)),
    "vgg11_bn": (lambda: models.vgg11_bn().features[4:15], (64, 16, 16)),
    "densenet121": (densenet121, (128, 8, 8)),
    "mobilenet_v2": (lambda: models.mobilenet_v2().features[2:7], (16, 16, 16)),
}


@pytest.mark.parametrize("name", STRETCHES)
@pytest.mark.parametrize(("dim", "gate"), [(2, "mean"), (3, "fixed")])
def test_torchvision_stretches(name, dim, gate):
    make, shape = STRETCHES[name]
    plain = looks_trained(make()).eval()
    revised = complexnn.revise(plain, dim=dim, gate=gate)
    complexnn.check_equivariance(revised, (2, dim, *shape), atol=1e-9)
    x = torch.randn(2, dim, *shape)
    assert revised(x).shape == (2, dim, *plain(x[:, 0]).shape[1:])
    scales = sum("bias" not in n for n, _ in plain.named_parameters())
    assert len(list(revised.parameters())) == scales


class Calls(nn.Module):
    """Every call that has an equivariant form."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        y = F.relu(self.conv(x)) + 0.5 * x - x / 3
        y = torch.cat([y, torch.relu(x)], dim=1)
        y = F.max_pool2d(F.relu6(y), 2, stride=2)
        y = F.interpolate(y, scale_factor=2, mode="bilinear")
        y = y + F.interpolate(F.avg_pool2d(y, 2), size=x.shape[2:])
        y = y + F.interpolate(F.avg_pool2d(y, 2), size=(x.size(2), x.size(-1)))
        y = y + F.interpolate(F.avg_pool2d(y, 2), size=x.shape[-2:])
        y = F.dropout(F.pad(y, (1, 1, 0, 0)), 0.2, self.training)
        y = y.mean([2, 3], keepdim=True) + F.adaptive_avg_pool2d(y, 1)
        return self.head(y.view(y.size(0), -1))


LAYERS = {
    "grouped": lambda: nn.Conv2d(4, 8, 3, groups=2),
    "depth-wise": lambda: nn.Conv2d(4, 4, 3, groups=4, padding=1),
    "dilated": lambda: nn.Conv2d(4, 4, 3, dilation=2),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1),
    "same padding": lambda: nn.Conv2d(4, 4, 3, padding="same", padding_mode="reflect"),
    "norm": lambda: nn.BatchNorm2d(4),
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "max pool": lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    "average pool": lambda: nn.AvgPool2d(2),
    "adaptive pool": lambda: nn.AdaptiveAvgPool2d((2, 3)),
    "upsample": lambda: nn.Upsample(scale_factor=2),
    "dropout": lambda: nn.Dropout(0.3),
    "channel dropout": lambda: nn.Dropout2d(0.3),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(256, 5), nn.ReLU(), nn.Identity()),
    "norm of vectors": lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(256)),
    "calls": Calls,
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dim", [2, 3])
def test_every_rule(name, dim):
    plain = looks_trained(LAYERS[name]()).eval()
    before = copy.deepcopy(plain.state_dict())
    revised = complexnn.revise(plain, dim=dim)
    complexnn.check_equivariance(revised, (3, dim, 4, 8, 8))
    x = torch.randn(3, dim, 4, 8, 8, requires_grad=True)
    assert revised(x).shape == (3, dim, *plain(x[:, 0]).shape[1:])
    assert all(torch.equal(before[k], v) for k, v in plain.state_dict().items())
    revised(x).sum().backward()
    assert all(p.grad is not None for p in revised.parameters())
    assert all(p.grad is None for p in plain.parameters())


def test_linear_networks_keep_their_weights():
    plain = nn.Sequential(nn.Conv2d(4, 6, 3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(54, 5))
    for p in (plain[0].bias, plain[3].bias):
        nn.init.zeros_(p)
    x = torch.randn(3, 4, 4, 8, 8)
    together = complexnn.revise(plain, dim=4)(x)
    torch.testing.assert_close(together, torch.stack([plain(p) for p in x.unbind(1)], 1))


def test_a_norm_starts_from_the_mean_square_that_it_has_seen():
    plain = looks_trained(nn.BatchNorm2d(3))
    norm = next(m for m in complexnn.revise(plain).modules() if isinstance(m, layers.BatchNorm))
    expected = plain.running_var + plain.running_mean**2
    torch.testing.assert_close(norm.running_mean_square, expected)
    torch.testing.assert_close(norm.weight, plain.weight)


def test_relu6_becomes_a_bound():
    x = 100 * torch.randn(4, 2, 3, 5, 5)
    y = complexnn.revise(nn.ReLU6())(x)
    assert cF.modulus(y).max() <= 6 * 2**0.5 + 1e-4
    small = 0.1 * x / cF.modulus(x).max()
    torch.testing.assert_close(layers.Bound(1.0)(small), small)


class Gated(nn.Module):
    def forward(self, x):
        return x * x.mean([2, 3], keepdim=True)


class Squeeze(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Gated()

    def forward(self, x):
        return self.inner(x)


class Learned(nn.Module):
    def __init__(self):
        super().__init__()
        self.offset = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x + self.offset


def function(body):
    class Module(nn.Module):
        def forward(self, x):
            return body(x)

    return Module()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Softmax(1), r"0 \(Softmax\): compares signed values; do it in the decoder"),
        (lambda: nn.LayerNorm(8), r"0 \(LayerNorm\): subtracts a mean.*use BatchNorm"),
        (lambda: nn.GroupNorm(2, 4), r"0 \(GroupNorm\)"),
        (nn.Sigmoid, r"0 \(Sigmoid\): acts on each part alone; use ReLU"),
        (nn.GELU, r"0 \(GELU\)"),
        (nn.Hardswish, r"0 \(Hardswish\)"),
        (lambda: nn.LocalResponseNorm(2), "no equivariant form is known"),
        (lambda: nn.MaxPool2d(2, dilation=2), "is dilated"),
        (lambda: nn.BatchNorm2d(4, track_running_stats=False), "answers depend on their neighb"),
        (lambda: nn.Flatten(2), "flattens other axes"),
        (Squeeze, r"0\.inner.*multiplies two features.*use a sum or a concatenation"),
        (Learned, r"offset: a stored tensor enters"),
        (lambda: function(lambda x: x + 1), "adds a constant"),
        (lambda: function(lambda x: x.sigmoid()), r"\(sigmoid\): no equivariant form"),
        (lambda: function(lambda x: torch.cat([x, x])), "concatenates along the batch"),
        (lambda: function(lambda x: x.mean(1)), "averages over channels or samples"),
        (lambda: function(lambda x: x.mean([-4])), "averages over channels or samples"),
        (lambda: function(lambda x: torch.cat([x, x], -2)), "may concatenate along the batch"),
        (lambda: function(lambda x: x.view(-1, 4)), "may mix parts"),
        (lambda: function(lambda x: x.view(4, -1)), "may mix parts"),
        (lambda: function(lambda x: x.view(x.dim(), -1)), "asks for the number of axes"),
        (lambda: function(lambda x: F.interpolate(x, x.shape[:2])), "more of a shape"),
        (lambda: function(lambda x: x if x.sum() > 0 else -x), "torch.fx cannot trace"),
    ],
)
def test_what_cannot_be_equivariant_is_refused_by_name(make, message):
    with pytest.raises(complexnn.RevisionError, match=message):
        complexnn.revise(nn.Sequential(make()))


# ----------------------------------------------------------------------------------- split


@pytest.mark.parametrize(
    ("make", "after", "until"),
    [
        (models.resnet18, "layer1", "layer3"),
        (models.vgg11_bn, "features.7", "features.20"),
        (models.mobilenet_v2, "features.3", "features.13"),
        (models.densenet121, "features.transition1", "features.transition3"),
    ],
)
def test_the_stretches_are_the_whole(make, after, until):
    model = looks_trained(make()).eval()
    encoder, processing, decoder = complexnn.split(model, after=after, until=until)
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(decoder(processing(encoder(x))), model(x))
    parameters = [sum(p.numel() for p in m.parameters()) for m in (encoder, processing, decoder)]
    assert all(parameters)
    assert sum(parameters) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("after", "until", "message"),
    [
        ("layer9", "layer3", "no module 'layer9' in ResNet; it has conv1, bn1"),
        ("layer3", "layer1", "layer1 is not behind layer3"),
        ("layer1", "layer2.0.conv1", "more than one tensor crosses it"),
        ("layer1", "layer1.0", "called 0 times"),
    ],
)
def test_cuts_that_cannot_be(after, until, message):
    with pytest.raises(complexnn.InputError, match=message):
        complexnn.split(models.resnet18(), after=after, until=until)


def test_a_users_network_runs_rotated_from_end_to_end(rng):
    encoder, middle, decoder = complexnn.split(models.resnet18(), after="layer1", until="layer3")
    net = complexnn.SplitNet(encoder, complexnn.revise(middle), decoder, complexnn.NetConfig())
    images = torch.rand(4, 3, 32, 32)
    net(images, generator=rng).square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.eval()
    groups = net.group(net.features(images), generator=rng)
    answers = [
        net.decode(net.process(released), key)
        for released, key in (net.rotate(groups, generator=rng) for _ in range(2))
    ]
    torch.testing.assert_close(*answers, atol=1e-3, rtol=1e-3)
