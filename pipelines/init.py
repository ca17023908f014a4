"""``clflow init``: a folder with a short parameter file of one's own images, to begin the full route with."""

from __future__ import annotations

import json
import logging
import re
import shlex
from pathlib import Path

from clflow.data.layout import subfolders
from clflow.errors import ClflowError, DataError
from clflow.files import write_atomically

_log = logging.getLogger(__name__)

_PAGE = """\
# What to run, and what differs from the defaults, which `clflow config show --origin` prints with it.
extends: base # or offline: a backbone whose weights come with pip (extra demo)

benchmark:
  name: {dataset}
  datasets: [{dataset}]
  methods: [clflow] # beside it, say: fastflow, anomalib-patchcore
  seeds: [0, 1, 2] # each trains every category once; the tables have mean and deviation

data:
  {dataset}:
    layout: folder # <category>/train/good; where there are any, test/good, test/<defect>, ground_truth/<defect>
    source: {source}
    categories: {categories}

# train: {{steps: 800}} # instead of 400 per cell
# protocol: {{image_size: 512, map_size: 512}} # pixels, instead of 256; small defects need more, at 4 times the cost
# overrides: {{{dataset}/{first}: {{train: {{steps: 800}}}}}} # for one category
# variants: {{four_flows: {{model: {{flows: 4}}}}}} # listed under methods as clflow.four_flows
# promotion: {{datasets: [{dataset}]}} # make the models of good cells champions in the registry
# resources: {{cluster: auto}} # or the address of a Ray cluster
"""


def run(folder: Path, images: Path | None) -> None:
    """Write ``params.yaml`` into a folder, and say how to go on.

    Args:
        folder: need not exist.
        images: a folder of categories; without one, the file has an example to be edited.

    Raises:
        ClflowError: the folder has a parameter file already.
        DataError: the images are not there, or in no folder of a category.
    """
    params = folder / "params.yaml"
    if params.exists():
        raise ClflowError(f"{params} exists; edit it, or name another folder.")
    page = _page(folder, images)
    with write_atomically(params) as temporary:
        temporary.write_text(page, encoding="utf-8")
    name, workspace = shlex.quote(str(params)), shlex.quote(str(folder / "run"))
    _log.info("%s: edit it, then clflow benchmark --params %s --workspace %s", params, name, workspace)


def _page(folder: Path, images: Path | None) -> str:
    if images is None:
        source, categories = "/images/line-3", ["housing", "seal"]
        dataset = _name(folder.absolute().name)
    else:
        source, dataset = str(images.absolute()), _name(images.absolute().name)
        categories = [name for name in subfolders(images) if (images / name / "train").is_dir()]
        if not categories:
            raise DataError(
                f"{images} holds no folder of a category with train/good in it; name the folder above them."
            )
    # JSON is YAML, with all that needs quotes in quotes.
    written = {"source": json.dumps(source, ensure_ascii=False), "categories": json.dumps(categories)}
    return _PAGE.format(dataset=dataset, first=categories[0], **written)


def _name(text: str) -> str:
    """A name of a dataset like a folder's."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-._") or "own"
