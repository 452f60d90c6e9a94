"""One class of several, or several attributes: losses, errors, blind answers."""

import pytest
import torch
import torch.nn.functional as F

from complexnn.data import tasks


def test_losses_are_those_of_torch():
    logits, classes = torch.randn(7, 5), torch.randint(0, 5, (7,))
    assert tasks.loss(logits, classes).mean() == pytest.approx(F.cross_entropy(logits, classes))
    attributes = torch.rand(7, 5) < 0.5
    expected = F.binary_cross_entropy_with_logits(logits, attributes.float())
    assert tasks.loss(logits, attributes).mean() == pytest.approx(expected)


def test_errors_of_classes_and_of_attributes():
    logits = torch.tensor([[2.0, -1.0], [-1.0, -3.0]])
    classes, attributes = torch.tensor([0, 1]), torch.tensor([[True, True], [False, False]])
    assert tasks.errors(tasks.answers(logits, classes), classes).tolist() == [0, 1]
    assert tasks.errors(tasks.answers(logits, attributes), attributes).tolist() == [0.5, 0]


def test_draws_are_kept():
    classes, attributes = torch.tensor([0, 1, 1]), torch.rand(3, 4) < 0.5
    assert tasks.errors(classes.expand(5, 3), classes).shape == (5, 3)
    assert tasks.errors(attributes.expand(5, 3, 4), attributes).shape == (5, 3)


def test_blind_errors_are_those_of_the_most_common_answer():
    classes = torch.tensor([0] * 6 + [1] * 4)
    assert tasks.blind_error(classes) == pytest.approx(0.4)
    assert tasks.blind_error(classes, seen=torch.ones(3, dtype=torch.long)) == pytest.approx(0.6)
    attributes = torch.stack([torch.arange(10) < 3, torch.arange(10) < 9], dim=1)
    assert tasks.blind_error(attributes) == pytest.approx((0.3 + 0.1) / 2)


def test_balanced_accuracy_ignores_class_sizes():
    truth = torch.tensor([0] * 90 + [1] * 10)
    assert tasks.balanced_accuracy(torch.zeros(100), truth) == 0.5
    assert tasks.balanced_accuracy(truth, truth) == 1.0
    attributes = torch.stack([truth == 1, truth == 0], dim=1)
    assert tasks.balanced_accuracy(torch.zeros_like(attributes), attributes) == 0.5
