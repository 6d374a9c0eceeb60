"""A progress bar for work inside one file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["bar"]


@contextmanager
def bar(label: str, unit: str, *, hidden: bool) -> Iterator[Callable[[int, int], None]]:
    """Give a function that is told how much is done, and of how much; shown where standard error is a terminal.

    Args:
        label: What is worked on.
        unit: Of what is counted.
        hidden: Whether another bar is there already.
    """
    from tqdm import tqdm

    from optimum_htp.report.texts import printable

    with tqdm(desc=printable(label), unit=unit, disable=True if hidden else None, leave=False) as shown:

        def tell(done: int, total: int) -> None:
            shown.total = total
            shown.update(done - shown.n)

        yield tell
