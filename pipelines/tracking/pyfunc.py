"""A detector as an MLflow pyfunc model, logged as code (no pickle): images in, score maps and image scores out."""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.pyfunc import PythonModel, PythonModelContext
from PIL import Image

from clflow.data.images import resize_to_square
from clflow.methods.loading import load_detector
from clflow.score import upsample


class DetectorModel(PythonModel):
    """RGB images uint8 (N, H, W, 3) to ``score_maps`` (N, S, S), ``image_scores`` (N,) and ``anomalous`` (N,)."""

    def load_context(self, context: PythonModelContext) -> None:
        self.detector = load_detector(Path(context.artifacts["detector"]))

    # MLflow's base method is annotated as returning nothing.
    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> dict[str, np.ndarray]:
        size = self.detector.image_size
        images = np.stack([resize_to_square(Image.fromarray(image), size) for image in model_input])
        with torch.inference_mode():
            maps, image_scores = self.detector(torch.from_numpy(images))
        scores = image_scores.numpy()
        return {
            "score_maps": upsample(maps.numpy(), size),
            "image_scores": scores,
            "anomalous": scores > self.detector.thresholds.image,
        }


mlflow.models.set_model(DetectorModel())
