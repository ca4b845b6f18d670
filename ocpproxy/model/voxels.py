"""Arrays of voxels."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

Voxels = npt.NDArray[Any]
"""An array of voxels in C order, axes (z, y, x)."""
