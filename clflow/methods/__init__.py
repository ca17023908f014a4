"""Methods by name. Each trains on the same data behind one protocol and gives a detector that scores images."""

from clflow.errors import ParameterError
from clflow.methods.flow import FlowMethod
from clflow.methods.protocol import Method
from clflow.params import TUNED, VARIANT

METHODS: dict[str, Method] = {
    "clflow": FlowMethod(contrastive=True),
    "fastflow": FlowMethod(contrastive=False),
}


def find_method(name: str) -> Method:
    """The method of that name; with tuned parameters, or as a variant, it is the same method.

    Raises:
        ParameterError: there is none.
    """
    method = METHODS.get(name.removesuffix(TUNED).partition(VARIANT)[0])
    if method is None:
        known = ", ".join(METHODS)
        raise ParameterError(f"there is no method {name!r}; known are {known}, each also with {TUNED} at its end.")
    return method
