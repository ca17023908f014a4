"""What precision a processor computes in."""

from __future__ import annotations

import torch


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a device has bfloat16 arithmetic; where it is emulated, training takes ten times as long."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return any(has for name, has in torch.cpu.get_capabilities().items() if name.endswith("bf16"))
