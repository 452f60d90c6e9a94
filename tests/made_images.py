"""Folders of small random pictures, for tests."""

import numpy as np
from PIL import Image

from complexnn.config import DataConfig


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
