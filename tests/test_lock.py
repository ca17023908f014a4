"""The two files of exact versions say the same."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
WITHOUT_HASHES = {"torch", "torchvision"}  # their builds differ by index


def test_every_constraint_is_locked_with_hashes():
    pinned = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked = re.findall(r"^([\w.-]+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}", lock, re.MULTILINE)
    assert len(pinned) > 200

    def normal(versions: list[tuple[str, str]]) -> dict[str, str]:
        return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in versions}

    expected = normal(pinned)
    assert normal(locked) == {name: version for name, version in expected.items() if name not in WITHOUT_HASHES}
    assert len(re.findall(r"^\S+==", lock, re.MULTILINE)) == len(locked)
