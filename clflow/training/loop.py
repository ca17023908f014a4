"""Training flows on cached features: a fixed budget of steps, resumable at every evaluation, bit for bit."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from clflow.errors import DivergenceError
from clflow.model.losses import (
    box_contrast,
    hardest_mean,
    likelihood_margin,
    negative_log_likelihood,
    proxy_classification,
)
from clflow.model.scorer import FlowScorer, build_scorer
from clflow.precision import computes_bfloat16
from clflow.training.checkpoints import load_checkpoint, save_checkpoint
from clflow.training.crossfit import White, whiten
from clflow.training.sampler import Batch, Sampler
from clflow.training.validation import validate

if TYPE_CHECKING:
    from clflow.config.schema import Loss, Model, Train
    from clflow.training.data import FitData
    from clflow.training.worker import Training, Worker

_BATCH = 32
_DIVERGED = 1e4  # nats per dimension; a working run stays within a few


@dataclass(frozen=True)
class TrainedFlows:
    """What a training comes to.

    Attributes:
        scorer: with the trained flows.
        history: the learning curves, all that was reported.
        cross_fitted: score maps (n, h, w) and image scores (n,) of the normal training images, each whitened by the
            statistics of others.
    """

    scorer: FlowScorer
    history: list[dict[str, float]]
    cross_fitted: tuple[Tensor, Tensor]


def fit(
    data: FitData,
    model: Model,
    loss: Loss,
    train: Train,
    layout: bool,
    seed: int,
    worker: Worker,
    resume: Path | None = None,
) -> Training[TrainedFlows]:
    """Train flows for ``train.steps`` steps; the last weights count, nothing is selected.

    All flows of a model see the same draws, and each has the gradients of its own loss alone. It reports
    ``train.eval_points`` times: means since the last report, and validation figures.

    Args:
        data: features of one category.
        model, loss, train: its parameters.
        layout: whiten each position by its own statistics.
        seed: of weights, permutations and sampling.
        worker: this process among its peers.
        resume: a checkpoint to continue from; the result is that of an uninterrupted run.

    Raises:
        DataError: features are not finite.
        DivergenceError: the loss is no longer a useful number.
    """
    _, h, w, channels = data.normal.shape
    scorer = build_scorer(model, channels, (h, w), layout, seed).to(worker.device)
    flows = scorer.flows
    normal, synthetic = whiten(scorer, data, worker.device)
    optimizer = torch.optim.Adam(
        [p for p in flows.parameters() if p.requires_grad],
        lr=train.learning_rate,
        weight_decay=train.weight_decay,
    )
    history: list[dict[str, float]] = []
    if resume is not None:
        history = load_checkpoint(resume, flows, optimizer)
    done, seconds = (int(history[-1]["step"]), history[-1]["seconds"]) if history else (0, 0.0)
    batches = Sampler(data, normal, synthetic, train, seed, worker)
    trained = worker.parallel(flows)
    bfloat16 = train.bfloat16 and computes_bfloat16(worker.device)
    eval_at = {round(train.steps * (i + 1) / train.eval_points) for i in range(train.eval_points)}
    recent: dict[str, list[Tensor]] = {}
    begin = time.perf_counter()

    for step in range(done, train.steps):
        rate = _learning_rate(step, train)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with_pairs = _learns_from_anomalies(loss) and step >= loss.start * train.steps
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
            yield point, lambda folder: save_checkpoint(folder, flows, optimizer, history)
            recent.clear()
    maps, scores = _score_white(scorer, normal, worker.device)
    scorer.subtract_normal_level(maps)
    return TrainedFlows(scorer, history, (maps - scorer.normal_level.cpu(), scores))


@torch.no_grad()
def _score_white(scorer: FlowScorer, white: White, device: torch.device) -> tuple[Tensor, Tensor]:
    """Score maps (N, h, w), normal level not subtracted, and image scores (N,) of white images, on the CPU."""
    pairs = zip(white.features.split(_BATCH), white.logdet.split(_BATCH), strict=True)
    scored = [scorer.score_white(z.to(device).float(), logdet.to(device)) for z, logdet in pairs]
    maps, scores = (torch.cat(parts).cpu() for parts in zip(*scored, strict=True))
    return maps, scores


def likelihood_alone(loss: Loss) -> Loss:
    """The loss with the likelihood of all normal positions alike, and nothing else."""
    beside = ("hardest", "contrast", "likelihood_margin", "proxy", "near_anomaly_normals")
    return loss.model_copy(update=dict.fromkeys(beside, 0.0))


def _learns_from_anomalies(loss: Loss) -> bool:
    return max(loss.contrast, loss.likelihood_margin, loss.proxy, loss.near_anomaly_normals) > 0


def _learning_rate(step: int, train: Train) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < train.warmup:
        return train.learning_rate * (step + 1) / train.warmup
    progress = (step - train.warmup) / (train.steps - train.warmup)
    return train.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def _loss_terms(flows: nn.Module, batch: Batch, loss: Loss, bfloat16: bool) -> dict[str, Tensor]:
    """Means over flows."""
    with torch.autocast(batch.features.device.type, torch.bfloat16, enabled=bfloat16):
        latents = flows(batch.features)
    terms = [_loss_terms_of_one(z_nc, logdet_n.float() + batch.logdet, batch, loss) for z_nc, logdet_n in latents]
    return {name: torch.stack([of_one[name] for of_one in terms]).mean() for name in terms[0]}


def _loss_terms_of_one(z_nc: Tensor, logdet_n: Tensor, batch: Batch, loss: Loss) -> dict[str, Tensor]:
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
