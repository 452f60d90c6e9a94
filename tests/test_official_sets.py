"""Data sets in their official layouts: tiny copies, broken ones, and none at all."""

import gzip
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_images import make_folder, save
from PIL import Image

from complexnn.config import DataConfig, InputError
from complexnn.data import datasets, fashion_mnist, groupings, named_folder


@pytest.mark.skipif(not fashion_mnist.DEBIAN.is_dir(), reason="Fashion-MNIST not installed")
def test_fashion_mnist_from_debians_package():
    whole = datasets.load(DataConfig(dataset="fashion-mnist", groups="kinds"))
    assert [len(whole.train), len(whole.validation), len(whole.test)] == [54000, 6000, 10000]
    assert whole.shape == (1, 28, 28)
    assert whole.labels == ("bag", "clothes", "shoes")
    assert whole.test.classes.bincount().tolist() == [1000] * 10
    pixels = whole.train.pixels.float() / 255
    assert pixels.mean().item() == pytest.approx(whole.mean[0], abs=2e-3)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion-mnist"])
def test_no_network_is_one_clear_line(tmp_path, monkeypatch, name):
    from urllib.error import URLError

    from torchvision.datasets import utils

    def refuse(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr(utils, "_urlretrieve", refuse)
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "none")
    with pytest.raises(InputError, match=r"could not be downloaded.*or give --data-dir"):
        datasets.load(DataConfig(dataset=name, data_dir=tmp_path))


def official_cifar(monkeypatch, root, cls, names, keys):
    """Tiny files in the official layout, with the checksums that they then have."""
    import hashlib
    import pickle

    folder = root / cls.base_folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    label_key, meta_key = keys

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def batch():
        pixels = rng.integers(0, 256, (len(names), 3072), dtype=np.uint8)
        return {"data": pixels, label_key: list(range(len(names)))}

    lists = [write(name, batch()) for name, _ in cls.train_list]
    meta = write(cls.meta["filename"], {meta_key: list(names)})
    monkeypatch.setattr(cls, "train_list", lists)
    monkeypatch.setattr(cls, "test_list", [write(n, batch()) for n, _ in cls.test_list])
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": meta[1]})
    return folder


