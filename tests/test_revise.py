"""Networks of the user's own: revised and cut."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models

import complexnn
from complexnn.networks.revise import call_rules, layer_rules
from complexnn.networks.signs import one_signed
from complexnn.rotation import functional as cF
from complexnn.rotation import layers


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


class ClassToken(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 1, 8))

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        return torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], dim=1)


class Shortcut(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x) + x


def function(body):
    class Module(nn.Module):
        def forward(self, x):
            return body(x)

    return Module()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Softmax(1), r"0 \(Softmax\): compares signed values; do it in the decoder"),
        (nn.Tanh, r"0 \(Tanh\): acts on each part alone; use ReLU or GELU"),
        (lambda: nn.ELU(2.0), r"0 \(ELU\): has a slope that jumps at 0; use alpha=1"),
        (nn.Sigmoid, "the result has no parts, since it is a function of moduli"),
        (
            lambda: nn.InstanceNorm2d(4, track_running_stats=True),
            r"0 \(InstanceNorm2d\): subtracts a stored mean.*use track_running_stats=False",
        ),
        (
            lambda: nn.TransformerEncoderLayer(8, 2),
            r"has no forward that can be traced; use MultiheadAttention and LayerNorm",
        ),
        (lambda: nn.LocalResponseNorm(2), "no equivariant form is known"),
        (lambda: nn.MaxPool2d(2, dilation=2), "is dilated"),
        (lambda: nn.BatchNorm2d(4, track_running_stats=False), "answers depend on their neighb"),
        (lambda: nn.Flatten(0), "flattens the axis of samples"),
        (Squeeze, r"0\.inner.*multiplies two features.*use a sum, or a sigmoid"),
        (
            Learned,
            r"\(add\): adds a stored tensor, such as a bias or a position emb.*cut behind",
        ),
        (lambda: ClassToken(), r"concatenates a stored tensor, such as a class token.*cut behind"),
        (lambda: function(lambda x: x + 1), "adds a constant"),
        (lambda: function(lambda x: x.sigmoid() + x), "adds something that is no feature"),
        (lambda: function(lambda x: x.tanh()), r"\(tanh\): no equivariant form"),
        (lambda: function(lambda x: torch.cat([x, x])), "concatenates along the batch"),
        (lambda: function(lambda x: x.mean(0)), "averages over samples"),
        (lambda: function(lambda x: x.sum([0, 1])), "adds up samples"),
        (lambda: function(lambda x: torch.cat([x, x], -2)), "may concatenate along the batch"),
        (lambda: function(lambda x: x.view(-1, 4)), "may mix samples.*axis of their own"),
        (lambda: function(lambda x: x.view(4, -1)), "may mix samples"),
        (lambda: function(lambda x: x.view(x.dim(), -1)), "may mix samples"),
        (lambda: function(lambda x: x.view(x.size(0) * x.size(1), -1)), "may mix samples"),
        (lambda: function(lambda x: F.interpolate(x, x.shape[:2])), "more of a shape"),
        (lambda: function(lambda x: x if x.sum() > 0 else -x), "torch.fx cannot trace"),
        # Products and quotients.
        (lambda: function(lambda x: x * x), r"\(mul\): multiplies two features"),
        (lambda: function(lambda x: torch.mul(x, other=x)), "multiplies two features"),
        (lambda: function(lambda x: 1 / x), "divides by a feature"),
        (lambda: function(lambda x: x / x), "divides by a feature"),
        (lambda: function(lambda x: torch.div(x, 0.1, rounding_mode="floor")), "rounds each part"),
        (lambda: function(lambda x: x / 0), "divides by something that is no finite number"),
        (lambda: function(lambda x: x * float("inf")), "scales by something that is no finite"),
        (lambda: function(lambda x: x * 2j), "scales by something that is no finite"),
        (lambda: function(lambda x: x * torch.rand(x.shape)), "makes a tensor that is no feature"),
        (lambda: function(lambda x: x * torch.rand(3)), "draws random numbers of its own"),
        (lambda: function(lambda x: x**2), r"\(pow\): no equivariant form"),
        (lambda: function(lambda x: x // 2), r"\(floordiv\): no equivariant form"),
        (lambda: function(lambda x: x @ x.mT), r"asks for \.mT"),
        # Sums.
        (lambda: function(lambda x: x + 1j), "adds a constant"),
        (lambda: function(lambda x: x + x.shape[2]), "adds something that is no feature"),
        (lambda: function(lambda x: torch.add(x, x, alpha=-3)), "scales a summand by alpha"),
        # Shapes.
        (lambda: function(lambda x: x.T), r"asks for \.T"),
        (lambda: function(lambda x: torch.flatten(x, end_dim=1)), "flattens the axis of samples"),
        (lambda: function(lambda x: x.flatten(-3)), "flattens the axis of samples"),
        (lambda: function(lambda x: x.view(x.size(1), -1)), "may mix samples"),
        (lambda: function(lambda x: x[:1]), "takes some samples, not all"),
        (lambda: function(lambda x: x[0]), "takes some samples, not all"),
        (lambda: function(lambda x: x[:, torch.arange(2)]), "is indexed by something that is no"),
        (lambda: function(lambda x: x.squeeze()), "may squeeze a batch of one sample"),
        (lambda: function(lambda x: x.squeeze(0)), "works on the axis of samples"),
        (lambda: function(lambda x: x.chunk(2)[0]), "works on the axis of samples"),
        (lambda: function(lambda x: x.roll(1, 0)), "works on the axis of samples"),
        (lambda: function(lambda x: torch.cat(x.chunk(2, 1), 1)), "takes a list of features"),
        (lambda: function(lambda x: x.chunk(2, 1)), "the result is not one feature"),
        (lambda: function(lambda x: x.transpose(0, 1)), "its samples on axis 1; return them on"),
        (lambda: function(lambda x: x.transpose(0, -1)), "moves the samples to an axis from the"),
        (
            lambda: nn.Sequential(function(lambda x: x.transpose(0, 1)), nn.Conv2d(4, 4, 1)),
            r"0\.1 \(Conv2d\): takes axis 0 for the samples, which are on axis 1",
        ),
        (lambda: function(lambda x: x + x.transpose(0, 1)), "samples are on different axes"),
        (lambda: function(lambda x: x @ torch.ones(8, 8)), "a matrix that is no feature; use nn.L"),
        (lambda: function(lambda x: x @ x), "the result has no parts"),
        (lambda: function(lambda x: x.softmax(-1)), "it compares signed values"),
        (lambda: function(lambda x: (x @ x).softmax(0) @ x), "works on the axis of samples"),
        (lambda: function(lambda x: F.relu_(x.view(x.shape)) + x), "changes in place what is used"),
        (
            lambda: function(lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.1)),
            "drops in eval mode, too",
        ),
        (lambda: function(lambda x: x * x.shape[-4]), "more of a shape"),
        # Statistics, windows and borders.
        (lambda: function(lambda x: x.mean()), "averages over samples"),
        (lambda: function(lambda x: x.mean(2, dtype=torch.float64)), "takes dtype="),
        (lambda: function(lambda x: x.amax(2)), r"\(amax\): no equivariant form"),
        (lambda: function(lambda x: F.pad(x, (0,) * 6 + (1, -1))), "may pad the batch"),
        (lambda: function(lambda x: F.pad(x, (1, 1), value=1.0)), "not 0"),
        (lambda: function(lambda x: F.max_pool2d(x, 2, dilation=2)), "is dilated"),
        (lambda: function(lambda x: torch.max_pool2d(x, 2, 2, 0, 2)), "is dilated"),
        (
            lambda: function(lambda x: F.max_pool2d(x, 2, return_indices=True)[0]),
            r"max_pool2d.*: (no equivariant form|returns indices)",
        ),
        (lambda: nn.MaxPool2d(2, return_indices=True), "returns indices"),
        (lambda: function(lambda x: F.batch_norm(x, None, None, training=True)), "no equivariant"),
        (lambda: function(F.softmax), "no equivariant form"),
        (lambda: function(torch.abs), "no equivariant form"),
        (lambda: function(lambda x: F.interpolate(x, x)), "takes a feature for a setting"),
        (
            lambda: function(lambda x: torch.cat([x, torch.ones(2, 4, 8, 8)], 1)),
            "makes a tensor|a stored tensor|is no feature",
        ),
        # Dropout.
        (lambda: function(lambda x: F.dropout(x, 0.5)), "drops in eval mode, too"),
        (lambda: nn.Dropout(1.0), r"0 \(Dropout\): p must be in"),
        # In place, seen by others.
        (lambda: function(lambda x: (F.relu_(x), x)[1]), "changes in place what is used again"),
        (lambda: function(lambda x: x.mul_(2) + x), "changes in place what is used again"),
        (lambda: Shortcut(nn.ReLU(inplace=True)), r"0\.layer, .*\(0\.layer\): changes in place"),
        # Inputs and results.
        (lambda: function(lambda x: torch.ones(x.shape)), "makes a tensor that is no feature"),
        (lambda: function(lambda x: (x, -x)), "the result is not one feature"),
        (lambda: function(lambda x: x.shape[2]), "the result is not one feature"),
    ],
)
def test_what_cannot_be_equivariant_is_refused_by_name(make, message):
    with pytest.raises(complexnn.RevisionError, match=message):
        complexnn.revise(nn.Sequential(make()))


@pytest.mark.parametrize("rules", [call_rules, layer_rules])
def test_no_layer_and_no_call_has_two_rows(rules):
    targets = [target for row in rules._TABLE for target in row[0]]
    assert len(targets) == len(set(targets)) == len(rules.RULES)


def test_two_inputs_are_refused():
    class Two(nn.Module):
        def forward(self, x, scale=1.0):
            return x * scale

    with pytest.raises(complexnn.RevisionError, match="scale: a second input"):
        complexnn.revise(Two())


LATE = {  # what only the shape of the features shows
    "sum of other axes": (lambda x: x + x.mean([2, 3]), (4, 4, 4), "use keepdim=True"),
    "mean of samples": (lambda x: x.flatten(1).mean(-2), (4, 2, 2), "over the axis of samples"),
    "moved samples": (lambda x: x.transpose(-2, -1), (4,), "over the axis of samples"),
    "sliced samples": (lambda x: x[..., 1:, :], (4,), "over the axis of samples"),
    "norm of samples": (lambda x: F.layer_norm(x, (4, 4)), (4,), "over the axis of samples"),
    "scaled samples": (lambda x: x * torch.ones(4, 1), (4,), "has an entry per sample"),
    "softmax of samples": (
        lambda x: (x @ x).softmax(-3) @ x,
        (4, 4),
        "over the axis of samples",
    ),
    "mask of samples": (
        lambda x: F.scaled_dot_product_attention(x, x, x, torch.ones(4, 4, 4)),
        (4, 3),
        "has an entry per sample",
    ),
    "product of samples": (lambda x: (x @ x) @ x, (4,), "takes samples for a matrix"),
    "concatenated parts": (lambda x: torch.cat([x, x], -3), (4, 6), "concatenates along the batch"),
    "shifted batch": (lambda x: F.pad(x.flatten(1), (0, 0, 1, -1)), (4, 2, 2), "pads the batch"),
}


@pytest.mark.parametrize("name", LATE)
def test_what_only_the_shape_shows_is_refused_at_the_first_call(name):
    body, shape, message = LATE[name]
    revised = complexnn.revise(function(body))
    with pytest.raises(complexnn.RevisionError, match=message):
        revised(torch.randn(4, 2, *shape))


def test_a_batch_is_not_taken_for_channels():
    """An axis less than a convolution has, and torch would take the 4 x 2 parts for 8 channels."""
    revised = complexnn.revise(nn.Conv2d(8, 8, 3, padding=1))
    with pytest.raises(complexnn.RevisionError, match="needs features"):
        revised(torch.randn(4, 2, 5, 5))


def test_every_obstacle_is_named_with_its_module():
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Tanh(), Squeeze(), nn.Sequential(nn.SELU()))
    with pytest.raises(complexnn.RevisionError) as error:
        complexnn.revise(model)
    text = str(error.value)
    for obstacle in ("3 obstacles", "1 (Tanh)", "2.inner, mul (mul)", "3.0 (SELU)"):
        assert obstacle in text
    # Of a stretch, too, with the paths of the network that it was cut from.
    whole = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sequential(Squeeze(), nn.ReLU()), nn.Flatten())
    middle = complexnn.split(whole, after="0", until="1").processing
    with pytest.raises(complexnn.RevisionError, match=r"^1\.0\.inner, mul \(mul\)"):
        complexnn.revise(middle)


@pytest.mark.parametrize(("setting", "said"), [({"gate": "soft"}, "soft"), ({"dim": 0}, "dim")])
def test_unknown_settings_are_refused(setting, said):
    with pytest.raises(complexnn.InputError, match=said):
        complexnn.revise(nn.ReLU(), **setting)


def test_layers_and_calls_do_not_take_each_others_names():
    """A call's own name may be that of a layer: both must stay."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(4, 4, 1)
            self.relu = nn.ReLU()
            self.relu_1 = nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return self.relu_1(F.relu6(self.relu(self.first(x))))

    revised = complexnn.revise(Net())
    kinds = [type(m).__name__ for m in revised.modules()]
    assert (kinds.count("PerPart"), kinds.count("MeanGate"), kinds.count("Bound")) == (2, 2, 1)
    assert {"first.layer.weight", "relu_1.layer.weight"} == set(revised.state_dict())
    complexnn.check_equivariance(revised, (2, 2, 4, 3, 3))


