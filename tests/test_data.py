"""Data sets: splits, groupings, whole-batch augmentation, and folders of every kind of image."""

import gzip
import json
import os
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from complexnn.config import DataConfig, InputError
from complexnn.data import datasets, folder
from complexnn.data.images import Augmentation

CPU = torch.device("cpu")


def save(path, mode="RGB", size=(12, 10), seed=0):
    """A random picture of PIL mode ``mode`` and ``size`` (width, height)."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    if mode == "I;16":
        pixels = rng.integers(0, 2**16, size[::-1], dtype=np.uint16)
        Image.fromarray(pixels).save(path)
        return
    channels = len(Image.new(mode, (1, 1)).getbands())
    shape = (*size[::-1], channels) if channels > 1 else size[::-1]
    if mode == "P":
        image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
        image.quantize(16).save(path)
    elif mode == "1":
        Image.fromarray(rng.integers(0, 2, shape, dtype=np.uint8) * 255).convert("1").save(path)
    else:
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8), mode).save(path)


def make_folder(root, *, mode="RGB", size=(12, 10), count=6, classes=("cat", "dog")):
    for part in ("train", "test"):
        for index, name in enumerate(classes):
            for i in range(count):
                seed = 100 * index + i + (50 if part == "test" else 0)
                save(root / part / name / f"{i}.png", mode, size, seed=seed)
    return DataConfig(dataset="folder", data_dir=root)


# ----------------------------------------------------------------------- splits and batches


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


@pytest.mark.skipif(
    not datasets.DEBIAN_FASHION_MNIST.is_dir(), reason="Fashion-MNIST not installed"
)
def test_fashion_mnist_from_debians_package():
    whole = datasets.load(DataConfig(dataset="fashion-mnist", groups="kinds"))
    assert [len(whole.train), len(whole.validation), len(whole.test)] == [54000, 6000, 10000]
    assert whole.shape == (1, 28, 28)
    assert whole.labels == ("bag", "clothes", "shoes")
    assert whole.test.classes.bincount().tolist() == [1000] * 10
    pixels = whole.train.pixels.float() / 255
    assert pixels.mean().item() == pytest.approx(whole.mean[0], abs=2e-3)


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


# ------------------------------------------------------------------------------- folders


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("RGB", 3), ("RGBA", 3), ("P", 3), ("L", 1), ("LA", 1), ("1", 1), ("I;16", 1)],
)
def test_kinds_of_images(tmp_path, mode, channels):
    whole = datasets.load(make_folder(tmp_path, mode=mode))
    assert whole.shape == (channels, 10, 12)
    assert len(whole.mean) == len(whole.std) == channels
    assert whole.train.pixels.dtype == torch.uint8
    assert whole.train.pixels.float().std() > 10


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_channels_are_respected(tmp_path, mode, channels):
    config = replace(make_folder(tmp_path, mode=mode), channels=channels)
    assert datasets.load(config).shape == (channels, 10, 12)
    assert datasets.load(DataConfig(channels=channels)).shape == (channels, 8, 8)


def test_sixteen_bits_are_scaled_not_cut(tmp_path):
    from complexnn.data.folder import read_image

    pixels = np.array([[0, 257, 65535, 32768]], dtype=np.uint16)
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    assert np.asarray(read_image(tmp_path / "deep.png")).tolist() == [[0, 1, 255, 128]]


def test_transparency_is_laid_over_white(tmp_path):
    from complexnn.data.folder import read_image

    for mode, expected in (("RGBA", [255, 255, 255]), ("LA", 255)):
        Image.new(mode, (1, 1)).save(tmp_path / "clear.png")
        assert np.asarray(read_image(tmp_path / "clear.png"))[0, 0].tolist() == expected


def test_resize_brings_all_to_one_size(tmp_path):
    make_folder(tmp_path)
    save(tmp_path / "train/cat/wide.png", size=(40, 20))
    config = DataConfig(dataset="folder", data_dir=tmp_path, resize=16)
    assert datasets.load(config).shape == (3, 16, 16)


def test_stray_files_and_hidden_folders_are_ignored(tmp_path):
    config = make_folder(tmp_path)
    (tmp_path / "train/.ipynb_checkpoints").mkdir()
    (tmp_path / "train/cat/notes.txt").write_text("not an image")
    (tmp_path / "train/cat/.DS_Store").write_text("nor this")
    (tmp_path / "train/cat/0.txt").write_text("a caption, first in the folder")
    whole = datasets.load(config)
    assert len(whole.train) + len(whole.validation) == 12
    assert datasets.plan(config) == (12, (3, 10, 12), 2)


def test_images_in_folders_below_a_class_belong_to_it(tmp_path):
    config = make_folder(tmp_path)
    save(tmp_path / "train/cat/tabby/old/1.png", seed=90)
    save(tmp_path / "train/cat/.cache/1.png", seed=91)
    whole = datasets.load(config)
    assert (len(whole.train) + len(whole.validation), whole.classes) == (13, ("cat", "dog"))


def test_an_image_too_large_to_be_one_is_named(tmp_path, monkeypatch):
    config = make_folder(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(InputError, match=r"train/cat/0\.png cannot be read .*exceeds limit"):
        datasets.load(config)


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


def broken_folder(root, how):
    config = make_folder(root)
    victim = root / "train" / "cat" / "0.png"
    if how == "truncated":
        victim.write_bytes(victim.read_bytes()[:80])
    elif how == "no image":
        victim.write_text("<html>")
    elif how == "float":
        victim.unlink()
        Image.fromarray(np.zeros((10, 12), np.float32)).save(victim.with_suffix(".tiff"))
    elif how == "odd size":
        save(root / "train/dog/9.png", size=(12, 11))
    elif how == "empty class":
        (root / "train" / "bird").mkdir()
    elif how == "unknown class":
        save(root / "test" / "bird" / "0.png")
    elif how == "no test":
        os.rename(root / "test", root / "elsewhere")
    elif how == "one class":
        for part in ("train", "test"):
            os.rename(root / part / "dog", root / f"dog-{part}")
    elif how == "no classes":
        for part in ("train", "test"):
            for name in ("cat", "dog"):
                os.rename(root / part / name, root / f"{name}-{part}")
    return config


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", r"train/cat/0\.png cannot be read"),
        ("no image", r"train/cat/0\.png cannot be read"),
        ("float", r"train/cat/0\.tiff has pixels of kind F"),
        ("odd size", r"train/dog/9\.png is 11x12 .*the first image 10x12: give --resize"),
        ("empty class", r"class folders without images in .*train: bird"),
        ("unknown class", r"in .*test but not in .*train: \['bird'\]"),
        ("no test", r"no folder .*test: lay your images out as"),
        ("one class", "has one class, cat"),
        ("no classes", "no class folders in"),
    ],
)
def test_broken_folders_are_named(tmp_path, how, message):
    with pytest.raises(InputError, match=message):
        datasets.load(broken_folder(tmp_path, how))


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
    from dataclasses import replace

    path = tmp_path / "map.json"
    if mapping is not None:
        path.write_text(mapping if isinstance(mapping, str) else json.dumps(mapping))
    config = replace(make_folder(tmp_path / "images"), groups=str(path))
    with pytest.raises(InputError, match=message):
        datasets.load(config)


def test_a_groups_file_is_used(tmp_path):
    from dataclasses import replace

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


# ----------------------------------------------------------------------------- downloads


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion-mnist"])
def test_no_network_is_one_clear_line(tmp_path, monkeypatch, name):
    from urllib.error import URLError

    from torchvision.datasets import utils

    def refuse(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr(utils, "_urlretrieve", refuse)
    monkeypatch.setattr(datasets, "DEBIAN_FASHION_MNIST", tmp_path / "none")
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

    names = (*datasets._ANIMALS, *datasets._VEHICLES)
    official_cifar(monkeypatch, tmp_path, CIFAR10, names, ("labels", "label_names"))
    whole = datasets.load(DataConfig(dataset="cifar10", data_dir=tmp_path, groups="kinds"))
    assert len(whole.train) + len(whole.validation) == 50
    assert whole.shape == (3, 32, 32)
    assert whole.classes == names
    assert whole.labels == ("animal", "vehicle")


@pytest.fixture
def tiny_cifar10(tmp_path, monkeypatch):
    """A folder of images with CIFAR-10's classes, and a specification that fits it."""
    names = sorted((*datasets._ANIMALS, *datasets._VEHICLES))
    make_folder(tmp_path / "cifar10", size=(32, 32), count=3, classes=names)
    train = datasets.load(DataConfig(dataset="folder", data_dir=tmp_path / "cifar10"))
    mean, std = datasets._moments(torch.cat([train.train.pixels, train.validation.pixels]))
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

    names = sorted(c for row in datasets._SUPERCLASSES.values() for c in row.split())
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


