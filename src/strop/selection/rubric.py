"""What a rater is asked, as a file of data, and the grade in its reply."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields

from strop.data import Message, sha256_json
from strop.data.instructions import Instruction, shown
from strop.data.named import names_in, read_named
from strop.errors import StropError
from strop.evaluation.templates import filled

PARTS = re.compile(r"\{\{\s*(prompt|completion)\s*\}\}")  #: of a row, where a template shows them
#: A number, perhaps of so many: "4", "4.5", "4/5", "4 out of 5"; signs and digits around it count
NUMBER = re.compile(
    r"(?<![\d.,])(?P<sign>[-−+]?)(?P<value>\d+(?:[.,]\d+)*)(?![\d%]|[.,]\d)"
    r"(?:\s*(?:/|out of)\s*(?P<of>\d{1,9}))?"
)
COMMA = re.compile(r"^(\d+),(\d{1,2})$")  #: a fraction; three digits are a thousand, "1,000"


@dataclass(frozen=True)
class Rubric:
    """A question about a prompt, its answer or both, to be answered with a number."""

    name: str
    prompt: str  #: template (Jinja) with {{ prompt }}, {{ completion }} or both
    system: str = ""  #: the system message, if any
    lowest: int = 0  #: grade
    highest: int = 5  #: grade

    def __post_init__(self) -> None:
        """Raise StropError for what cannot be one."""
        for name in ("prompt", "system"):
            if not isinstance(getattr(self, name), str):
                raise StropError(f"rubric {self.name}: {name} must be text")
        if type(self.lowest) is not int or type(self.highest) is not int:
            raise StropError(f"rubric {self.name}: lowest and highest must be whole numbers")
        if not 0 <= self.lowest < self.highest <= 9:
            raise StropError(f"rubric {self.name}: grades go from 0 to 9 at most, as single digits")
        if not PARTS.search(self.prompt):
            raise StropError(
                f"rubric {self.name}: the prompt shows neither {{{{ prompt }}}} nor "
                "{{ completion }}"
            )

    @property
    def grades(self) -> tuple[str, ...]:
        """Return the whole grades, as they are written."""
        return tuple(str(grade) for grade in range(self.lowest, self.highest + 1))

    @property
    def hash(self) -> str:
        """Return the hash of all that a rater is told."""
        return sha256_json([self.system, self.prompt, self.lowest, self.highest])

    def asked(self, one: Instruction) -> tuple[Message, ...]:
        """Return what a rater is asked of a row."""
        values = {"prompt": shown(one.prompt), "completion": one.completion}
        text = filled("the template of a rubric failed", self.prompt, values)
        user = {"role": "user", "content": text}
        return ({"role": "system", "content": self.system}, user) if self.system else (user,)


def rubrics() -> tuple[str, ...]:
    """Return the names of those that come with Strop."""
    return names_in("strop.selection", "rubrics")


def open_rubric(name: str) -> Rubric:
    """Open a rubric by name, or by the path of a YAML file. Raises StropError for bad ones."""
    known = [one.name for one in fields(Rubric) if one.name != "name"]
    called, found = read_named(
        name, "strop.selection", "rubrics", "rubric", known, needed=("prompt",)
    )
    return Rubric(called, **found)


def parse_grade(reply: str, lowest: int, highest: int) -> tuple[float | None, str]:
    """Return the grade on the first line of a reply that is not empty, and "rated" or why not.

    The line may have other words, but one number only: "4", "Score: 4.5", "4/5", "4 out of 5". One
    that is out of range, or of another scale, or beside others, is no grade.
    """
    line = next((one for one in reply.splitlines() if one.strip()), "")
    found = list(NUMBER.finditer(line))
    if not found:
        return None, "no number" if line else "empty reply"
    values = {(one["sign"], COMMA.sub(r"\1.\2", one["value"]), one["of"]) for one in found}
    if len(values) > 1:
        return None, "several numbers"
    [(sign, value, of)] = values
    if "," in value or value.count(".") > 1:
        return None, "no number"
    if of is not None and int(of) != highest:
        return None, "another scale"
    grade = float(value)
    if sign in ("-", "−") or not lowest <= grade <= highest:
        return None, "out of range"
    return grade, "rated"


def expected_grade(
    logps: Sequence[float | None], grades: Sequence[str]
) -> tuple[float | None, float]:
    """Return the mean grade by the probabilities of grades as the first token, and their sum.

    None if no probability is known. (As G-Eval, Liu et al. 2023, arXiv 2303.16634, section 2.3.)
    """
    known = [
        (float(grade), math.exp(logp))
        for grade, logp in zip(grades, logps, strict=True)
        if logp is not None
    ]
    mass = sum(p for _, p in known)
    if not mass > 0.0:
        return None, 0.0
    return sum(grade * p for grade, p in known) / mass, mass
