"""What came of a search, in words and tables of text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from strop.stats import Interval, verdict

SEEDS = 2  #: least for a verdict: Student's interval is right for as few


def summary(facts: Mapping[str, Any]) -> str:
    """Return all figures as lines of text."""
    method, others = facts["method"], [one for one in facts["contenders"] if one != facts["method"]]
    parts = [table(["domain", "natural", "weight", "read"], domain_rows(facts))]
    header = ["loss", method, *others]
    parts.append(table(header, loss_rows(facts, [method, *others])))
    parts.append(table([f"{method} less", *others], difference_rows(facts, others)))
    parts += [sentence(facts, other) for other in others]
    parts += [of_doremi(facts)] if method == "doremi" else []
    return "\n\n".join(parts)


def domain_rows(facts: Mapping[str, Any]) -> list[list[str]]:
    """Return a row for each domain."""
    return [
        [name, f"{one['natural']:.1%}", f"{one['weight']:.1%}", f"{one['epochs']:.2g} times"]
        for name, one in facts["table"].items()
    ]


def loss_rows(facts: Mapping[str, Any], names: Sequence[str]) -> list[list[str]]:
    """Return a row for each text, and for the objective."""
    contenders = [facts["contenders"][name] for name in names]
    rows = [
        [text, *(f"{one['losses'][text]:.3f}" for one in contenders)]
        for text in contenders[0]["losses"]
    ]
    return [*rows, [facts["objective"], *(f"{one['objective']:.3f}" for one in contenders)]]


def difference_rows(facts: Mapping[str, Any], others: Sequence[str]) -> list[list[str]]:
    """Return a row for each text: how much higher our loss is than that of the others."""
    contenders = [facts["contenders"][name]["differences"] for name in others]
    return [[text, *(half_width(one[text]) for one in contenders)] for text in contenders[0]]


def half_width(difference: Any) -> str:
    """Spell a difference of losses with half of its interval, if it has one."""
    if isinstance(difference, float):
        return f"{difference:+.3f}"
    found = Interval(**difference)
    return f"{found.estimate:+.3f} ±{(found.high - found.low) / 2:.3f}"


def of_doremi(facts: Mapping[str, Any]) -> str:
    """Say how DoReMi's weights moved in its last round."""
    searches = facts["search"]
    entropies = ", ".join(f"{one['entropy']:.2f}" for one in searches)
    most = math.log(len(facts["table"]))
    return (
        f"DoReMi: {searches[0]['steps']} steps of {searches[0]['rate']:.3g} (eta over the steps); "
        f"entropy of the weights {entropies} of {most:.2f} nats (n = {len(searches)} seeds)"
    )


def predictions(facts: Mapping[str, Any]) -> str:
    """Return what a fit says of a mixture as lines of text."""
    weights = [[name, f"{one:.1%}"] for name, one in facts["weights"].items()]
    losses = [
        [text, f"{one['uniform']:.3f}", f"{one['mixture']:.3f}", one["fit"], f"{one['error']:.3f}"]
        for text, one in facts["losses"].items()
    ]
    value = facts["objective"]
    losses.append([value["kind"], f"{value['uniform']:.3f}", f"{value['mixture']:.3f}", "", ""])
    header = ["predicted loss", "uniform", "mixture", "fit", "error"]
    note = f"error: root mean square with each of {facts['runs']} runs left out, nats per token"
    return "\n\n".join([table(["domain", "weight"], weights), table(header, losses), note])


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align columns: the first to the left, the others to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def sentence(facts: Mapping[str, Any], other: str) -> str:
    """Say how the mixture compares with another one."""
    one = facts["contenders"][other]
    what = f"{facts['method']} against {other}, {facts['objective']} loss"
    lines = [f"{what}: {spelled(one['difference'])}"]
    final = facts["final_tokens"]
    for key, words in (("reached_after", ""), ("reached_after_with_search", ", search included")):
        known = [tokens for tokens in one[key] if tokens is not None]
        total = len(one[key])
        if known:
            mean = sum(known) / len(known)
            lines.append(
                f"  its final loss was reached after {mean:,.0f} tokens instead of {final:,}{words}"
                f" ({len(known)} of {total} seeds)"
            )
        elif not words:
            lines.append(f"  its final loss was not reached (0 of {total} seeds)")
    return "\n".join(lines)


def spelled(difference: Any) -> str:
    """Spell a difference of losses with its verdict."""
    if isinstance(difference, float):
        return f"{difference:+.4f} nats (one seed: cannot tell)"
    found = Interval(**difference)
    words = verdict(found, lower_is_better=True, least=SEEDS)
    return f"{found:+.4f} nats (n = {found.n} seeds): {words}"
