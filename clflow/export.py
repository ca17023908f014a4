"""A detector as one graph that runs without this package: from pixels to scores, verdicts, maps and masks.

ONNX and OpenVINO graphs need their runtime alone, torch.export ones need torch; all come with extra ``export``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from clflow.calibration import Thresholds
from clflow.chunks import images_at_once
from clflow.data.images import resize_to_square
from clflow.errors import ClflowError, DataError, ParameterError
from clflow.files import file_sha256, folder_atomically, read_json, write_json
from clflow.model.detector import Detector
from clflow.precision import computes_bfloat16
from clflow.score import upsample_maps

Format = Literal["onnx", "openvino", "torch"]
Precision = Literal["float32", "bfloat16"]
FORMATS: tuple[Format, ...] = get_args(Format)
CONFIG_FILE = "export.json"
TOLERANCE = 1e-4
"""How far a graph may be from the detector: of one, plus of the value itself."""
ROUNDING = 1e-2
"""The same where it has resized the images: one pixel in a thousand may be rounded to the next of 256 levels."""

_FILES: dict[Format, str] = {"onnx": "detector.onnx", "openvino": "detector.xml", "torch": "detector.pt2"}
_INPUT = "images"


class Inspection(NamedTuple):
    """Output of a graph for B images, in squares of S pixels."""

    scores: np.ndarray  # float32 (B,)
    anomalous: np.ndarray  # bool (B,): scores above the image threshold
    maps: np.ndarray  # float32 (B, S, S)
    masks: np.ndarray  # bool (B, S, S): maps above the pixel threshold


Inspect = Callable[[np.ndarray], Inspection]
"""From images, uint8 (B, H, W, 3) RGB, which are resized to S by S pixels first, unless they are of that size."""


@dataclass(frozen=True)
class Exported:
    """A graph in its runtime: called with images, it inspects them.

    Attributes:
        inspect: runs the graph.
        image_size: S, side in pixels of the squares that images are resized to.
        thresholds: that are in it.
    """

    inspect: Inspect
    image_size: int
    thresholds: Thresholds

    def __call__(self, images: np.ndarray) -> Inspection:
        """See `Inspect`."""
        return self.inspect(images)


class Graph(nn.Module):
    """The exported computation without resizing: scaling of pixels, the detector, upsampling and thresholds.

    Args:
        detector: for images of ``detector.image_size`` pixels.
    """

    def __init__(self, detector: Detector):
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The fields of `Inspection` of RGB images uint8 (B, S, S, 3)."""
        limits = self.detector.thresholds
        maps, scores = self.detector(images)
        maps = upsample_maps(maps, self.detector.image_size)
        return scores, scores > limits.image, maps, maps > limits.pixel


