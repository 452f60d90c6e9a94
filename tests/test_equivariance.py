"""The self-check finds every kind of broken layer and says which one it is."""

import pytest
import torch
from torch import nn

import complexnn
from complexnn.rotation import functional as cF
from complexnn.rotation import layers


class SplitReLU(nn.Module):
    def forward(self, x):
        return x.relu()


class PlainBatchNorm(nn.BatchNorm3d):
    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class BiasedConv(nn.Conv2d):
    def forward(self, x):
        return cF.per_part(super().forward, x)


class SplitMaxPool(nn.MaxPool2d):
    def forward(self, x):
        return cF.per_part(super().forward, x)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class HiddenReLU(nn.Module):
    """Breaks the rule between two layers that keep it."""

    def __init__(self):
        super().__init__()
        self.first, self.second = layers.Conv2d(3, 3, 1), layers.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.second(self.first(x).relu())


BROKEN = {
    "split relu": SplitReLU,
    "mean-subtracting norm": lambda: PlainBatchNorm(3),
    "bias that is still zero": lambda: zero_bias(BiasedConv(3, 3, 1)),
    "independent dropout": lambda: nn.Dropout(0.5),
    "split max pool": lambda: SplitMaxPool(2),
    "in place": lambda: nn.ReLU(inplace=True),
    "sign": lambda: Function(torch.sign),
    "product of parts": lambda: Function(lambda x: x * x.flip(1)),
}


def zero_bias(conv):
    nn.init.zeros_(conv.bias)
    return conv


@pytest.mark.parametrize("make", BROKEN.values(), ids=BROKEN.keys())
def test_names_the_layer(make):
    module = nn.Sequential(layers.Conv2d(3, 3, 3, padding=1), make(), layers.SoftGate())
    with pytest.raises(complexnn.EquivarianceError, match=r"^1 \(\w+\) does not commute") as error:
        complexnn.check_equivariance(module, (4, 2, 3, 6, 6))
    assert "error" in str(error.value)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x / x.abs(),
        lambda x: 1 / x,
        lambda x: x / x,
        torch.log,
        lambda x: x / cF.modulus(x),  # the phase alone, which 0 has none of
    ],
)
def test_numbers_that_are_not_finite_are_no_agreement(function):
    module = nn.Sequential(layers.SoftGate(), Function(function), layers.SoftGate())
    with pytest.raises(complexnn.EquivarianceError, match=r"^1 \(Function\) gives NaN or inf"):
        complexnn.check_equivariance(module, (4, 2, 3, 6, 6))
    with pytest.raises(complexnn.EquivarianceError, match=r"^the module itself \(Function\)"):
        complexnn.check_equivariance(Function(function), (4, 2, 3, 6, 6))


def test_two_results_are_not_passed_unseen():
    with pytest.raises(ValueError, match="returns a tuple"):
        complexnn.check_equivariance(Function(lambda x: (x.relu(), x)), (4, 2, 3, 6, 6))


def test_arguments_by_name_are_inputs():
    """The layer behind the broken one is not at fault."""

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = SplitReLU(), layers.SoftGate()

        def forward(self, x):
            return self.second(x=self.first(x=x))

    with pytest.raises(complexnn.EquivarianceError, match=r"^first"):
        complexnn.check_equivariance(Named(), (4, 2, 3, 6, 6))


def test_names_the_parent_of_a_bare_function():
    module = nn.Sequential(layers.SoftGate(), HiddenReLU())
    with pytest.raises(complexnn.EquivarianceError, match=r"^1 \(HiddenReLU\)"):
        complexnn.check_equivariance(module, (4, 2, 3, 6, 6))


def test_leaves_the_module_alone():
    module = nn.Sequential(layers.BatchNorm(3), layers.Dropout(0.2)).eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    random = torch.random.get_rng_state()
    assert complexnn.check_equivariance(module, (4, 3, 3, 6, 6)) < 1e-10
    assert all(torch.equal(before[n], t) for n, t in module.state_dict().items())
    assert not module.training
    assert torch.equal(random, torch.random.get_rng_state())
    assert module[0].weight.dtype == torch.float32


@pytest.mark.parametrize("shape", [(4, 1, 3, 6, 6), (4, 2)])
def test_refuses_shapes_without_parts(shape):
    with pytest.raises(ValueError, match="d of 2 or more"):
        complexnn.check_equivariance(nn.Identity(), shape)
