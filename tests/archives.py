"""Tiny datasets in the layouts of MVTec AD and BTAD, and the archives that hold them."""

import hashlib
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 12
MVTEC = {"bottle": ("RGB", "png", "png"), "grid": ("L", "png", "png")}
BTAD = {"01": ("RGB", "bmp", "png"), "02": ("RGB", "png", "png"), "03": ("RGB", "bmp", "bmp")}
"""Pixel type of images, extension of images, extension of masks."""


def write_image(path: Path, key: str, mode: str = "RGB") -> None:
    """A random image that depends on ``key`` only."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4])
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)


def write_mask(path: Path, side: int = SIDE) -> None:
    """A mask with a defective square in one corner."""
    pixels = np.zeros((side, side), np.uint8)
    pixels[: side // 3, : side // 3] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_mvtec(root: Path, category: str, train: int = 4) -> Path:
    """One category in the layout of MVTec AD: train, 2 test good, 2 test defective with masks."""
    mode, extension, _ = MVTEC.get(category, MVTEC["bottle"])
    folder = root / category
    for part, count in (("train/good", train), ("test/good", 2), ("test/broken", 1), ("test/stain", 1)):
        for index in range(count):
            path = f"{part}/{index:03}.{extension}"
            write_image(folder / path, f"{category}/{path}", mode)
    for defect in ("broken", "stain"):
        write_mask(folder / "ground_truth" / defect / "000_mask.png")
    return folder


def write_btad(root: Path, category: str) -> Path:
    """One category in the layout of BTAD, with the file types that the real one has."""
    mode, extension, mask_extension = BTAD[category]
    folder = root / category
    for part, count in (("train/ok", 3), ("test/ok", 2), ("test/ko", 2)):
        for index in range(count):
            path = f"{part}/{index:04}.{extension}"
            write_image(folder / path, f"{category}/{path}", mode)
    for index in range(2):
        write_mask(folder / "ground_truth" / "ko" / f"{index:04}.{mask_extension}")
    return folder


def pack_tar(root: Path, archive: Path, mode: str = "w:xz") -> str:
    """Pack all that lies in ``root``; returns the archive's SHA-256."""
    with tarfile.open(archive, mode) as tar:  # pyright: ignore[reportCallIssue, reportArgumentType]
        for path in sorted(root.iterdir()):
            tar.add(path, path.name)
    return sha256(archive)


def pack_zip(root: Path, archive: Path) -> str:
    """Pack all that lies in ``root``; returns the archive's SHA-256."""
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(root.rglob("*")):
            file.write(path, path.relative_to(root).as_posix())
    return sha256(archive)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
