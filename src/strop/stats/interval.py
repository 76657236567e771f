"""A measured number with its confidence interval, and what a difference of two says."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

LEAST = 6  #: samples for a verdict: fewer could all agree by chance (2 x 2^-5 > 0.05)
SURE = 0.05  #: p-value of a verdict is below

Verdict = Literal["better", "worse", "cannot tell"]


@dataclass(frozen=True)
class Interval:
    """An estimate and the interval that covers the truth with probability `level`.

    It prints as `0.31 [0.12, 0.50]`; a format specification applies to each of the three numbers:
    f"{interval:+.2f}".
    """

    estimate: float  #: the value on the sample itself
    low: float  #: lower end of the interval
    high: float  #: upper end of the interval
    n: int  #: number of independent samples behind it
    level: float = 0.95  #: nominal coverage

    def __format__(self, specification: str) -> str:
        estimate, low, high = (
            format(value, specification or ".4g") for value in (self.estimate, self.low, self.high)
        )
        return f"{estimate} [{low}, {high}]"

    def __str__(self) -> str:
        return format(self)

    def excludes(self, value: float) -> bool:
        """Tell whether `value` lies outside the interval."""
        return not self.low <= value <= self.high

    def scaled(self, factor: float) -> Interval:
        """Return the interval in another unit; `factor` is positive."""
        return Interval(
            self.estimate * factor, self.low * factor, self.high * factor, self.n, self.level
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)


def verdict(
    difference: Interval, lower_is_better: bool, least: int = LEAST, p: float = 0.0
) -> Verdict:
    """Say what the interval of `ours - baseline` shows about ours; zero inside means "cannot tell".

    So do fewer than `least` samples, and a p-value of 5% and more: where several differences were
    tried, give the one that is corrected for them. `lower_is_better` holds for losses and
    perplexities, not for accuracies.
    """
    if difference.n < least or p >= SURE or not difference.excludes(0.0):
        return "cannot tell"
    return "better" if (difference.high < 0.0) == lower_is_better else "worse"


def spelled_figure(value: float | Interval, loss: bool) -> str:
    """Say a loss as it is, and a share in per cent."""
    if loss:
        return f"{value:.4f}"
    return f"{value.scaled(100.0) if isinstance(value, Interval) else 100.0 * value:.1f}%"


def spelled_difference(value: Interval, loss: bool) -> str:
    """Say a difference of losses as it is, and one of shares in points."""
    return f"{value:+.4f}" if loss else f"{value.scaled(100.0):+.1f} points"
