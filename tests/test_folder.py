"""A user's own images: folders and files of every kind."""

import os
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_images import make_folder, save
from PIL import Image, ImageOps

from complexnn.config import DataConfig, InputError
from complexnn.data import datasets, folder, image_files


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
    pixels = np.array([[0, 257, 65535, 32768]], dtype=np.uint16)
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    assert np.asarray(image_files.read_image(tmp_path / "deep.png")).tolist() == [[0, 1, 255, 128]]


def test_transparency_is_laid_over_white(tmp_path):
    for mode, expected in (("RGBA", [255, 255, 255]), ("LA", 255)):
        Image.new(mode, (1, 1)).save(tmp_path / "clear.png")
        assert np.asarray(image_files.read_image(tmp_path / "clear.png"))[0, 0].tolist() == expected


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
        assert np.array_equal(image_files.read_image(path), wanted), orientation


@pytest.mark.parametrize("error", [ZeroDivisionError, struct.error, IndexError, TypeError])
def test_whatever_a_decoder_raises_names_the_file(tmp_path, monkeypatch, error):
    save(tmp_path / "a.png")

    def fail(*args):
        raise error("inside")

    monkeypatch.setattr(Image.Image, "load", fail)
    with pytest.raises(InputError, match=r"a\.png cannot be read as an image \(inside\)"):
        image_files.read_image(tmp_path / "a.png")


def test_an_unreadable_exif_block_leaves_the_picture_as_it_was_stored(tmp_path, monkeypatch):
    save(tmp_path / "a.png")

    def fail(image):
        raise struct.error("unpack requires a buffer")

    wanted = image_files.read_image(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "getexif", fail)
    assert np.array_equal(image_files.read_image(tmp_path / "a.png"), wanted)


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
    source = image_files.ImageFiles(paths, channels=3, size=(10, 12), resize=None)
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
    image_files._check_whole(path)
    path.write_bytes(whole + b"\x00" * 40)  # some programs append something of their own
    image_files._check_whole(path)
    for kept in (0.3, 0.6, 0.95):
        path.write_bytes(whole[: int(kept * len(whole))])
        with pytest.raises(InputError, match="cannot be read as an image"):
            image_files._check_whole(path)


def test_a_large_folder_is_checked_for_sizes_without_decoding(tmp_path, monkeypatch):
    config = make_folder(tmp_path)
    save(tmp_path / "train/dog/9.png", size=(12, 11))
    monkeypatch.setattr(datasets, "MEMORY_LIMIT", 10)
    with pytest.raises(InputError, match=r"dog/9\.png is 11x12"):
        datasets.load(config)