# ------------------------------------------------------- files as users have them


def broken_exif(orientation):
    """An EXIF block with an orientation and a position of 0/0 and signed rationals, as cameras and
    phones write them: its parts cannot all be written back."""
    entries = [
        (0x0112, 3, 1, struct.pack(">HH", orientation, 0)),
        (0x011A, 10, 1, struct.pack(">I", 38)),  # the resolution, with a sign
    ]
    head = b"MM\x00*" + struct.pack(">IH", 8, len(entries))
    fields = b"".join(struct.pack(">HHI", *e[:3]) + e[3] for e in entries)
    return b"Exif\x00\x00" + head + fields + struct.pack(">I", 0) + struct.pack(">ii", 1, 0)


def test_a_photo_with_a_broken_exif_block_is_turned_and_read(tmp_path):
    picture = Image.fromarray(np.arange(0, 240, 2, dtype=np.uint8).reshape(10, 12))
    for orientation in range(1, 9):
        path = tmp_path / f"{orientation}.jpg"
        picture.save(path, exif=broken_exif(orientation), quality=95)
        good = Image.Exif()
        good[0x0112] = orientation
        picture.save(tmp_path / "good.jpg", exif=good, quality=95)
        with Image.open(tmp_path / "good.jpg") as image:
            wanted = ImageOps.exif_transpose(image)
        assert np.array_equal(folder.read_image(path), wanted), orientation


