"""Training flows on cached features: a fixed budget of steps, resumable at every report, bit for bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clflow.config.schema import Loss, Model, Train
from clflow.errors import DataError, DivergenceError
from clflow.files import read_json, write_json
from clflow.metrics import image_metrics, pixel_metrics
from clflow.model.detector import FlowScorer, Thresholds, build_flows
from clflow.model.flow import Flows
from clflow.model.losses import (
    box_contrast,
    hardest_mean,
    likelihood_margin,
    negative_log_likelihood,
    proxy_classification,
)
from clflow.precision import computes_bfloat16
from clflow.training.data import FitData

_DIVERGED = 1e4  # nats per dimension; a working run stays within a few
_BATCH = 32

FLOWS_FILE = "flows.safetensors"
"""Name of the flows' weights in a checkpoint."""

VALIDATION = "validation"
"""Key of the figure by which trainings are compared: the mean of the image AUROC and of the AUPRO, by position and up
to a false positive rate of 0.3, of held-out normal images and synthetic anomalies."""

Result = TypeVar("Result")
Save = Callable[[Path], None]
Report = Callable[[dict[str, float], Save], None]
Training = Generator[tuple[dict[str, float], Save], None, Result]
"""A training that pauses at every report, with a point of its learning curves and a function that writes a checkpoint
to a folder; so whoever runs it decides what a report leads to, and several can go on in step."""


@dataclass(frozen=True)
class Worker:
    """The place of this process among those that train one cell together.

    Attributes:
        rank: of this process; 0 validates and writes checkpoints.
        world: how many there are.
        device: where it computes.
        parallel: makes a module average its gradients over the processes; identity if there is one.
    """

    rank: int
    world: int
    device: torch.device
    parallel: Callable[[nn.Module], nn.Module]

    @classmethod
    def single(cls, device: torch.device) -> Worker:
        """The only process of a training."""
        return cls(0, 1, device, lambda module: module)


def fit(
    data: FitData,
    model: Model,
    loss: Loss,
    train: Train,
    seed: int,
    worker: Worker,
    resume: Path | None = None,
) -> Training[tuple[FlowScorer, list[dict[str, float]]]]:
    """Train flows for ``train.steps`` steps; the last weights count, nothing is selected.

    All flows of a model see the same draws, and each has the gradients of its own loss alone. It reports
    ``train.eval_points`` times: means since the last report, and validation figures.

    Args:
        data: features of one category.
        model, loss, train: its parameters.
        seed: of weights, permutations and sampling.
        worker: this process among its peers.
        resume: a checkpoint to continue from; the result is that of an uninterrupted run.

    Returns:
        the scorer with the trained flows, and the learning curves: all that was reported.

    Raises:
        DataError: features are not finite.
        DivergenceError: the loss is no longer a useful number.
    """
    flows = build_flows(model, data.normal.shape[-1], seed)
    flows.whiten(*_feature_statistics(data.normal, worker.device))
    scorer = FlowScorer(flows, model.top_fraction).to(worker.device)
    optimizer = torch.optim.Adam(
        [p for p in flows.parameters() if p.requires_grad],
        lr=train.learning_rate,
        weight_decay=train.weight_decay,
    )
    history: list[dict[str, float]] = []
    if resume is not None:
        history = _load_checkpoint(resume, flows, optimizer)
    done, seconds = (int(history[-1]["step"]), history[-1]["seconds"]) if history else (0, 0.0)
    batches = _Batches(data, train, seed, worker)
    trained = worker.parallel(flows)
    bfloat16 = train.bfloat16 and computes_bfloat16(worker.device)
    eval_at = {round(train.steps * (i + 1) / train.eval_points) for i in range(train.eval_points)}
    recent: dict[str, list[Tensor]] = {}
    begin = time.perf_counter()

    for step in range(done, train.steps):
        rate = _learning_rate(step, train)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with_pairs = loss.needs_anomalies() and step >= loss.start * train.steps
        terms = _loss_terms(trained, batches.draw(step, with_pairs), loss, bfloat16)
        if not abs(total := terms["loss"].item()) < _DIVERGED:
            raise DivergenceError(
                f"training diverged at step {step + 1} (loss {total:.3g}); lower train.learning_rate or the loss "
                "weights."
            )
        optimizer.zero_grad(set_to_none=True)
        (model.flows * terms["loss"]).backward()
        norms = [nn.utils.clip_grad_norm_(flow.parameters(), train.clip_norm) for flow in flows.members]
        terms["gradient_norm"] = torch.stack(norms).mean()
        optimizer.step()
        for name, value in terms.items():
            recent.setdefault(name, []).append(value.detach())

        if step + 1 in eval_at:
            point = {"step": step + 1, "learning_rate": rate}
            point |= {name: torch.stack(values).double().mean().item() for name, values in recent.items()}
            if worker.rank == 0:
                point |= validate(scorer, data, worker.device)
            point["seconds"] = seconds + time.perf_counter() - begin
            history.append(point)
            yield point, lambda folder: _save_checkpoint(folder, flows, optimizer, history)
            recent.clear()
    return scorer, history


