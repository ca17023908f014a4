"""A trained detector in use, and what it says of images."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps

from clflow import heatmap
from clflow.cell import CELL_FILE
from clflow.data.images import EXTENSIONS, open_rgb, resize_to_square
from clflow.errors import DataError, ParameterError
from clflow.export import Format, export, holds_export
from clflow.files import folder_atomically
from clflow.judge import Judge, best_device
from clflow.methods.loading import load_detector
from clflow.prefetch import prefetch
from clflow.training.outcome import HELD_OUT_FILE

AnyImage = str | os.PathLike[str] | NDArray[np.uint8] | Image.Image
"""A path, RGB (H, W, 3), or what Pillow opened."""

_BATCH = 16
_READERS = 2
_REGISTRY = "models:/"


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a detector says of one image.

    Attributes:
        path: of the image, if it was given by its path.
        score: of the image as a whole.
        threshold: a score above it is anomalous.
    """

    path: Path | None
    score: float
    threshold: float
    _image: AnyImage
    _size: tuple[int, int]  # width and height
    _scores: NDArray[np.float32]  # (h, w)
    _judge: Judge

    @property
    def is_anomalous(self) -> bool:
        """Whether the score is above the threshold."""
        return self.score > self.threshold

    @property
    def map(self) -> NDArray[np.float32]:
        """Scores of the pixels, (H, W) as the image has them."""
        width, height = self._size
        return self.map_of(height, width)

    def map_of(self, height: int, width: int) -> NDArray[np.float32]:
        """Scores of the pixels at another resolution, (height, width), bilinear."""
        size = self._judge.image_size
        scores = torch.from_numpy(np.asarray(self._scores, dtype=np.float32))[None, None]
        for shape in ((size, size), (height, width)):
            scores = F.interpolate(scores, size=shape, mode="bilinear", align_corners=False)
        return scores[0, 0].numpy()

    def overlay(self) -> Image.Image:
        """The image in grey with its score map in colour, and a line around what is above the pixel threshold."""
        image = np.array(_read(self._image))
        limits = self._judge.thresholds
        picture = heatmap.overlay(image, self.map_of(*image.shape[:2]), limits.median_pixel_score, limits.pixel)
        return Image.fromarray(picture)

    def __repr__(self) -> str:
        verdict = "anomalous" if self.is_anomalous else "normal"
        name = f"{self.path}: " if self.path else ""
        return f"<Prediction {name}{verdict}, score {self.score:.4g}, threshold {self.threshold:.4g}>"


