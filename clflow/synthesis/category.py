"""The synthetic anomalies of one category: a folder of images, masks, an index and a contact sheet.

What is made for training comes from training images alone, what is made for validation from held-out ones alone.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image

from clflow.data.images import EXTENSIONS, read_image
from clflow.data.manifest import data_hash, split_normals
from clflow.errors import DataError
from clflow.files import file_sha256, fingerprint, folder_atomically, write_json
from clflow.provenance import code_of
from clflow.synthesis.foreground import foreground, shows_object
from clflow.synthesis.recipe import Synthetic, synthesize
from clflow.synthesis.sheet import contact_sheet
from clflow.synthesis.sources import Normal

if TYPE_CHECKING:
    from clflow.config.params import Params
    from clflow.config.schema import Synthesis

MARKER = "synthesis.json"
"""Written last: a folder with it is complete."""

_JUDGED = 16  # images by which object or surface is decided
_CACHED = 256  # decoded images kept in memory
_EXAMPLES = 16  # of the contact sheet, at most


@dataclass(frozen=True)
class _Part:
    """One side of the split, and where its random streams begin."""

    name: str
    rows: pd.DataFrame
    count: int
    stream: tuple[int, ...]


def synthesis_inputs(rows: pd.DataFrame, params: Params) -> dict[str, Any]:
    """The inputs that determine the folder that `synthesize_category` writes, JSON-able.

    Raises:
        DataError: the texture folder is needed, but missing or without an image.
    """
    code = code_of(__name__)
    protocol = params.protocol.model_dump(include={"image_size", "holdout"})
    synthesis = params.synthesis.model_dump(mode="json", exclude={"textures"})
    return {
        "data": data_hash(rows),
        "categories": sorted(set(rows["category"])),
        "parameters": {"protocol": protocol, "synthesis": synthesis},
        "textures": {
            name: _sha256(path, path.stat().st_mtime_ns) for name, path in _textures(params.synthesis).items()
        },
        "code": code.files,
        "libraries": code.libraries,
    }


def synthesis_key(rows: pd.DataFrame, params: Params) -> str:
    """Hash of `synthesis_inputs`."""
    return fingerprint(synthesis_inputs(rows, params))


def synthesize_category(data: Path, rows: pd.DataFrame, params: Params, folder: Path) -> None:
    """Make the synthetic anomalies of one category; ``folder`` appears, or is replaced, once it is complete.

    Image i of a split depends on the seed, the category, the split, i and the images, but not on how many are made.

    Args:
        data: folder of the dataset, to which the paths in ``rows`` are relative.
        rows: the normal training images of one category.
        params: parameters of the category; a relative texture folder is one in the working directory.
        folder: the category's folder of synthetic anomalies.

    Raises:
        DataError: an image cannot be read, there are fewer than two, no texture is found, or nothing that the
            parameters allow can be seen on an image.
    """
    inputs = synthesis_inputs(rows, params)
    size = params.protocol.image_size
    parts = _parts(rows, params)
    train = parts[0].rows["path"].tolist()
    judged = train[:: -(-len(train) // _JUDGED)]
    has_object = shows_object([read_image(data / path, size) for path in judged])
    textures = list(_textures(params.synthesis).values())

    @lru_cache(_CACHED)
    def normal(path: str) -> Normal:
        image = read_image(data / path, size)
        return Normal(image, foreground(image, has_object))

    with folder_atomically(folder) as temporary:
        (temporary / "images").mkdir()
        (temporary / "masks").mkdir()
        records: list[dict[str, object]] = []
        examples: defaultdict[str, list[tuple[np.ndarray, Synthetic]]] = defaultdict(list)
        of_each = max(_EXAMPLES // sum(weight > 0 for weight in params.synthesis.shapes.model_dump().values()), 1)
        for part in parts:
            for original, others, rng in _draws(part):
                chosen = [read_image(textures[int(rng.integers(len(textures)))])] if textures else []
                synthetic = _on(normal(original), [normal(other) for other in others], chosen, params, rng, original)
                name = f"{len(records):04d}.png"
                Image.fromarray(synthetic.image).save(temporary / "images" / name, compress_level=3)
                Image.fromarray(synthetic.mask.astype(np.uint8) * 255).save(temporary / "masks" / name)
                if len(examples[synthetic.shape]) < of_each:
                    examples[synthetic.shape].append((normal(original).image, synthetic))
                records.append(_record(name, original, part.name, synthetic))
        pd.DataFrame(records).to_csv(temporary / "index.csv", index=False, lineterminator="\n")
        contact_sheet([example for shape in sorted(examples) for example in examples[shape]]).save(
            temporary / "contact_sheet.png", optimize=True
        )
        marker = {
            "key": fingerprint(inputs),
            "inputs": inputs,
            "content_sha256": _content_sha256(temporary),
            "foreground": "object" if has_object else "surface",
            **{part.name: part.count for part in parts},
        }
        write_json(temporary / MARKER, marker)


def _parts(rows: pd.DataFrame, params: Params) -> tuple[_Part, _Part]:
    train, held_out = split_normals(rows, params.protocol.holdout)
    category = str(train["category"].iloc[0])
    name = int.from_bytes(hashlib.sha256(category.encode()).digest()[:8])
    seed = params.synthesis.seed
    return (
        _Part("train", train, params.synthesis.count, (seed, name, 0)),
        _Part("holdout", held_out, params.synthesis.held_out, (seed, name, 1)),
    )


def _draws(part: _Part) -> Iterator[tuple[str, list[str], np.random.Generator]]:
    """Path of the original, at most one path of another image of the same part, and the generator of each image.

    Originals come in random order, each once before any comes again.
    """
    paths = part.rows["path"].tolist()
    order = np.random.default_rng((*part.stream, 0)).permutation(len(paths))
    for number in range(part.count):
        rng = np.random.default_rng((*part.stream, 1, number))
        place = int(order[number % len(paths)])
        others = []
        if len(paths) > 1:
            others = [paths[(place + int(rng.integers(1, len(paths)))) % len(paths)]]
        yield paths[place], others, rng


def _on(
    normal: Normal,
    others: list[Normal],
    textures: list[np.ndarray],
    params: Params,
    rng: np.random.Generator,
    path: str,
) -> Synthetic:
    try:
        return synthesize(normal.image, normal.foreground, others, textures, params.synthesis, rng)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _record(name: str, original: str, split: str, synthetic: Synthetic) -> dict[str, object]:
    x0, y0, x1, y1 = synthetic.box
    return {
        "image": f"images/{name}",
        "mask": f"masks/{name}",
        "original": original,
        "split": split,
        "x0": x0,
        "y0": y0,
        "x1": x1,
        "y1": y1,
        "shape": synthetic.shape,
        "source": synthetic.source,
        "blending": synthetic.blending,
        "opacity": synthetic.opacity,
    }


def _content_sha256(folder: Path) -> str:
    files = [folder / "index.csv", *folder.glob("images/*.png"), *folder.glob("masks/*.png")]
    return fingerprint({path.relative_to(folder).as_posix(): file_sha256(path) for path in files})


@cache
def _sha256(path: Path, changed: int) -> str:
    """Hash of a texture, which many categories share; ``changed`` is when it was written."""
    return file_sha256(path)


def _textures(params: Synthesis) -> dict[str, Path]:
    """Texture photographs by their path in their folder, sorted; none if that source is switched off."""
    if params.textures is None or params.sources.texture == 0:
        return {}
    folder = Path(params.textures).expanduser()
    if not folder.is_dir():
        raise DataError(f"Texture folder {folder} does not exist; correct synthesis.textures or set it to null.")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)
    if not files:
        raise DataError(f"Texture folder {folder} holds no image; correct synthesis.textures or set it to null.")
    return {path.relative_to(folder).as_posix(): path for path in files}
