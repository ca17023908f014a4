"""The plug-ins do what clflow expects of them."""

from clflow.testing import BackboneContract, MethodContract, RenderedDatasetContract


class TestGaussian(MethodContract):
    name = "example-gaussian"


class TestDots(RenderedDatasetContract):
    name = "example-dots"


class TestLite(BackboneContract):
    name = "example-lite"
