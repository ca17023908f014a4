"""Methods by name. Each trains on the same data behind one protocol and gives a detector that scores images."""

from clflow.errors import ParameterError
from clflow.methods.flow import FlowMethod
from clflow.methods.protocol import Method

METHODS: dict[str, Method] = {
    "clflow": FlowMethod(contrastive=True),
    "fastflow": FlowMethod(contrastive=False),
}


def find_method(name: str) -> Method:
    """The method of that name.

    Raises:
        ParameterError: there is none.
    """
    if name not in METHODS:
        raise ParameterError(f"benchmark.methods names {name!r}; known are {', '.join(METHODS)}.")
    return METHODS[name]