class Detector:
    """A trained detector; `clflow.fit` and `clflow.load` make it.

    Args:
        folder: where its files are.
        judge: that scores.
    """

    def __init__(self, folder: Path, judge: Judge):
        self._folder, self._judge = folder, judge

    @property
    def threshold(self) -> float:
        """An image with a score above it is anomalous."""
        return self._judge.thresholds.image

    @property
    def image_size(self) -> int:
        """Side in pixels of the squares that images are resized to before they are scored."""
        return self._judge.image_size

    def predict(self, images: AnyImage | Iterable[AnyImage]) -> list[Prediction]:
        """Score images.

        Args:
            images: one or several: paths, RGB arrays uint8 (H, W, 3), or Pillow's images; or a folder, all images in
                which, and in folders below it, are scored in the order of their paths.

        Raises:
            DataError: an image is missing, damaged or of another shape or type.
        """
        return list(self._predictions(_listed(images)))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the detector to a folder that `clflow.load` reads; the backbone's weights are named, not stored.

        Raises:
            ParameterError: there is something at that path.
        """
        target = Path(folder)
        require_free(target)
        with folder_atomically(target) as temporary:
            shutil.copytree(self._folder, temporary, dirs_exist_ok=True)

    def export(self, folder: str | os.PathLike[str], format: Format = "openvino") -> None:
        """Write the detector as one graph that runs without clflow, and that `clflow.load` reads, too.

        Args:
            folder: of the graph.
            format: ``openvino``, ``onnx`` or ``torch``.

        Raises:
            ParameterError: there is something at that path, the detector is a graph already, or the format's packages
                are not installed.
            ClflowError: the graph does not say the same as the detector.
        """
        target = Path(folder)
        require_free(target)
        if holds_export(self._folder):
            raise ParameterError(f"{self._folder} is a graph already; export the detector that it was made from.")
        beside = [self._folder / name for name in (CELL_FILE, HELD_OUT_FILE)]
        export(load_detector(self._folder), format, target, [path for path in beside if path.exists()])

    def __repr__(self) -> str:
        return f"<Detector of {self.image_size} pixels, threshold {self.threshold:.4g}>"

    def _predictions(self, images: Sequence[AnyImage]) -> Iterator[Prediction]:
        with ThreadPoolExecutor(_READERS) as readers:
            opened = prefetch(readers, self._open, images, 2 * _BATCH)
            while batch := list(islice(opened, _BATCH)):
                maps, scores = self._judge.score(np.stack([square for *_, square in batch]))
                for (image, size, _), score, scored in zip(batch, scores.tolist(), maps, strict=True):
                    path = Path(image) if isinstance(image, str | os.PathLike) else None
                    yield Prediction(path, score, self.threshold, image, size, scored, self._judge)

    def _open(self, image: AnyImage) -> tuple[AnyImage, tuple[int, int], NDArray[np.uint8]]:
        """An image, its width and height, and its square as the detector sees it."""
        opened = _read(image)
        return image, opened.size, resize_to_square(opened, self.image_size)


def load(folder: str | os.PathLike[str], *, device: str | None = None) -> Detector:
    """Load a detector, or a graph that was exported from one.

    Args:
        folder: that `clflow.fit`, `Detector.save`, `Detector.export` or the workflow wrote.
        device: of torch; default: a GPU, where there is one.

    Raises:
        ParameterError: it is a model of an MLflow registry, or its method or format needs a package that is not there.
        DataError: the folder holds no detector, or a damaged one.
        WeightsError: the backbone's weights are unavailable, or not those of the training.
    """
    if os.fspath(folder).startswith(_REGISTRY):
        raise ParameterError(
            f"{os.fspath(folder)} is in an MLflow registry, which belongs to the workflow: "
            "pipelines.registry.locate.local_folder downloads it to a folder, and `clflow predict --model` takes it."
        )
    path = Path(folder)
    return Detector(path, Judge.of_folder(path, torch.device(device) if device else best_device()))


def _listed(images: AnyImage | Iterable[AnyImage]) -> Sequence[AnyImage]:
    if isinstance(images, str | os.PathLike) and Path(images).is_dir():
        paths = sorted(path for path in Path(images).rglob("*") if path.suffix.lower() in EXTENSIONS)
        if not paths:
            raise DataError(f"{os.fspath(images)} holds no images; name a folder with images, or list their paths.")
        return paths
    if isinstance(images, str | os.PathLike | Image.Image):
        return [images]
    if isinstance(images, np.ndarray) and images.ndim != 4:
        return [images]
    return list(images)


def _read(image: AnyImage) -> Image.Image:
    """An image as RGB, upright."""
    if isinstance(image, str | os.PathLike):
        return open_rgb(Path(image))
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise DataError(f"an array is {image.dtype} {image.shape}; an image must be RGB, uint8 (H, W, 3).")
        return Image.fromarray(image)
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "RGB":
        return upright
    file = io.BytesIO()  # how other modes become RGB is known where files are decoded
    upright.save(file, "PNG", compress_level=0)
    return open_rgb(file)


def require_free(folder: Path) -> None:
    """Raise ParameterError if there is something at a path that a folder is to be written to."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ParameterError(f"{folder} exists; name another folder, or remove it.")
