"""numpy arrays in annotations: numpy's own class is generic for type checkers, and jaxtyping takes the bare one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]
else:
    Array = np.ndarray
