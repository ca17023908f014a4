"""The datasets that are known by name, and the layout of own images, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clflow import plugins
from clflow.config.spelling import did_you_mean
from clflow.errors import ParameterError
from clflow.plugins import Registry


@dataclass(frozen=True)
class Counts:
    """Published number of images of one category."""

    train: int
    test_good: int
    test_defective: int


@dataclass(frozen=True)
class Archive:
    """One file that holds a dataset: mirrors, SHA-256, name, and the folder inside with the categories."""

    urls: tuple[str, ...]
    sha256: str
    file: str
    root: str


@dataclass(frozen=True)
class Entry:
    """A dataset.

    It comes from an ``archive``, from ``render``, which writes a category to a folder that does not exist yet, or, with
    neither, from the user's own folder. ``normal`` names the folder of normal images (None: found for each category),
    ``complete`` says that there is a whole test set, and ``counts`` names the categories (empty: any).
    """

    name: str
    title: str
    licence: str
    licence_url: str
    archive: Archive | None = None
    render: Callable[[str, Path], None] | None = None
    normal: str | None = None
    complete: bool = True
    counts: Mapping[str, Counts] = field(default_factory=dict)


def find(name: str, layout: str | None = None) -> Entry:
    """The entry that describes a dataset.

    Args:
        name: of the dataset, which is the user's own if there is a layout.
        layout: the name of an entry.

    Raises:
        ParameterError: there is no such entry, or a plug-in fails.
    """
    names = DATASETS.names()
    if layout is None and name not in names:
        near = DATASETS.nearest(name) or "."
        raise ParameterError(
            f"dataset {name!r} is none of {', '.join(names)}, so data.{name} needs a layout: `layout: {FOLDER}` is for "
            f"your own images{near}"
        )
    if layout is not None and layout not in names:
        near = DATASETS.nearest(layout) or f"; name one of {', '.join(names)}."
        raise ParameterError(f"data.{name}.layout {layout!r} is unknown{near}")
    return DATASETS.find(layout or name)


def check_categories(name: str, entry: Entry, categories: tuple[str, ...]) -> None:
    """Raise ParameterError if a dataset that the entry describes has no such category."""
    for category in categories:
        if entry.counts and category not in entry.counts:
            near = (
                did_you_mean(category, entry.counts) or f"; data.{name}.categories may name {', '.join(entry.counts)}."
            )
            raise ParameterError(f"dataset {name} has no category {category!r}{near}")


FOLDER = "folder"
"""Layout of own images."""

DATASETS: Registry[Entry] = Registry(
    plugins.DATASETS,
    f"{__name__}:Entry",
    {
        "mvtec_ad": f"{__name__}:MVTEC_AD",
        "btad": f"{__name__}:BTAD",
        "demo": "clflow.data.demo:DEMO",
        FOLDER: f"{__name__}:OWN",
    },
)

MVTEC_AD = Entry(
    name="mvtec_ad",
    title="MVTec AD, MVTec Software GmbH (Bergmann et al., CVPR 2019)",
    licence="CC BY-NC-SA 4.0",
    licence_url="https://www.mvtec.com/company/research/datasets/mvtec-ad",
    archive=Archive(
        urls=(
            "https://www.mydrive.ch/shares/150996/b52ecdcbf521176e9db9c731f2304b27/"
            "download/420938113-1629960298/mvtec_anomaly_detection.tar.xz",
        ),
        sha256="cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d",
        file="mvtec_anomaly_detection.tar.xz",
        root="",
    ),
    normal="good",
    counts={
        "bottle": Counts(209, 20, 63),
        "cable": Counts(224, 58, 92),
        "capsule": Counts(219, 23, 109),
        "carpet": Counts(280, 28, 89),
        "grid": Counts(264, 21, 57),
        "hazelnut": Counts(391, 40, 70),
        "leather": Counts(245, 32, 92),
        "metal_nut": Counts(220, 22, 93),
        "pill": Counts(267, 26, 141),
        "screw": Counts(320, 41, 119),
        "tile": Counts(230, 33, 84),
        "toothbrush": Counts(60, 12, 30),
        "transistor": Counts(213, 60, 40),
        "wood": Counts(247, 19, 60),
        "zipper": Counts(240, 32, 119),
    },
)

BTAD = Entry(
    name="btad",
    title="BTAD, beanTech (Mishra et al., ISIE 2021)",
    licence="stated by its authors, not re-hosted here",
    licence_url="https://avires.dimi.uniud.it/papers/btad/btad.zip",
    archive=Archive(
        urls=("https://avires.dimi.uniud.it/papers/btad/btad.zip",),
        sha256="461c9387e515bfed41ecaae07c50cf6b10def647b36c9e31d239ab2736b10d2a",
        file="btad.zip",
        root="BTech_Dataset_transformed",
    ),
    normal="ok",
    counts={"01": Counts(400, 21, 49), "02": Counts(399, 30, 200), "03": Counts(1000, 400, 41)},
)

OWN = Entry(
    name=FOLDER,
    title="Your own images, in the layout of MVTec AD or BTAD",
    licence="yours",
    licence_url="",
    complete=False,
)
