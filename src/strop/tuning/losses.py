"""Losses for learning from preferences, as rows of a table.

A loss is a function of what the network says of the candidates for one prompt, best first. In the
formulas s is a candidate's summed log-probability, |y| its tokens, s̄ = s / |y|, ρ = s - s_ref the
log-ratio to the reference network (the one before tuning), ρ̄ = ρ / |y|, and Δ the first candidate's
minus the second's. CE is -s of the target, which every row of data has: the reference answer, or
the best candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid, relu

from strop.errors import StropError, unknown_name

Settings = Mapping[str, float]  #: of a loss, by name


@dataclass(frozen=True)
class Scores:
    """What is known of the candidates for one prompt, best first."""

    logps: torch.Tensor  #: (k,) summed over tokens
    lengths: torch.Tensor  #: (k,) tokens
    reference: torch.Tensor | None  #: (k,) log-probabilities by the reference network
    values: torch.Tensor | None  #: (k,) how good each is, as a ranker says
    target: torch.Tensor  #: () log-probability of the target
    shared: torch.Tensor | None = None  #: () mean log-ratio of answers to other prompts

    @property
    def means(self) -> torch.Tensor:
        """Return s̄."""
        return self.logps / self.lengths

    @property
    def ratios(self) -> torch.Tensor:
        """Return ρ."""
        assert self.reference is not None  # the table says which losses need it
        return self.logps - self.reference


def difference(values: torch.Tensor) -> torch.Tensor:
    """Return Δ."""
    return values[0] - values[1]


def slic(x: Scores, c: Settings) -> torch.Tensor:
    """max(0, δ - Δs) + λ CE (SLiC-HF, Zhao et al. 2023, eq. 4)."""
    return relu(slic_slack(x, c)) - c["regularization"] * x.target


def slic_slack(x: Scores, c: Settings) -> torch.Tensor:
    """δ - Δs."""
    return c["margin"] - difference(x.logps)


def slic_margin(x: Scores, c: Settings) -> torch.Tensor:
    """max(0, β Δvalue - Δs) + λ CE (SLiC, Zhao et al. 2022, table 1)."""
    return relu(slic_margin_slack(x, c)) - c["regularization"] * x.target


def slic_margin_slack(x: Scores, c: Settings) -> torch.Tensor:
    """β Δvalue - Δs."""
    assert x.values is not None
    return c["beta"] * difference(x.values) - difference(x.logps)


def slic_list(x: Scores, c: Settings) -> torch.Tensor:
    """Σ_{i<j} max(0, β (j - i) - s_i + s_j) + λ CE (SLiC, table 1; Liu et al. 2022, BRIO)."""
    return relu(slic_list_slack(x, c)).sum() - c["regularization"] * x.target


def slic_list_slack(x: Scores, c: Settings) -> torch.Tensor:
    """β (j - i) - s_i + s_j for i < j."""
    i, j = torch.triu_indices(len(x.logps), len(x.logps), 1, device=x.logps.device)
    return c["beta"] * (j - i).to(x.logps.dtype) - x.logps[i] + x.logps[j]


def hinge(x: Scores, c: Settings) -> torch.Tensor:
    """max(0, 1 - β Δρ) (RSO's hinge-norm, Liu et al. 2023, eq. 12)."""
    return relu(hinge_slack(x, c))


def hinge_slack(x: Scores, c: Settings) -> torch.Tensor:
    """1 - β Δρ."""
    return 1 - c["beta"] * difference(x.ratios)


def dpo(x: Scores, c: Settings) -> torch.Tensor:
    """-(1 - ε) log σ(β Δρ) - ε log σ(-β Δρ) (Rafailov et al. 2023, eq. 7; Mitchell 2023)."""
    return smoothed(c["beta"] * difference(x.ratios), c["smoothing"])


def dpo_norm(x: Scores, c: Settings) -> torch.Tensor:
    """-log σ(β Δρ̄) (Lambert et al. 2024, Tülu 3, eq. 6)."""
    return -logsigmoid(c["beta"] * difference(x.ratios / x.lengths))


def ipo(x: Scores, c: Settings) -> torch.Tensor:
    """(Δρ̄ - 1 / 2β)² (Azar et al. 2023, eq. 17; means over tokens, as its authors advise)."""
    return (difference(x.ratios / x.lengths) - 1 / (2 * c["beta"])) ** 2


def simpo(x: Scores, c: Settings) -> torch.Tensor:
    """-log σ(β (Δs̄ - margin)) (Meng et al. 2024, eq. 6, where the margin is called γ / β)."""
    return -logsigmoid(c["beta"] * (difference(x.means) - c["margin"]))


def cpo(x: Scores, c: Settings) -> torch.Tensor:
    """-log σ(β Δs) - λ s̄ of the first (Xu et al. 2024, eq. 4; mean over tokens, as in TRL)."""
    prefer = -logsigmoid(c["beta"] * difference(x.logps))
    return prefer - c["regularization"] * x.means[0]


def orpo(x: Scores, c: Settings) -> torch.Tensor:
    """-s̄ of the first - λ log σ(Δ log odds), odds of e^s̄ (Hong et al. 2024, eq. 6 and 7)."""
    odds = x.means - log1mexp(x.means)
    return -x.means[0] - c["beta"] * logsigmoid(difference(odds))


def kto(x: Scores, c: Settings) -> torch.Tensor:
    """w⁺ (1 - σ(β (ρ - z))) for the first, w⁻ (1 - σ(β (z - ρ))) for the second.

    z is max(0, the mean log-ratio of answers to other prompts), of the whole batch and without a
    gradient. (Ethayarajh et al. 2024, eq. 8.)
    """
    assert x.shared is not None
    gain = c["beta"] * (x.ratios - relu(x.shared))
    good, bad = torch.sigmoid(-gain[0]), torch.sigmoid(gain[1])
    return c["desirable"] * good + c["undesirable"] * bad


def rrhf(x: Scores, c: Settings) -> torch.Tensor:
    """Σ_{i<j} max(0, s̄_j - s̄_i) + λ CE (Yuan et al. 2023, eq. 2 to 4)."""
    return relu(rrhf_slack(x, c)).sum() - c["regularization"] * x.target


def rrhf_slack(x: Scores, c: Settings) -> torch.Tensor:
    """s̄_j - s̄_i for i < j."""
    i, j = torch.triu_indices(len(x.logps), len(x.logps), 1, device=x.logps.device)
    return x.means[j] - x.means[i]


def cross_entropy(x: Scores, c: Settings) -> torch.Tensor:
    """CE: fine-tuning on the target, the baseline for all others (RAFT, Dong et al. 2023)."""
    return -x.target


def smoothed(margin: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Return the logistic loss when a part of the labels is taken to be wrong."""
    return -(1 - smoothing) * logsigmoid(margin) - smoothing * logsigmoid(-margin)


def log1mexp(x: torch.Tensor) -> torch.Tensor:
    """Return log(1 - e^x) for x < 0, accurate for x near 0 and for x far from it."""
    near = torch.log(-torch.expm1(x.clamp(min=-0.6931)))
    far = torch.log1p(-torch.exp(x.clamp(max=-0.6931)))
    return torch.where(x > -0.6931, near, far)


@dataclass(frozen=True)
class Loss:
    """A row of the table."""

    formula: Callable[[Scores, Settings], torch.Tensor]
    defaults: Settings  #: its settings; there are no others
    needs_reference: bool = False  #: log-probabilities by the network before tuning
    needs_values: bool = False  #: how good candidates are, not only which is better
    whole_list: bool = False  #: uses all candidates for a prompt, not pairs
    uses_target: bool = False  #: the target's log-probability
    needs_other: bool = False  #: the log-probabilities of answers to other prompts
    #: what the hinge is taken of: where it is not above 0, there is nothing to learn any more
    slack: Callable[[Scores, Settings], torch.Tensor] | None = None
    per_token: bool = False  #: mean over the tokens of a batch, not over its prompts
    learning_rate: float = 1e-5  #: a start for LoRA

    @property
    def first_line(self) -> str:
        """Return the formula and its source."""
        return (self.formula.__doc__ or "").splitlines()[0]


LOSSES: dict[str, Loss] = {
    "slic": Loss(slic, {"margin": 1.0, "regularization": 0.1}, uses_target=True, slack=slic_slack),
    "slic-margin": Loss(
        slic_margin,
        {"beta": 1.0, "regularization": 0.1},
        needs_values=True,
        uses_target=True,
        slack=slic_margin_slack,
    ),
    "slic-list": Loss(
        slic_list,
        {"beta": 1.0, "regularization": 0.1},
        whole_list=True,
        uses_target=True,
        slack=slic_list_slack,
    ),
    "hinge": Loss(hinge, {"beta": 0.05}, needs_reference=True, slack=hinge_slack),
    "dpo": Loss(dpo, {"beta": 0.1, "smoothing": 0.0}, needs_reference=True),
    "dpo-norm": Loss(dpo_norm, {"beta": 5.0}, needs_reference=True),
    "ipo": Loss(ipo, {"beta": 0.1}, needs_reference=True),
    "simpo": Loss(simpo, {"beta": 2.0, "margin": 0.5}),
    "cpo": Loss(cpo, {"beta": 0.1, "regularization": 1.0}),
    "orpo": Loss(orpo, {"beta": 0.1}),
    "kto": Loss(
        kto,
        {"beta": 0.1, "desirable": 1.0, "undesirable": 1.0},
        needs_reference=True,
        needs_other=True,
    ),
    "rrhf": Loss(
        rrhf, {"regularization": 1.0}, whole_list=True, uses_target=True, slack=rrhf_slack
    ),
    "best-of-n": Loss(cross_entropy, {}, uses_target=True, per_token=True),
}


def loss_settings(name: str, given: Settings) -> tuple[Loss, Settings]:
    """Return a loss with its settings. Raises StropError for what it has not, or out of range."""
    if name not in LOSSES:
        raise unknown_name("loss", name, LOSSES)
    loss = LOSSES[name]
    for key, value in given.items():
        if key not in loss.defaults:
            own = ", ".join(loss.defaults) or "none"
            raise StropError(f"the loss {name} has no setting '{key}': its settings are {own}")
        largest = 0.5 if key == "smoothing" else float("inf")
        least_ok = value > 0 if key == "beta" else value >= 0
        if not (least_ok and value < largest):
            raise StropError(f"{key} of the loss {name} is out of range: {value}")
    return loss, {**loss.defaults, **given}
