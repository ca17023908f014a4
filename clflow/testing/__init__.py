"""Contract tests for the authors of plug-ins; they need pytest and the extra ``demo``.

A subclass in a test file, with the name of the plug-in, has all tests of the contract::

    from clflow.testing import MethodContract

    class TestMyMethod(MethodContract):
        name = "my-method"
"""

import pytest

pytest.register_assert_rewrite(*(f"{__name__}.{kind}" for kind in ("backbones", "datasets", "methods")))

# After that, for what is imported before is not rewritten.
from clflow.testing.backbones import BackboneContract  # noqa: E402
from clflow.testing.datasets import DatasetContract, RenderedDatasetContract  # noqa: E402
from clflow.testing.methods import MethodContract  # noqa: E402

__all__ = ["BackboneContract", "DatasetContract", "MethodContract", "RenderedDatasetContract"]