def test_arguments_of_a_pool_are_kept():
    x = torch.randn(2, 1, 4, 9, 9).abs()  # where the modulus is the value
    bodies = [
        lambda x: F.max_pool2d(x, 3, 2, 1, 1, True),
        lambda x: torch.max_pool2d(x, 3, 2, 1),
        lambda x: F.max_pool2d(x, kernel_size=(2, 3), padding=(1, 0), ceil_mode=True),
        lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        lambda x: F.pad(x, (1, 0, 2, 1, 1, 1)),
        lambda x: x.view(x.shape[0], -1),
        lambda x: 0 - x - 0.0,
    ]
    for body in bodies:
        assert torch.equal(complexnn.revise(function(body), dim=1)(x)[:, 0], body(x[:, 0]))


# ----------------------------------------------------------------------------------- split


class Dropping(nn.Module):
    """Dropout by a call, in a block of its own, before and behind the cuts."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(64, 64) for _ in range(3))

    def forward(self, x):
        for layer in (self.first, self.second, self.third):
            x = layer(F.dropout(x, 0.5, training=self.training))
        return x


@pytest.mark.parametrize("training", [True, False])
def test_dropout_by_a_call_follows_the_mode(training):
    model = nn.Sequential(Dropping()).train(training)
    x, state = torch.randn(8, 64), torch.random.get_rng_state()
    stretches = complexnn.split(model, after="0.first", until="0.second")
    assert model.training is model[0].training is training
    for mode in (True, False):
        model.train(mode)
        whole = nn.Sequential(*stretches).train(mode)
        results = []
        for net in (model, whole):
            torch.random.set_rng_state(state)
            results.append(net(x))
        assert torch.equal(*results)
        for stretch in stretches:
            a, b = stretch(x), stretch(x)
            assert torch.equal(a, b) != mode
    revised = complexnn.revise(stretches.processing)
    assert sum(isinstance(m, layers.Dropout) for m in revised.modules()) == 1
    complexnn.check_equivariance(revised, (3, 2, 64))
    pair = torch.randn(3, 2, 64)
    for mode in (True, False):
        revised.train(mode)
        assert torch.equal(revised(pair), revised(pair)) != mode


def test_a_branch_that_only_training_takes_is_refused():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            y = self.body(x)
            if self.training:
                y = self.head(y)
            return self.head(y)

    with pytest.raises(complexnn.InputError, match="otherwise in train than in eval mode"):
        complexnn.split(Auxiliary(), after="body", until="head")


def test_networks_that_cannot_be_traced_are_refused_in_one_line():
    model = nn.Sequential(nn.Linear(4, 4), function(lambda x: x if x.sum() > 0 else -x))
    with pytest.raises(complexnn.InputError, match="cannot trace Sequential"):
        complexnn.split(model, after="0", until="1")


def test_a_cut_within_a_module_and_at_its_end():
    model = looks_trained(models.resnet18()).eval()
    x = torch.rand(2, 3, 64, 64)
    stretches = complexnn.split(model, after="layer1.0", until="layer1")
    torch.testing.assert_close(nn.Sequential(*stretches)(x), model(x))


def test_a_cut_behind_a_relu_is_warned_of(caplog):
    complexnn.split(models.resnet18(), after="layer1", until="layer3")
    assert "the cut behind layer1: nearly all released features have one sign" in caplog.text
    caplog.clear()
    complexnn.split(models.resnet18(), after="bn1", until="layer3")
    assert not caplog.text


def test_features_of_one_sign():
    x = torch.randn(8, 4, 16, 16)
    assert all(one_signed(y) for y in (x.relu(), -x.abs(), F.leaky_relu(x), x + 4, x.sigmoid()))
    assert not any(one_signed(y) for y in (x, F.gelu(x), x + 0.5, 0 * x, x[:0]))


@pytest.mark.parametrize("kind", ["complex", "original"])
@pytest.mark.parametrize("relu_end", [True, False])
def test_a_network_warns_once_of_features_of_one_sign(kind, relu_end, caplog):
    settings = {"kind": kind} | ({"relu_end": relu_end} if kind == "complex" else {})
    net = complexnn.build("lenet", image_size=8, **settings)
    images = torch.rand(4, 3, 8, 8)
    net(images)
    assert "one sign" not in caplog.text  # training moves the features yet
    net.eval()
    for _ in range(3):
        net(images)
    assert caplog.text.count("one sign") == (kind == "complex" and relu_end)


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
        ("layer1", "layer1.0", "layer1.0 is not behind layer1"),
        ("fc", "layer1", "layer1 is not behind fc"),
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
    release = net.release(images, generator=rng)
    answers = [
        net.decode(net.process(released), key)
        for released, key, _ in (release, net.release_again(release, generator=rng))
    ]
    torch.testing.assert_close(*answers, atol=1e-3, rtol=1e-3)
