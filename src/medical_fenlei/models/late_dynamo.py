"""Import timm, and the torchvision that it needs, without torch's compiler, which takes as long to import as torch itself."""
import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from torch._compile import _disable_dynamo

COMPILER, UTILS = "torch._dynamo", "torch._dynamo.utils"
"""The compiler, of which timm takes `disable`, and its module of which torchvision.ops takes `is_compile_supported`."""


@contextlib.contextmanager
def late_dynamo() -> Iterator[None]:
    """Stand in for the compiler while the block imports. Whatever the block needs of it is imported at its first use.

    Where the compiler is imported already, nothing happens.
    """
    if COMPILER not in sys.modules:
        sys.modules.update({COMPILER: _StandIn(COMPILER), UTILS: _StandIn(UTILS)})
    try:
        yield
    finally:
        _remove()


def _remove() -> None:
    for name in (COMPILER, UTILS):
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]


class _StandIn(ModuleType):
    """A module of the compiler that is imported as soon as anything but the functions below is wanted of it."""

    @staticmethod
    def disable(fn: Callable[..., Any], recursive: bool = True, *, reason: str | None = None) -> Callable[..., Any]:
        """Return a function that is never compiled, as torch makes it for itself: it asks the compiler at its first call."""
        return _disable_dynamo(fn, recursive)

    @staticmethod
    def is_compile_supported(device: str) -> bool:
        """Return whether torch.compile works on a device, as the compiler says."""
        found: bool = importlib.import_module(UTILS).is_compile_supported(device)
        return found

    def __getattr__(self, name: str) -> Any:
        of_a_package = (self.__name__, name) == (COMPILER, "__path__")       # asked for where a further module is imported
        if name.startswith("__") and not of_a_package:
            raise AttributeError(name)
        _remove()
        return getattr(importlib.import_module(self.__name__), name)
