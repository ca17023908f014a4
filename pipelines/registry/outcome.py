"""Outcome of a promotion, as text, as a table row and as tags of the registry."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from clflow.config.schema import VALIDATION
from clflow.files import write_atomically
from clflow.metrics import METRICS
from clflow.rates import AT_THRESHOLD, RATES
from pipelines.registry import champions
from pipelines.registry.evidence import CALIBRATED, Evidence
from pipelines.registry.gate import Judgement
from pipelines.workspace.person import person

UNCHANGED, REFUSED = "unchanged", "refused"


@dataclass(frozen=True)
class Outcome:
    """The verdict on one category.

    Attributes:
        verdict: ``champion``, ``challenger``, ``unchanged`` or ``refused``.
        reasons: why.
        version: in the registry, if it is in it.
        evidence: for the candidate; None if it was refused.
        judgement: of the candidate; None if there was no need to judge it.
    """

    dataset: str
    category: str
    verdict: str
    reasons: tuple[str, ...]
    version: int | None = None
    evidence: Evidence | None = None
    judgement: Judgement | None = None

    def sentence(self) -> str:
        version = f" (version {self.version})" if self.version else ""
        return f"{self.dataset}/{self.category}: {self.verdict}{version} - {'; '.join(self.reasons)}"

    def row(self) -> dict[str, Any]:
        """The row of reports/promotion-<dataset>.csv."""
        judgement, metrics = self.judgement, self.evidence.metrics if self.evidence else {}
        gain = judgement.gain if judgement else None
        return {
            **{"dataset": self.dataset, "category": self.category, "version": self.version or ""},
            **{"verdict": self.verdict, "reasons": "; ".join(self.reasons)},
            "gain": gain.mean if gain else "",
            **{name: getattr(gain, name) if gain else "" for name in ("lower", "upper", "p")},
            "latency_ms": judgement.latency_ms if judgement else "",
            **{name: metrics.get(name, "") for name in (*METRICS, *AT_THRESHOLD, *VALIDATION)},
        }

    def description(self) -> str:
        """Description of the version of a judged candidate."""
        assert self.evidence is not None, "what was judged has evidence"
        evidence = self.evidence
        return (
            f"{self.dataset}/{self.category}, cell {evidence.cell.name} of commit {evidence.commit[:12]}: "
            f"{_figures(evidence)}. It is {self.verdict}, because {'; '.join(self.reasons)}.{_threshold(evidence)}"
        )

    def tags(self, origin: str, compared_with: int | None) -> dict[str, str]:
        """Verdict and evidence as tags of the version of a candidate that was judged."""
        assert self.evidence is not None and self.judgement is not None, "what was judged has both"
        evidence, judgement = self.evidence, self.judgement
        return {
            champions.CELL_KEY: evidence.cell.key,
            champions.VERDICT: self.verdict,
            champions.REASONS: "; ".join(self.reasons),
            champions.COMPARED_WITH: str(compared_with or "none"),
            champions.FORCED: judgement.forced,
            champions.TEST_HASH: evidence.test_hash,
            "clflow.origin": origin,
            "clflow.commit": evidence.commit,
            "clflow.data_hash": evidence.data_hash,
            "clflow.protocol_hash": evidence.protocol_hash,
            "clflow.metrics": json.dumps(evidence.metrics),
            "clflow.gain": json.dumps(asdict(judgement.gain) if judgement.gain else None),
            "clflow.latency_ms": f"{judgement.latency_ms:.2f}",
            "clflow.machine": judgement.machine,
            "clflow.promoted_by": person(),
            "clflow.promoted_at": champions.now(),
        }


def _figures(evidence: Evidence) -> str:
    """Metrics as text; without an image AUROC, the validation AUROC."""
    metrics = evidence.metrics
    words = [evidence.missing] if evidence.missing else []
    if "image_auroc" in metrics:
        words.append(f"image AUROC {metrics['image_auroc']:.4f}")
    elif "validation_auroc" in metrics:
        words.append(f"validation AUROC {metrics['validation_auroc']:.4f}")
    for rate in RATES:
        if rate in metrics:
            value, lower, upper = (100 * metrics[f"{rate}{bound}"] for bound in ("", "_lower", "_upper"))
            words.append(f"{rate.replace('_', ' ')} {value:.1f} % (95 % interval {lower:.1f} to {upper:.1f} %)")
    return ", ".join(words)


def _threshold(evidence: Evidence) -> str:
    """Expected false alarm rate as text; empty if the evidence has none."""
    if not evidence.metrics.keys() >= {*CALIBRATED}:
        return ""
    images, rate = (evidence.metrics[name] for name in CALIBRATED)
    return f" Its threshold keeps a false alarm rate of {rate:.2%} on images like the {images:.0f} of its calibration."


def write_table(path: Path, outcomes: list[Outcome]) -> None:
    """Replace the rows of these categories in a table; those of others stay."""
    table = pd.DataFrame([outcome.row() for outcome in outcomes], dtype=object)
    if path.exists():
        before = pd.read_csv(path, dtype=str, keep_default_na=False)
        table = pd.concat([before.loc[~before["category"].isin(table["category"])], table])
    with write_atomically(path) as temporary:
        table.sort_values(by="category").to_csv(temporary, index=False, lineterminator="\n")