def run(training: Training[Result], report: Report) -> Result:
    """Run a training to its end, handing on every report; returns what it trained."""
    while True:
        try:
            report(*next(training))
        except StopIteration as end:
            return end.value


@torch.no_grad()
def score_features(scorer: nn.Module, features: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """Score maps (N, h, w) and image scores (N,) of cached features, on the CPU."""
    scored = []
    for start in range(0, len(features), _BATCH):
        chunk = torch.from_numpy(features[start : start + _BATCH]).to(device).float()
        scored.append([scores.cpu() for scores in scorer(chunk)])
    maps, image_scores = zip(*scored, strict=True)
    return torch.cat(maps), torch.cat(image_scores)


def thresholds(scorer: nn.Module, data: FitData, quantile: float, device: torch.device) -> Thresholds:
    """Thresholds that the share ``quantile`` of held-out normal images stays below, as a whole and in every pixel."""
    maps, image_scores = score_features(scorer, data.held_out_normal, device)
    image = np.quantile(image_scores.numpy(), quantile)
    pixel = np.quantile(maps.flatten(1).max(dim=1).values.numpy(), quantile)
    return Thresholds(float(image), float(pixel), float(maps.median()))


def validate(scorer: nn.Module, data: FitData, device: torch.device) -> dict[str, float]:
    """How well held-out normal images are told from synthetic anomalies: figures of a learning curve.

    Raises:
        DivergenceError: a score is not finite.
    """
    normal, synthetic = (
        score_features(scorer, features, device) for features in (data.held_out_normal, data.held_out_synthetic)
    )
    maps, image_scores = (torch.cat(pair) for pair in zip(normal, synthetic, strict=True))
    if not maps.isfinite().all():
        raise DivergenceError(
            "training diverged: the scores of held-out images are not finite; lower train.learning_rate."
        )
    masks = data.held_out_masks()
    labels = np.repeat([0, 1], [len(data.held_out_normal), len(data.held_out_synthetic)])
    auroc = image_metrics(labels, image_scores.numpy())["image_auroc"]
    by_position = nn.functional.adaptive_avg_pool2d(maps[:, None], masks.shape[1:])[:, 0].numpy()
    aupro = pixel_metrics(masks, by_position)["aupro_30"]
    return {"validation_auroc": auroc, "validation_aupro": aupro, VALIDATION: (auroc + aupro) / 2}


def _learning_rate(step: int, train: Train) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < train.warmup:
        return train.learning_rate * (step + 1) / train.warmup
    progress = (step - train.warmup) / (train.steps - train.warmup)
    return train.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def _loss_terms(flows: nn.Module, batch: _Batch, loss: Loss, bfloat16: bool) -> dict[str, Tensor]:
    """Means over flows."""
    with torch.autocast(batch.features.device.type, torch.bfloat16, enabled=bfloat16):
        latents = flows(batch.features)
    terms = [_loss_terms_of_one(z_nc, logdet_n.float(), batch, loss) for z_nc, logdet_n in latents]
    return {name: torch.stack([of_one[name] for of_one in terms]).mean() for name in terms[0]}


def _loss_terms_of_one(z_nc: Tensor, logdet_n: Tensor, batch: _Batch, loss: Loss) -> dict[str, Tensor]:
    nll_n = negative_log_likelihood(z_nc, logdet_n)
    normal_n = nll_n[: batch.normals]
    terms = {"likelihood": normal_n.mean()}
    total = terms["likelihood"]
    if loss.hardest > 0:
        terms["hardest"] = hardest_mean(normal_n, loss.hardest_fraction)
        total = (1 - loss.hardest) * total + loss.hardest * terms["hardest"]
    if batch.pairs:
        box, box_anomalous, *_ = z_nc[batch.normals :].reshape(4, batch.pairs, -1, z_nc.shape[1])
        *_, anomalous_n, near_anomaly_n = nll_n[batch.normals :].chunk(4)
        if loss.contrast > 0:
            terms["contrast"] = box_contrast(box, box_anomalous)
            total = total + loss.contrast * terms["contrast"]
        if loss.likelihood_margin > 0:
            terms["likelihood_margin"] = likelihood_margin(normal_n, anomalous_n, loss.boundary_quantile, loss.margin)
            total = total + loss.likelihood_margin * terms["likelihood_margin"]
        if loss.proxy > 0:
            terms["proxy"] = proxy_classification(
                normal_n, anomalous_n, loss.smoothing, loss.boundary_quantile, loss.temperature
            )
            total = total + loss.proxy * terms["proxy"]
        if loss.near_anomaly_normals > 0:
            terms["near_anomaly_normals"] = near_anomaly_n.mean()
            total = total + loss.near_anomaly_normals * terms["near_anomaly_normals"]
    return terms | {"loss": total}


@dataclass(frozen=True)
class _Batch:
    """Positions as rows: ``normals`` of normal images, then for each pair as many of its box in the original, and in
    the synthetic image of the same box, of the anomaly itself, and of normal positions near it."""

    features: Tensor
    normals: int
    pairs: int


class _Batches:
    """Draws every step's batch from (seed, step) alone, so that a resumed run sees what it would have seen.

    With several workers each takes its share of the same draw.
    """

    def __init__(self, data: FitData, train: Train, seed: int, worker: Worker):
        self.data, self.train, self.seed, self.worker = data, train, seed, worker
        self.positions = data.normal.shape[1] * data.normal.shape[2]
        self.normal, self.synthetic = (_rows(features, worker.device) for features in (data.normal, data.synthetic))
        self.boxes = [_box_positions(box, data.normal.shape[2]) for box in data.boxes]
        self.anomalies, self.near_anomaly = data.anomalous_positions(), data.near_anomaly_positions()

    def draw(self, step: int, pairs: bool) -> _Batch:
        rng = np.random.default_rng([self.seed, step])
        share = slice(self.worker.rank, None, self.worker.world)
        rows = [_take(self.normal, rng.integers(len(self.normal), size=self.train.positions)[share])]
        normals, count = len(rows[0]), 0
        if pairs:
            chosen = rng.integers(len(self.synthetic) // self.positions, size=self.train.pairs)
            box, anomaly, near_anomaly = (
                self._positions(rng, places, chosen)[share]
                for places in (self.boxes, self.anomalies, self.near_anomaly)
            )
            chosen = chosen[share]
            count = len(chosen)
            rows.append(_take(self.normal, (self.data.original[chosen, None] * self.positions + box).ravel()))
            for places in (box, anomaly, near_anomaly):
                rows.append(_take(self.synthetic, (chosen[:, None] * self.positions + places).ravel()))
        return _Batch(torch.cat(rows).to(self.worker.device).float(), normals, count)

    def _positions(self, rng: np.random.Generator, places: list[np.ndarray], chosen: np.ndarray) -> np.ndarray:
        """(P, K) positions, drawn with replacement from each chosen image's places."""
        uniform = rng.random((len(chosen), self.train.box_positions))
        return np.stack(
            [places[i][(u * len(places[i])).astype(np.int64)] for i, u in zip(chosen, uniform, strict=True)]
        )


def _rows(features: np.ndarray, device: torch.device) -> Tensor:
    """Features of all positions (N, C); in an accelerator's memory if they take at most half of what is free there."""
    rows = torch.from_numpy(features).reshape(-1, features.shape[-1])
    if device.type == "cuda" and rows.nbytes <= torch.cuda.mem_get_info(device)[0] / 2:
        return rows.to(device)
    return rows


def _take(rows: Tensor, places: np.ndarray) -> Tensor:
    return rows[torch.from_numpy(places).to(rows.device)]


def _box_positions(box: np.ndarray, width: int) -> np.ndarray:
    x0, y0, x1, y1 = box
    return (np.arange(y0, y1)[:, None] * width + np.arange(x0, x1)).ravel()


def _feature_statistics(features: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean (C,) and covariance (C, C) over all images and positions, in double precision, a chunk at a time."""
    channels = features.shape[-1]
    total = torch.zeros(channels, dtype=torch.float64, device=device)
    products = torch.zeros(channels, channels, dtype=torch.float64, device=device)
    for start in range(0, len(features), _BATCH):
        rows = torch.from_numpy(features[start : start + _BATCH]).to(device).double().reshape(-1, channels)
        total += rows.sum(dim=0)
        products += rows.T @ rows
    if not products.isfinite().all():
        raise DataError(
            "features of normal training images are not finite in half precision; choose another model.backbone "
            "or other weights."
        )
    count = features.size // channels
    mean = (total / count).cpu()
    return mean, products.cpu() / count - mean.outer(mean)


def _save_checkpoint(
    folder: Path, flows: Flows, optimizer: torch.optim.Optimizer, history: list[dict[str, float]]
) -> None:
    """Write all that a resumed run needs, without pickle."""
    save_file(flows.state_dict(), folder / FLOWS_FILE)
    states = optimizer.state_dict()["state"]
    save_file(
        {f"{i}.{name}": value for i, state in states.items() for name, value in state.items()},
        folder / "optimizer.safetensors",
    )
    write_json(folder / "history.json", history)


def _load_checkpoint(folder: Path, flows: Flows, optimizer: torch.optim.Optimizer) -> list[dict[str, float]]:
    flows.load_state_dict(load_file(folder / FLOWS_FILE))
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(folder / "optimizer.safetensors").items():
        index, name = key.split(".")
        states.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    return read_json(folder / "history.json")