@pytest.mark.parametrize("error", [ZeroDivisionError, struct.error, IndexError, TypeError])
def test_whatever_a_decoder_raises_names_the_file(tmp_path, monkeypatch, error):
    save(tmp_path / "a.png")

    def fail(*args):
        raise error("inside")

    monkeypatch.setattr(Image.Image, "load", fail)
    with pytest.raises(InputError, match=r"a\.png cannot be read as an image \(inside\)"):
        folder.read_image(tmp_path / "a.png")


def test_an_unreadable_exif_block_leaves_the_picture_as_it_was_stored(tmp_path, monkeypatch):
    save(tmp_path / "a.png")

    def fail(image):
        raise struct.error("unpack requires a buffer")

    wanted = folder.read_image(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "getexif", fail)
    assert np.array_equal(folder.read_image(tmp_path / "a.png"), wanted)


def test_what_is_left_out_is_told(tmp_path, caplog):
    config = make_folder(tmp_path)
    for name in ("a.heic", "b.HEIC", "notes.txt", ".hidden.heic", "README"):
        (tmp_path / "train/cat" / name).write_bytes(b"?")
    datasets.load(config)
    (told,) = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert "4 files in" in told
    assert told.endswith("2 of kind .heic, 1 of kind .txt, 1 of kind no suffix")


def test_a_class_of_files_that_cannot_be_read_says_so(tmp_path):
    config = make_folder(tmp_path)
    (tmp_path / "train/bird").mkdir()
    (tmp_path / "train/bird/1.heic").write_bytes(b"?")
    with pytest.raises(InputError, match=r"without images in .*: bird \(.*1 of kind \.heic\)"):
        datasets.load(config)


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JPG", ".tga", ".ppm"])
def test_less_common_suffixes_are_images(tmp_path, suffix):
    config = make_folder(tmp_path)
    save(tmp_path / f"train/cat/another{suffix}")
    assert datasets.plan(config)[0] == 13


