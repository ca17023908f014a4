"""Errors that a person can act on: one sentence with what, where and what to do."""


class ClflowError(Exception):
    """Base of all errors caused by input, environment or data; the command line prints it and exits with 2."""


class ParameterError(ClflowError):
    """A parameter file does not fit the schema."""


class DataError(ClflowError):
    """A dataset, an archive or an image is missing, damaged or not laid out as expected."""


class WeightsError(ClflowError):
    """Pretrained weights are missing or do not fit the backbone."""


class DivergenceError(ClflowError):
    """A training run left the range of finite, useful numbers."""


class PromotionError(ClflowError):
    """A model may not be promoted: it does not match what it claims, or another promotion came first."""


class CellError(ClflowError):
    """One or more cells of the benchmark failed; the others are complete."""