def test_cifar10_in_the_official_layout(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    names = tuple(groupings.CIFAR10_KINDS)
    official_cifar(monkeypatch, tmp_path, CIFAR10, names, ("labels", "label_names"))
    whole = datasets.load(DataConfig(dataset="cifar10", data_dir=tmp_path, groups="kinds"))
    assert len(whole.train) + len(whole.validation) == 50
    assert whole.shape == (3, 32, 32)
    assert whole.classes == names
    assert whole.labels == ("animal", "vehicle")


@pytest.fixture
def tiny_cifar10(tmp_path, monkeypatch):
    """A folder of images with CIFAR-10's classes, and a specification that fits it."""
    names = sorted(groupings.CIFAR10_KINDS)
    make_folder(tmp_path / "cifar10", size=(32, 32), count=3, classes=names)
    train = datasets.load(DataConfig(dataset="folder", data_dir=tmp_path / "cifar10"))
    mean, std = named_folder.moments(torch.cat([train.train.pixels, train.validation.pixels]))
    spec = replace(datasets.DATASETS["cifar10"], count=30, test_count=30, mean=mean, std=std)
    monkeypatch.setitem(datasets.DATASETS, "cifar10", spec)
    return DataConfig(dataset="cifar10", data_dir=tmp_path, groups="kinds")


def test_cifar10_as_a_folder_of_images(tiny_cifar10):
    for root in (tiny_cifar10.data_dir, tiny_cifar10.data_dir / "cifar10"):
        config = replace(tiny_cifar10, data_dir=root)
        whole = datasets.load(config)
        assert whole.labels == ("animal", "vehicle")
        assert whole.about == {
            "train": 27, "validation": 3, "test": 30,
            "source": "image folder cifar10, in its own split into training and test images",
        }  # fmt: skip
        assert datasets.whereabouts(config) == (str(tiny_cifar10.data_dir / "cifar10"), 0)


def test_a_folder_that_is_not_what_its_name_says_is_refused(tiny_cifar10):
    root = tiny_cifar10.data_dir / "cifar10"
    picture = root / "train/cat/0.png"
    kept = picture.read_bytes()
    picture.unlink()
    with pytest.raises(InputError, match=r"is not cifar10: expected 10 classes of 3 training"):
        datasets.load(tiny_cifar10)
    picture.write_bytes(kept)
    for path in (root / "train").rglob("*.png"):
        Image.open(path).point(lambda v: v // 2).save(path)
    with pytest.raises(InputError, match=r"mean and deviation .* differ .* by up to 0\.2"):
        datasets.load(tiny_cifar10)


def test_cifar100_with_its_superclasses(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR100

    names = sorted(groupings.SUPERCLASSES)
    assert len(set(names)) == datasets.plan(DataConfig(dataset="cifar100"))[2] == 100
    keys = ("fine_labels", "fine_label_names")
    folder = official_cifar(monkeypatch, tmp_path, CIFAR100, names, keys)
    whole = datasets.load(DataConfig(dataset="cifar100", data_dir=tmp_path, groups="superclasses"))
    assert len(whole.labels) == 20
    groups = {label: set() for label in range(20)}
    for part in (whole.train, whole.validation, whole.test):
        for label, name in zip(part.labels.tolist(), part.classes.tolist(), strict=True):
            groups[label].add(name)
    assert sorted(map(len, groups.values())) == [5] * 20
    assert whole.hidden
    (folder / "train").write_bytes(b"cut off")
    with pytest.raises(InputError, match="delete any incomplete one"):
        datasets.load(DataConfig(dataset="cifar100", data_dir=tmp_path))


# ------------------------------------------------------------------------------ CUB-200-2011


def official_cub(root, how=None):
    """Three classes of four images in the layout of CUB_200_2011.tgz."""
    folder = root / "CUB_200_2011"
    classes = ["001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross"]
    images = [(c, f"{name}/bird_{i}.jpg") for c, name in enumerate(classes, 1) for i in range(4)]
    for number, (_, path) in enumerate(images):
        mode = "L" if number == 5 else "RGB"  # the real set has a few grey images
        save(folder / "images" / path, mode, size=(30 + number, 24), seed=number)

    def write(name, rows):
        (folder / name).write_text("".join(f"{i} {row}\n" for i, row in enumerate(rows, 1)))

    write("images.txt", [path for _, path in images])
    write("image_class_labels.txt", [c for c, _ in images])
    write("train_test_split.txt", [int(i % 4 != 3) for i in range(12)])
    write("classes.txt", classes)
    if how == "list missing":
        (folder / "train_test_split.txt").unlink()
    elif how == "image missing":
        (folder / "images" / images[0][1]).unlink()
    elif how == "list cut off":
        write("image_class_labels.txt", [c for c, _ in images[:7]])
    elif how == "strange line":
        (folder / "images.txt").write_text("one bird.jpg\n")
    elif how == "strange class":
        write("image_class_labels.txt", [9] * 12)
    elif how == "no test":
        write("train_test_split.txt", [1] * 12)
    elif how == "broken image":
        (folder / "images" / images[0][1]).write_text("<html>")
    return DataConfig(dataset="cub200", data_dir=root, resize=16)


@pytest.mark.parametrize("inside", [False, True])
def test_cub200_in_the_official_layout(tmp_path, inside):
    config = official_cub(tmp_path)
    if inside:
        config = DataConfig(dataset="cub200", data_dir=tmp_path / "CUB_200_2011", resize=16)
    whole = datasets.load(config)
    assert whole.shape == (3, 16, 16)
    assert len(whole.train) + len(whole.validation) == 9
    assert sorted(whole.test.classes.tolist()) == [0, 1, 2]
    assert whole.classes == ("Black_footed_Albatross", "Laysan_Albatross", "Sooty_Albatross")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("list missing", "missing train_test_split.txt.*unpack the official"),
        ("image missing", r"1 images are missing, first .*bird_0\.jpg"),
        ("list cut off", "image_class_labels.txt and images.txt differ, first in image 10"),
        ("strange line", "images.txt, line 1: expected a number and a value"),
        ("strange class", "classes that classes.txt lacks: 9"),
        ("no test", "has no test image"),
        ("broken image", r"bird_0\.jpg cannot be read"),
    ],
)
def test_a_broken_cub200_is_named(tmp_path, how, message):
    with pytest.raises(InputError, match=message):
        datasets.load(official_cub(tmp_path, how))


def test_no_cub200_says_where_to_put_it(tmp_path):
    with pytest.raises(InputError, match=r"no CUB-200-2011 in .*give --data-dir"):
        datasets.load(DataConfig(dataset="cub200", data_dir=tmp_path))


# ------------------------------------------------------------------------------ Fashion-MNIST


def test_every_cut_of_an_idx_file_is_one_line(tmp_path):
    whole = struct.pack(">4i", 0x0803, 3, 4, 5) + bytes(range(60))
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(whole))
    assert fashion_mnist.read_idx(path, 3).flatten().tolist() == list(range(60))
    packed = path.read_bytes()
    for count in range(len(packed)):  # cut on the way
        path.write_bytes(packed[:count])
        with pytest.raises(InputError, match="is not a complete IDX file"):
            fashion_mnist.read_idx(path, 3)
    for count in range(len(whole)):  # cut before it was packed
        path.write_bytes(gzip.compress(whole[:count]))
        with pytest.raises(InputError, match="is not a complete IDX file"):
            fashion_mnist.read_idx(path, 3)
    with pytest.raises(InputError, match="is not a complete IDX file"):
        fashion_mnist.read_idx(tmp_path / "nowhere.gz", 3)
