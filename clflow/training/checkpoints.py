"""A checkpoint of a training: all that a resumed run needs, without pickle."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from clflow.files import read_json, write_json
from clflow.model.flow import Flows

FLOWS_FILE = "flows.safetensors"
"""Name of the flows' weights in a checkpoint."""


def save_checkpoint(
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


def load_checkpoint(folder: Path, flows: Flows, optimizer: torch.optim.Optimizer) -> list[dict[str, float]]:
    flows.load_state_dict(load_file(folder / FLOWS_FILE))
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(folder / "optimizer.safetensors").items():
        index, name = key.split(".")
        states.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    return read_json(folder / "history.json")
