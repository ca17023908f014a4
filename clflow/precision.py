"""Floating-point precision of training, and of a processor."""

from __future__ import annotations

import torch


def training_arithmetic(bfloat16: bool, device: torch.device) -> str:
    """The precision that the subnetworks of a flow are trained in, if ``bfloat16`` is asked for where it exists."""
    return "bfloat16" if bfloat16 and computes_bfloat16(device) else "float32"


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a device has bfloat16 arithmetic; where it is emulated, training takes ten times as long."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return any(has for name, has in torch.cpu.get_capabilities().items() if name.endswith("bf16"))
