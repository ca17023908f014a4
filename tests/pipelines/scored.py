"""A tiny workspace whose cells are already trained and scored, written by hand."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from clflow.config import params as parameters
from clflow.config.params import Params
from clflow.data.manifest import category_rows, read_manifest, write_manifest
from clflow.files import fingerprint, write_json
from pipelines.workspace.cells import MARKER, SCORED, Cell
from pipelines.workspace.paths import Workspace

SIZE = 32
NORMAL, DEFECTIVE = 6, 6  # test images of each category


@dataclass(frozen=True)
class Scored:
    workspace: Workspace
    params: Params
    cells: list[Cell]

    @classmethod
    def make(
        cls,
        folder: Path,
        categories: tuple[str, ...],
        methods: tuple[str, ...],
        seeds: tuple[int, ...],
        with_mask: int = DEFECTIVE,
        test: dict[str, tuple[int, int]] | None = None,
    ) -> Scored:
        """Dataset "parts"; the first ``with_mask`` defective images of each category have a mask, and the categories of
        ``test`` have so many defective and normal test images."""
        tree = parameters.load(Path(__file__).parents[2] / "params.yaml").model_dump(mode="json")
        tree["benchmark"] |= {"datasets": ["parts"], "methods": list(methods), "seeds": list(seeds)}
        tree["data"] = {"parts": {"source": None, "categories": list(categories)}}
        tree["protocol"] |= {"map_size": SIZE}
        params = Params.model_validate_json(json.dumps(tree))
        workspace = Workspace(folder)
        counts = dict.fromkeys(categories, (DEFECTIVE, NORMAL)) | (test or {})
        rows = [row for name in categories for row in _draw(workspace.data("parts"), name, *counts[name], with_mask)]
        write_manifest(workspace.data("parts"), pd.DataFrame(rows))
        cells = [
            Cell("parts", category, method, seed, fingerprint([category, method, seed]), 9)
            for category in categories
            for method in methods
            for seed in seeds
        ]
        scored = cls(workspace, params, cells)
        for cell in cells:
            scored._write(cell)
        return scored

    def test_rows(self, category: str) -> pd.DataFrame:
        return category_rows(read_manifest(self.workspace.data("parts")), category, "test")

    def masks(self, category: str) -> np.ndarray:
        masks = [_mask(number) & bool(mask) for number, mask in enumerate(self.test_rows(category)["mask"])]
        return np.array(masks, bool).reshape(-1, SIZE, SIZE)

    def write_maps(self, cell: Cell, maps: np.ndarray) -> None:
        np.save(self.workspace.score(cell) / "maps.npy", maps.astype(np.float32))

    def _write(self, cell: Cell) -> None:
        rng = np.random.default_rng([cell.seed, len(cell.method)])
        rows = self.test_rows(cell.category)
        scores = rows.loc[:, ["path", "label", "defect", "mask"]]
        maps = rng.normal(size=(len(rows), SIZE, SIZE)) * 0.5 + 2 * self.masks(cell.category)
        self.workspace.score(cell).mkdir(parents=True)
        scores = scores.assign(image_score=rng.normal(size=len(rows)) + rows["label"])
        scores.to_csv(self.workspace.score(cell) / "scores.csv", index=False)
        self.write_maps(cell, maps)
        record = {"key": cell.key, "score_key": fingerprint([cell.key, "scores"])}
        write_json(self.workspace.score(cell) / SCORED, record | {"inference_ms": 12.5 if len(rows) else None})
        folder = self.workspace.run(cell)
        folder.mkdir(parents=True)
        history = {"step": [10, 20, 30], "loss": [3.0, 2.0, 1.0 + cell.seed]}
        if cell.method == "clflow":
            history["contrast"] = [1.0, 0.5, 0.25]
        pd.DataFrame(history).to_csv(folder / "history.csv", index=False)
        held_out = {"label": [0, 0, 1], "image_score": [0.1, 0.2, 0.9]}
        pd.DataFrame(held_out).to_csv(folder / "held_out.csv", index=False)
        write_json(
            folder / MARKER,
            {
                **asdict(cell),
                **{"commit": "0123", "data_hash": "4567", "synthetic_hash": "89ab", "tuned": cell.category == "nut"},
                **{
                    "protocol": self.params.protocol.model_dump(mode="json"),
                    "inputs": {"backbone": "resnet18", "parameters": {"train.steps": self.params.train.steps}},
                },
                **{"train_seconds": 1.5, "params_added": 123456, "device": "cpu AVX2", "arithmetic": "float32"},
                **{"image_threshold": 0.5, "pixel_threshold": 1.0, "median_pixel_score": 0.0},
                **{"calibration_images": 2, "expected_false_alarm_rate": 1 / 3},
            },
        )


def _draw(data: Path, category: str, defects: int, normals: int, with_mask: int) -> list[dict[str, object]]:
    """Write the test images and masks of a category, defects first by path; return the rows of its manifest."""
    rows: list[dict[str, object]] = [
        {
            **{"category": category, "split": "train", "label": 0, "defect": "good", "mask": "", "mask_sha256": ""},
            **{"path": f"{category}/train/good/00.png", "sha256": "7"},
        }
    ]
    for number in range(defects + normals):
        defective = number < defects
        defect = "dent" if defective else "good"
        image = Path(category, "test", defect, f"{number:02}.png")
        has_mask = defective and number < with_mask
        mask = Path(category, "ground_truth", defect, f"{number:02}.png") if has_mask else None
        picture = np.full((48, 48, 3), 90 + 5 * number, np.uint8)
        _save(data / image, picture)
        if mask is not None:
            _save(data / mask, _mask(number).astype(np.uint8) * 255)
        rows.append(
            {
                **{"category": category, "split": "test", "label": int(defective), "defect": defect},
                **{"path": image.as_posix(), "mask": mask.as_posix() if mask else ""},
                **{"sha256": fingerprint(image.as_posix()), "mask_sha256": "8" if mask else ""},
            }
        )
    return rows


def _mask(number: int) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[4 : 8 + number, 5 + number : 15] = True
    return mask


def _save(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
