"""CelebA on tiny files in the official layout: read, trained on, attacked; broken ones named."""

import dataclasses
import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from complexnn.commands import app
from complexnn.commands import attack as attack_command
from complexnn.commands import train as train_command
from complexnn.config import DataConfig, InputError
from complexnn.data import celeba, datasets

NAMES = [f"Attribute_{i}" for i in range(40)]


def official_celeba(root, how=None, count=60):
    """``count`` faces of 178x218 pixels: two thirds to train, a sixth to validate, a sixth to
    test. Attribute i is bit i % 3 of the face's brightness, so that it can be learned."""
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines, split = [], []
    for number in range(count):
        name, level = f"{number + 1:06d}.jpg", number % 8
        pixels = rng.integers(0, 16, (218, 178, 3), dtype=np.uint8) + np.uint8(30 * level)
        Image.fromarray(pixels).save(folder / "img_align_celeba" / name)
        signs = [(-1, 1)[level >> (i % 3) & 1] for i in range(40)]
        lines.append(f"{name} " + " ".join(f"{s:2d}" for s in signs))  # two spaces before a 1
        split.append(f"{name} {min(2, max(0, number * 6 // count - 3))}")
    head = [str(count), " ".join(NAMES) + " "]
    if how == "bad value":
        lines[4] = lines[4].replace(" 1", " 2", 1)
    elif how == "short line":
        lines[4] = lines[4][:-3]
    elif how == "cut off":
        lines = lines[:50]
    elif how == "no header":
        head = head[1:]
    elif how == "39 names":
        head[1] = " ".join(NAMES[1:])
    elif how == "other partition":
        split = split[:-1]
    elif how == "bad partition":
        split[3] = split[3][:-1] + "7"
    elif how == "no test":
        split = [line[:-1] + "0" for line in split]
    (folder / "list_attr_celeba.txt").write_text("\n".join([*head, *lines, ""]))
    (folder / "list_eval_partition.txt").write_text("\n".join([*split, ""]))
    if how in ("subset", "no images"):
        for path in sorted((folder / "img_align_celeba").iterdir())[:: 2 if how == "subset" else 1]:
            path.unlink()
    elif how in ("not unpacked", "a web page"):
        (folder / "img_align_celeba").rename(folder / "elsewhere")
        (folder / "img_align_celeba.zip").write_bytes(b"<html>")
        if how == "not unpacked":
            zipfile.ZipFile(folder / "img_align_celeba.zip", "w").close()
    elif how == "nested":
        (folder / "img_align_celeba").rename(folder / "inner")
        (folder / "img_align_celeba").mkdir()
        (folder / "inner").rename(folder / "img_align_celeba/img_align_celeba")
    elif how == "list missing":
        (folder / "list_attr_celeba.txt").unlink()
    elif how == "broken image":
        (folder / "img_align_celeba" / "000002.jpg").write_bytes(b"cut")
    return DataConfig(dataset="celeba", data_dir=root, resize=16)


