"""How large batches are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSizes:
    """How many records are taken before a loop looks up: to bring its counts up to date, and to pass records on.

    A stop does not depend on it, since an order ends any batch; nor does latency, since a stage that has nothing to
    do fetches what is ready.

    Attributes
    ----------
    first : int
        Records in the first batch.
    longest : int
        Most records in a batch.
    grow_below_s : float
        A batch that took less (from before its first record is read) is followed by one of twice its size, if that
        would not be slow by the same measure.
    shrink_above_s : float
        A batch that took more is followed by one of half its size.
    """

    first: int = 1
    longest: int = 1024
    grow_below_s: float = 0.005
    shrink_above_s: float = 0.020

    def after(self, size: int, taken: int, elapsed_s: float) -> int:
        """Return the size of the batch after one of `size`, of which `taken` records came through."""
        if elapsed_s > self.shrink_above_s:
            return max(1, min(size, taken) // 2)
        is_quick = elapsed_s < self.grow_below_s and elapsed_s * 2 * size <= self.shrink_above_s * taken
        return min(self.longest, 2 * size) if is_quick else size
