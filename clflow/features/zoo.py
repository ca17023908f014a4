"""Import of timm when it is first needed, for it takes seconds."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import torch

from clflow.imports import quick_imports

_operators = torch.library.Library("torchvision", "FRAGMENT")


@cache
@quick_imports()
def import_timm() -> Any:
    """Import timm also where torchvision's compiled operators do not fit a CPU build of torch.

    timm needs torchvision's Python code only. A CUDA build of torchvision beside a CPU build of torch fails at
    import because it registers shapes for two operators that its extension could not define; declaring their
    schemas lets the import succeed.
    """
    try:
        import timm
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] in ("torchvision", "timm")]:
            del sys.modules[name]
        for operator in ("nms", "qnms"):
            _operators.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import timm
    return timm