def test_thirty_attributes_are_learned_and_ten_are_hidden(tmp_path):
    whole = datasets.load(official_celeba(tmp_path))
    assert [len(p) for p in (whole.train, whole.validation, whole.test)] == [40, 10, 10]
    assert whole.shape == (3, 16, 16)
    assert whole.classes == tuple(NAMES[i] for i in (2, 3, 6, 15, 19, 23, 25, 36, 37, 38))
    assert whole.labels == tuple(n for n in NAMES if n not in whole.classes)
    assert whole.hidden
    assert whole.train.labels.shape == (40, 30)
    for part in (whole.train, whole.validation, whole.test):  # the attributes are the images'
        level = (part.pixels.float().mean(dim=(1, 2, 3)) // 30).long()
        for position, name in enumerate(whole.classes):
            bit = level >> (NAMES.index(name) % 3) & 1
            assert torch.equal(part.classes[:, position], bit.bool())


def test_limited_training_images_leave_validation_to_the_official_ones(tmp_path):
    config = dataclasses.replace(official_celeba(tmp_path), limit_train=20)
    official = datasets.load(dataclasses.replace(config, limit_train=None)).validation
    whole = datasets.load(config)
    assert [len(p) for p in (whole.train, whole.validation, whole.test)] == [18, 2, 10]
    known = {tuple(row) for row in official.pixels.flatten(1).tolist()}
    assert {tuple(row) for row in whole.validation.pixels.flatten(1).tolist()} <= known


def test_the_default_size_is_that_of_the_papers_alexnet(tmp_path):
    config = dataclasses.replace(official_celeba(tmp_path), resize=None)
    assert datasets.load(config).shape == (3, 224, 224)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("bad value", "list_attr_celeba.txt, line 7: expected an image and 40 numbers"),
        ("short line", "list_attr_celeba.txt, line 7: expected an image and 40 numbers"),
        ("cut off", "announces 60 images and lists 50: download it again"),
        ("no header", "must start with the number of images and 40 attribute names"),
        ("39 names", "must start with .* 39 names"),
        ("other partition", "list_eval_partition.txt and list_attr_celeba.txt differ, .*000060"),
        ("bad partition", "line 4: expected an image and 0, 1 or 2"),
        ("no test", r"has no validation image \(split 1\)"),
        ("no images", "holds none of the listed images"),
        ("not unpacked", "unpack .*img_align_celeba.zip"),
        ("a web page", "img_align_celeba.zip is no zip archive: .* download it again"),
        ("list missing", r"missing list_attr_celeba.txt\): put the official files"),
        ("broken image", "000002.jpg cannot be read as an image"),
    ],
)
def test_a_broken_celeba_is_one_line(tmp_path, capsys, how, message):
    config = official_celeba(tmp_path, how)
    with pytest.raises(InputError, match=message):
        datasets.load(config)
    argv = ["--dataset", "celeba", "--data-dir", str(tmp_path), "--resize", "16"]
    assert app.run(train_command.main, [*argv, "--output-dir", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_folder_of_the_same_name_inside_is_accepted(tmp_path):
    flat = datasets.load(official_celeba(tmp_path / "flat"))
    nested = datasets.load(official_celeba(tmp_path / "nested", "nested"))
    assert torch.equal(flat.train.pixels, nested.train.pixels)


def test_a_subset_is_taken_and_the_row_says_so(tmp_path, caplog):
    config = official_celeba(tmp_path, "subset")
    whole = datasets.load(config)
    assert "30 of the 60 listed images are not in" in caplog.text
    assert whole.about == {
        "train": 20, "validation": 5, "test": 5,
        "source": "subset: 30 of the listed images are not there",
    }  # fmt: skip
    assert datasets.plan(config) == (20, (3, 16, 16), 30)


def test_groups_do_not_apply(tmp_path):
    with pytest.raises(InputError, match="groups do not apply to the attributes of celeba"):
        datasets.load(dataclasses.replace(official_celeba(tmp_path), groups="parity"))


def test_attributes_are_learned_and_hidden_ones_inferred(tmp_path):
    official_celeba(tmp_path)
    run = tmp_path / "run"
    argv = ["--dataset", "celeba", "--data-dir", str(tmp_path), "--resize", "16"]
    argv += ["--kind", "additional", "--epochs", "40", "--batch-size", "10", "--device", "cpu"]
    assert app.run(train_command.main, [*argv, "--output-dir", str(run)]) == 0
    argv = ["property", "--victim", str(run), "--steps", "60", "--batch-size", "20"]
    assert app.run(attack_command.main, [*argv, "--draws", "1", "--device", "cpu"]) == 0
    rows = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    found = {row["name"]: row["metrics"] for row in rows}
    task = found["task"]["error"]
    assert task["low"] <= task["value"] <= task["high"]
    assert task["value"] < 0.2 < task["chance"]
    hidden = found["property features"]
    # The hidden bits follow from the visible ones, which a logistic regression finds.
    assert hidden["error"]["given_label"] == 0
    assert hidden["error"]["value"] < 0.25 < hidden["error"]["chance"]
    assert hidden["balanced_accuracy"]["value"] > 0.7
    assert hidden["balanced_accuracy"]["chance"] == 0.5
    assert {"property images", "property reconstructions", "property 3-nn"} <= found.keys()


def test_the_official_names_of_the_hidden_attributes():
    assert celeba.HIDDEN_ATTRIBUTES == (2, 3, 6, 15, 19, 23, 25, 36, 37, 38)
