"""Published results, for orientation beside our own: other backbones, sizes and protocols. Not ours."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedResult:
    """One published mean over all categories of a dataset, in percent; None where the source gives none."""

    dataset: str
    method: str
    image_auroc: float
    pixel_auroc: float | None
    aupro_30: float | None
    source: str


PUBLISHED = (
    PublishedResult("mvtec_ad", "CL-Flow", 99.6, None, None, "paper, arXiv 2311.06794"),
    PublishedResult("mvtec_ad", "FastFlow, WideResNet-50", 99.3, 98.1, None, "paper, arXiv 2111.07677"),
    PublishedResult("mvtec_ad", "FastFlow, WideResNet-50", 96.3, 97.9, None, "reproduction by anomalib"),
    PublishedResult("mvtec_ad", "FastFlow, ResNet-18", 90.7, 96.8, None, "reproduction by anomalib"),
    PublishedResult("mvtec_ad", "MSFlow, best epoch", 99.7, None, None, "paper, arXiv 2308.15300"),
    PublishedResult("mvtec_ad", "MSFlow, last epoch", 99.43, None, None, "paper, arXiv 2308.15300"),
    PublishedResult("mvtec_ad", "PatchCore", 99.2, 98.1, 94.4, "authors' code, amazon-science/patchcore-inspection"),
    PublishedResult("mvtec_ad", "PatchCore", 98.0, None, None, "reproduction by anomalib"),
    PublishedResult("mvtec_ad", "EfficientAD-S", 98.7, None, None, "paper, arXiv 2303.14535"),
    PublishedResult("mvtec_ad", "SimpleNet", 99.6, None, None, "paper, arXiv 2303.15140"),
    PublishedResult("mvtec_ad", "RealNet", 99.6, 99.0, None, "paper, arXiv 2403.05897"),
    PublishedResult("mvtec_ad", "GLASS", 99.9, None, None, "paper, arXiv 2407.09359"),
    PublishedResult("mvtec_ad", "GLASS", 97.2, None, None, "reproduction by anomalib"),
    PublishedResult("mvtec_ad", "Dinomaly, lowest of its variants", 99.6, None, 94.8, "paper, arXiv 2405.14325"),
    PublishedResult("mvtec_ad", "INP-Former", 99.7, None, None, "paper, arXiv 2503.02424"),
    PublishedResult("btad", "CL-Flow", 96.8, None, None, "paper, arXiv 2311.06794"),
    PublishedResult("btad", "RealNet", 96.1, 97.9, None, "paper, arXiv 2403.05897"),
)