class _SquashingGraph(nn.Module):
    def __init__(self, graph: Graph):
        super().__init__()
        self.squashed = graph  # "graph" is a name of torch.export's own

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The fields of `Inspection` of RGB images uint8 (B, H, W, 3)."""
        size = self.squashed.detector.image_size
        images_bchw = F.interpolate(images.permute(0, 3, 1, 2), size=(size, size), mode="bilinear", antialias=True)
        return self.squashed(images_bchw.permute(0, 2, 3, 1))


def export(detector: Detector, to: Format, folder: Path, beside: Sequence[Path] = ()) -> float:
    """Write a detector as a graph for any number of images of any size, verified against the detector.

    Args:
        detector: on the CPU.
        to: the format.
        folder: appears, or is replaced, when all is written and verified; ``export.json`` says what it holds.
        beside: files to be copied to the folder, such as those that say where the detector is from.

    Returns:
        The largest difference to the detector that was seen where nothing is squashed.

    Raises:
        ParameterError: the format's packages are not installed.
        ClflowError: the detector cannot be exported, or the graph does not say the same.
    """
    graph = Graph(detector).eval()
    size = detector.image_size
    with folder_atomically(folder) as temporary, _installed(to):
        try:
            with torch.no_grad():
                _WRITERS[to](graph, temporary / _FILES[to])
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ClflowError(f"method {detector.method} cannot be exported to {to}: {reason}") from error
        inspect = _LOADERS[to](temporary / _FILES[to], None, "float32").inspect
        # Not the number of images that it was traced with, nor their size.
        worst = max(_difference(inspect, graph, _pictures(count, size, size)) for count in (1, 3))
        squashed = _difference(inspect, graph, _pictures(1, 3 * size, 2 * size + 1))
        if not (worst <= TOLERANCE and squashed <= ROUNDING):
            raise ClflowError(
                f"the exported graph differs from the detector by {worst:.2g}, more than {TOLERANCE:g}, or where it "
                f"squashes images by {squashed:.2g}, more than {ROUNDING:g}; use another format, or report it with the "
                "versions of the packages."
            )
        for path in beside:
            shutil.copy(path, temporary)
        config = {
            "format": to,
            "method": detector.method,
            "image_size": size,
            "thresholds": asdict(detector.thresholds),
            "outputs": list(Inspection._fields),
            "largest_difference": worst,
            "largest_difference_squashed": squashed,
            "files": {path.name: file_sha256(path) for path in sorted(temporary.iterdir())},
        }
        write_json(temporary / CONFIG_FILE, config)
    return worst


def holds_export(folder: Path) -> bool:
    """Whether `export` wrote the folder."""
    return (folder / CONFIG_FILE).is_file()


def holds_only_export(folder: Path) -> bool:
    """Whether all that the folder holds is what `export` wrote, unchanged."""
    if not holds_export(folder):
        return False
    written = read_json(folder / CONFIG_FILE).get("files", {})
    found = {path.name: file_sha256(path) if path.is_file() else None for path in folder.iterdir()}
    return found | {CONFIG_FILE: None} == written | {CONFIG_FILE: None}


def load(folder: str | os.PathLike[str], threads: int | None = None, precision: Precision = "float32") -> Exported:
    """Load an exported graph.

    Args:
        folder: of the graph.
        threads: of the processor that it may use; default: as many as the runtime likes.
        precision: of the arithmetic; ``bfloat16`` is for OpenVINO on a processor that has it, and moves scores.

    Raises:
        DataError: the folder holds no graph, a damaged one, or one without its thresholds.
        ParameterError: the format's packages are not installed, or it or the processor does not have that precision.
    """
    folder = Path(folder)
    try:
        config = read_json(folder / CONFIG_FILE)
        to: Format = config["format"]
        size, limits = config["image_size"], Thresholds.read(config["thresholds"], folder)
    except (FileNotFoundError, KeyError):  # graphs once came without their thresholds
        raise DataError(f"{folder} holds no exported detector, or an old one; make it with clflow export.") from None
    if precision != "float32" and to != "openvino":
        raise ParameterError(f"precision {precision} is for openvino, not for {to}.")
    if precision == "bfloat16" and not computes_bfloat16(torch.device("cpu")):  # OpenVINO would use float32 unasked
        raise ParameterError("this processor has no bfloat16 arithmetic; load the graph in float32.")
    try:
        with _installed(to):
            loaded = _LOADERS[to](folder / _FILES[to], threads, precision)
    except ParameterError:
        raise
    except Exception as error:  # each runtime raises its own
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{folder / _FILES[to]} is missing or damaged ({reason}); export it again.") from error
    return Exported(_few_at_once(loaded.inspect, size) if loaded.on_cpu else loaded.inspect, size, limits)


def _few_at_once(inspect: Inspect, size: int) -> Inspect:
    def inspect_all(images: np.ndarray) -> Inspection:
        few = images_at_once(size)
        parts = [inspect(images[start : start + few]) for start in range(0, max(1, len(images)), few)]
        return Inspection(*map(np.concatenate, zip(*parts, strict=True)))

    return inspect_all


def _pictures(count: int, height: int, width: int) -> np.ndarray:
    """Coloured noise, coarse and fine, uint8 (count, height, width, 3), the same every time."""
    generator = torch.Generator().manual_seed(0)
    coarse = F.interpolate(torch.rand((count, 3, 8, 8), generator=generator), size=(height, width), mode="bicubic")
    fine = torch.rand(coarse.shape, generator=generator) - 0.5  # tells whether squashing averages
    return ((coarse + 0.5 * fine).clamp(0, 1) * 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _difference(inspect: Inspect, graph: Graph, pictures: np.ndarray) -> float:
    """Largest difference to the detector's scores and maps of the resized pictures, relative to one plus the value."""
    squashed = np.stack([resize_to_square(Image.fromarray(picture), graph.detector.image_size) for picture in pictures])
    with torch.inference_mode():
        expected = Inspection(*(output.numpy() for output in graph(torch.from_numpy(squashed))))
    found = inspect(pictures)
    pairs = (expected.scores, found.scores), (expected.maps, found.maps)
    return max(float((np.abs(got - wanted) / (1 + np.abs(wanted))).max()) for wanted, got in pairs)


@contextmanager
def _installed(to: Format) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ParameterError(
            f"format {to} needs a package that is not installed ({error.name}); pip install 'clflow[export]'."
        ) from None