def test_links_to_folders_are_followed_and_circles_end(tmp_path):
    config = make_folder(tmp_path)
    save(tmp_path / "elsewhere/deep/1.png", seed=90)
    (tmp_path / "train/cat/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/deep/circle").symlink_to(tmp_path / "train/cat")
    (tmp_path / "train/dog/dangling.png").symlink_to(tmp_path / "nowhere.png")
    files, _ = folder.list_images(tmp_path, "train")
    assert sum(path.name == "1.png" and "deep" in path.parts for path, _ in files) == 1
    assert datasets.plan(config)[0] == 13


@pytest.mark.parametrize("size", [(9, 1), (1, 9)])
def test_images_of_a_single_row_are_refused(tmp_path, size):
    with pytest.raises(InputError, match=r"pixels; networks need 2 each way: give --resize"):
        datasets.load(make_folder(tmp_path, size=size))


def cut(path):
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize("limit", [10, 1 << 30])
def test_broken_images_are_counted_before_any_work(tmp_path, monkeypatch, limit):
    config = make_folder(tmp_path)
    cut(tmp_path / "train/cat/0.png")
    cut(tmp_path / "train/dog/3.png")
    monkeypatch.setattr(datasets, "MEMORY_LIMIT", limit)
    with pytest.raises(InputError, match=r"(cat/0|dog/3)\.png cannot be read"):
        datasets.load(config)
    paths = [path for path, _ in folder.list_images(tmp_path, "train")[0]]
    source = folder.FolderSource(paths, channels=3, size=(10, 12), resize=None)
    for look in (source.decode, source.check):
        with pytest.raises(InputError, match=r"^2 of 12 .*; first: .*cat/0\.png[^\n]*$"):
            look()
    cut(tmp_path / "test/cat/0.png")  # found now, not after all training
    for name in ("cat/0.png", "dog/3.png"):
        save(tmp_path / "train" / name)
    with pytest.raises(InputError, match=r"test/cat/0\.png cannot be read"):
        datasets.load(config)


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [("JPEG", ".jpg"), ("PNG", ".png"), ("GIF", ".gif"), ("WEBP", ".webp"), ("BMP", ".bmp"),
     ("TIFF", ".tif"), ("PPM", ".ppm")],
)  # fmt: skip
def test_a_quick_look_finds_cut_files_and_passes_whole_ones(tmp_path, kind, suffix):
    path = tmp_path / f"a{suffix}"
    save(path, size=(40, 30))
    whole = path.read_bytes()
    folder._check_whole(path)
    path.write_bytes(whole + b"\x00" * 40)  # some programs append something of their own
    folder._check_whole(path)
    for kept in (0.3, 0.6, 0.95):
        path.write_bytes(whole[: int(kept * len(whole))])
        with pytest.raises(InputError, match="cannot be read as an image"):
            folder._check_whole(path)


def test_a_large_folder_is_checked_for_sizes_without_decoding(tmp_path, monkeypatch):
    config = make_folder(tmp_path)
    save(tmp_path / "train/dog/9.png", size=(12, 11))
    monkeypatch.setattr(datasets, "MEMORY_LIMIT", 10)
    with pytest.raises(InputError, match=r"dog/9\.png is 11x12"):
        datasets.load(config)


def test_every_cut_of_an_idx_file_is_one_line(tmp_path):
    whole = struct.pack(">4i", 0x0803, 3, 4, 5) + bytes(range(60))
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(whole))
    assert datasets._idx(path, 3).flatten().tolist() == list(range(60))
    packed = path.read_bytes()
    for count in range(len(packed)):  # cut on the way
        path.write_bytes(packed[:count])
        with pytest.raises(InputError, match="is not a complete IDX file"):
            datasets._idx(path, 3)
    for count in range(len(whole)):  # cut before it was packed
        path.write_bytes(gzip.compress(whole[:count]))
        with pytest.raises(InputError, match="is not a complete IDX file"):
            datasets._idx(path, 3)
    with pytest.raises(InputError, match="is not a complete IDX file"):
        datasets._idx(tmp_path / "nowhere.gz", 3)
