"""Data sets: splits, groupings, batches and whole-batch augmentation."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_images import make_folder

from complexnn.config import DataConfig, InputError
from complexnn.data import datasets
from complexnn.data.images import Augmentation

CPU = torch.device("cpu")


def test_digits_splits_are_disjoint_and_complete():
    whole = datasets.load(DataConfig())
    parts = [whole.train, whole.validation, whole.test]
    assert [len(p) for p in parts] == [1293, 144, 360]
    assert whole.shape == (1, 8, 8)
    rows = torch.cat([p.pixels for p in parts]).flatten(1)
    original = np.rint(__import__("sklearn.datasets").datasets.load_digits().data * (255 / 16))
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, original.astype(int).tolist()))


def test_normalisation_constants_are_those_of_the_training_pixels():
    for name in ("digits",):
        whole = datasets.load(DataConfig(dataset=name))
        pixels = torch.cat([whole.train.pixels, whole.validation.pixels]).float() / 255
        assert pixels.mean().item() == pytest.approx(whole.mean[0], abs=2e-3)
        assert pixels.std().item() == pytest.approx(whole.std[0], abs=2e-3)


def test_groups_hide_the_classes():
    whole = datasets.load(DataConfig(groups="parity"))
    assert whole.hidden
    assert whole.labels == ("even", "odd")
    batch = next(whole.test.batches(50, CPU))
    assert torch.equal(batch.labels, batch.classes % 2)
    assert not datasets.load(DataConfig()).hidden


def test_limit_is_a_fixed_subset():
    full, some, again = (datasets.load(DataConfig(limit_train=n)) for n in (None, 100, 100))
    assert len(some.train) + len(some.validation) == 100
    assert torch.equal(some.train.pixels, again.train.pixels)
    assert torch.equal(full.test.pixels, some.test.pixels)


@pytest.mark.parametrize(("count", "size"), [(129, 128), (257, 128), (10, 3), (5, 8)])
def test_a_plain_pass_shows_every_image_once_in_even_batches(count, size):
    images = datasets.load(DataConfig()).train.subset(torch.arange(count))
    batches = list(images.batches(size, CPU))
    assert torch.equal(torch.cat([b.classes for b in batches]), images.classes)
    sizes = [len(b.images) for b in batches]
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1


def test_a_shuffled_pass_repeats_with_its_generator_and_drops_the_rest():
    images = datasets.load(DataConfig()).train.subset(torch.arange(129))

    def order(seed, size=64):
        return images.shuffled(size, torch.Generator().manual_seed(seed))

    assert [len(chunk) for chunk in order(0)] == [64, 64]
    assert len(order(0)) == images.steps(64) == 2
    assert torch.equal(torch.cat(order(0)), torch.cat(order(0)))
    assert not torch.equal(torch.cat(order(0)), torch.cat(order(1)))
    assert len(torch.cat(order(0)).unique()) == 128
    assert [len(chunk) for chunk in order(0, size=500)] == [129]
    for chunk, batch in zip(order(0), images.fetch(order(0), CPU), strict=True):
        assert torch.equal(batch.classes, images.classes[chunk])


def test_pixels_are_in_unit_range():
    images = next(datasets.load(DataConfig()).test.batches(360, CPU)).images
    assert images.dtype == torch.float32
    assert images.min() == 0
    assert images.max() == 1


def test_augmentation_equals_a_slow_flip_and_crop():
    images = torch.rand(20, 3, 9, 7)
    augmented = Augmentation(flip=True, padding=2)(images, torch.Generator().manual_seed(3))
    rng = torch.Generator().manual_seed(3)
    flips = torch.rand(20, generator=rng) < 0.5
    top, left = torch.randint(0, 5, (2, 20, 1), generator=rng)
    for i, image in enumerate(images):
        image = image.flip(-1) if flips[i] else image
        padded = torch.zeros(3, 13, 11)
        padded[:, 2:11, 2:9] = image
        slow = padded[:, top[i] : top[i] + 9, left[i] : left[i] + 7]
        assert torch.equal(augmented[i], slow)


@pytest.mark.parametrize("workers", [0, 2])
def test_large_sets_are_read_on_the_fly(tmp_path, monkeypatch, workers):
    config = make_folder(tmp_path)
    resident = datasets.load(config)
    monkeypatch.setattr(datasets, "MEMORY_LIMIT", 10)
    streamed = datasets.load(config, workers=workers)
    assert not isinstance(streamed.train.pixels, torch.Tensor)
    assert streamed.shape == resident.shape
    assert streamed.mean == resident.mean
    for a, b in zip(resident.train.batches(4, CPU), streamed.train.batches(4, CPU), strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.classes, b.classes)


def test_a_broken_image_in_a_worker_is_named(tmp_path, monkeypatch):
    config = make_folder(tmp_path)
    monkeypatch.setattr(datasets, "MEMORY_LIMIT", 10)
    whole = datasets.load(config, workers=1)
    for path in whole.train.pixels.paths:
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match=r"^[^\n]*\.png cannot be read as an image"):
        list(whole.train.batches(4, CPU))


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"cat": "pet"}, "without a group: dog"),
        ({"cat": "pet", "dog": "pet"}, "one group; 2 are needed"),
        ({"cat": "a", "dog": "b", "emu": "c"}, "unknown: emu"),
        ({"cat": 1, "dog": 2}, "must map class names"),
        ("{", "not valid JSON"),
        (None, "no groups file .*built-in groupings of folder: none"),
    ],
)
def test_groups_that_do_not_fit_are_named(tmp_path, mapping, message):
    path = tmp_path / "map.json"
    if mapping is not None:
        path.write_text(mapping if isinstance(mapping, str) else json.dumps(mapping))
    config = replace(make_folder(tmp_path / "images"), groups=str(path))
    with pytest.raises(InputError, match=message):
        datasets.load(config)


def test_a_groups_file_is_used(tmp_path):
    config = make_folder(tmp_path, classes=("cat", "cow", "dog"))
    (tmp_path / "map.json").write_text(json.dumps({"cat": "pet", "dog": "pet", "cow": "farm"}))
    whole = datasets.load(replace(config, groups=str(tmp_path / "map.json")))
    assert whole.labels == ("farm", "pet")
    assert set(zip(whole.train.classes.tolist(), whole.train.labels.tolist(), strict=True)) == {
        (0, 1), (1, 0), (2, 1),
    }  # fmt: skip


def test_test_images_are_not_in_the_folders_order(tmp_path):
    whole = datasets.load(make_folder(tmp_path, count=20))
    assert whole.test.classes.tolist() != sorted(whole.test.classes.tolist())


def test_unknown_data_set_lists_the_known_ones():
    with pytest.raises(
        InputError, match="known: digits, fashion-mnist, cifar10, cifar100, celeba, cub200, folder"
    ):
        datasets.load(DataConfig(dataset="imagenet"))
