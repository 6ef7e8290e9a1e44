"""How figures are printed: the median, and the range that says how noisy the machine was."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def spread(values: Sequence[float]) -> str:
    digits = 0 if abs(min(values)) >= 100 else 2
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