def _squashing_program(graph: Graph) -> torch.export.ExportedProgram:
    size = graph.detector.image_size
    example = torch.from_numpy(_pictures(2, size + 1, size + 2))
    sides = {axis: torch.export.Dim(name) for axis, name in enumerate(("batch", "height", "width"))}
    return torch.export.export(_SquashingGraph(graph), (example,), dynamic_shapes={_INPUT: sides})


def _write_onnx(graph: Graph, path: Path) -> None:
    import onnxscript

    ops: Any = onnxscript.opset18  # its types are those of another way to write functions

    def index_select(values: Any, dim: int, index: Any) -> Any:
        """Columns as rows of the transpose: the runtime copies whole rows, but columns one value at a time."""
        if dim != 1 or len(values.shape) != 2:
            return ops.Gather(values, index, axis=dim)
        return ops.Transpose(ops.Gather(ops.Transpose(values), index, axis=0))

    names = list(Inspection._fields)
    torch.onnx.export(
        _squashing_program(graph),
        (),
        path,
        dynamo=True,
        external_data=False,
        input_names=[_INPUT],
        output_names=names,
        custom_translation_table={torch.ops.aten.index_select.default: index_select},
        verbose=False,
    )


def _write_openvino(graph: Graph, path: Path) -> None:
    import openvino
    from openvino import opset13 as ops
    from openvino.preprocess import PrePostProcessor
    from openvino.utils.decorators import custom_preprocess_function

    size = graph.detector.image_size
    example, batch = torch.from_numpy(_pictures(2, size, size)), torch.export.Dim("batch")
    program = torch.export.export(graph, (example,), dynamic_shapes={_INPUT: {0: batch}})

    @custom_preprocess_function
    def squashed(images: openvino.Output) -> openvino.Node:
        """What OpenVINO cannot convert from PyTorch. Pillow rounds twice, once per side, its own resizing once."""
        levels = ops.convert(ops.transpose(images, [0, 3, 1, 2]), "f32")
        for axis in (3, 2):
            levels = ops.interpolate(levels, [size], "bilinear_pillow", "sizes", axes=[axis], antialias=True)
            levels = ops.floor(ops.add(levels, np.float32(0.5)))
        return ops.transpose(ops.convert(levels, "u8"), [0, 2, 3, 1])

    processed = PrePostProcessor(openvino.convert_model(program))
    processed.input().tensor().set_layout(openvino.Layout("NHWC")).set_shape([-1, -1, -1, 3])
    processed.input().model().set_layout(openvino.Layout("NHWC"))
    processed.input().preprocess().custom(squashed)
    model = processed.build()
    for output, name in zip(model.outputs, Inspection._fields, strict=True):
        output.get_tensor().set_names({name})
    openvino.save_model(model, path, compress_to_fp16=False)


def _write_torch(graph: Graph, path: Path) -> None:
    torch.export.save(_squashing_program(graph), path)


@dataclass(frozen=True)
class _Loaded:
    """A graph in its runtime, which computes on the CPU or on an accelerator."""

    inspect: Inspect
    on_cpu: bool = True


def _load_onnx(path: Path, threads: int | None, precision: Precision) -> _Loaded:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(path, options, providers=onnxruntime.get_available_providers())
    return _Loaded(
        lambda images: Inspection(*map(np.asarray, session.run(list(Inspection._fields), {_INPUT: images}))),
        on_cpu={*session.get_providers()} <= {"AzureExecutionProvider", "CPUExecutionProvider"},
    )


def _load_openvino(path: Path, threads: int | None, precision: Precision) -> _Loaded:
    import openvino

    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision]}
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino.compile_model(path, "CPU", config)

    def inspect(images: np.ndarray) -> Inspection:
        outputs = compiled(images)
        return Inspection(*(outputs[name] for name in Inspection._fields))

    return _Loaded(inspect)


def _load_torch(path: Path, threads: int | None, precision: Precision) -> _Loaded:
    module = torch.export.load(path).module()
    if threads is not None:
        torch.set_num_threads(threads)

    def inspect(images: np.ndarray) -> Inspection:
        with torch.inference_mode():
            return Inspection(*(output.numpy() for output in module(torch.from_numpy(images))))

    return _Loaded(inspect)


_WRITERS = {"onnx": _write_onnx, "openvino": _write_openvino, "torch": _write_torch}
_LOADERS = {"onnx": _load_onnx, "openvino": _load_openvino, "torch": _load_torch}
