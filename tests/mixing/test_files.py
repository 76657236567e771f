"""Swarms and mixtures as files, and a mixture from a table of runs."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from strop.cli.main import app
from strop.data import read_json
from strop.errors import StropError
from strop.mixing.design import designed
from strop.mixing.files import Swarm, read_mixture, read_swarm, write_swarm
from strop.mixing.optimum import Objective
from strop.mixing.swarm import mixture_from_table
from strop.mixing.weights import natural

NAMES = ("code", 'news, "daily"', "a weight of stone")


def swarm(names: tuple[str, ...] = NAMES, runs: int = 12) -> Swarm:
    """Return runs in which the second domain is the worst, and helps itself most."""
    mixtures = designed(natural([1, 2, 3]), runs)
    losses = np.array([2.0, 3.0, 2.0]) - np.array([0.1, 0.5, 0.1]) * np.log(mixtures + 0.01)
    return Swarm(names, names, mixtures, losses)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(st.text(min_size=1).filter(lambda one: "\0" not in one), min_size=3, max_size=3),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_table_is_read_as_it_was_written(tmp_path: Path, names: list[str], seed: int) -> None:
    random = np.random.default_rng(seed)
    keys = tuple(f"{place}{name}" for place, name in enumerate(names))  # all different
    try:
        "".join(keys).encode()
    except UnicodeEncodeError:  # lone surrogates cannot be in any file
        return
    written = Swarm(keys, keys[:2], random.dirichlet(np.ones(3), 5), random.normal(size=(5, 2)))
    write_swarm(written, tmp_path / "swarm.csv")
    found = read_swarm(tmp_path / "swarm.csv")
    assert (found.domains, found.texts) == (written.domains, written.texts)
    assert np.array_equal(found.mixtures, written.mixtures)
    assert np.array_equal(found.losses, written.losses)


HEADER = "weight a,weight b,loss a\n"
ROWS = "0.5,0.5,1\n0.4,0.6,2\n0.3,0.7,3\n"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("", "needs two columns 'weight NAME'"),
        ("weight a,loss a\n1,2\n", "needs two columns"),
        ("weight a,weight b\n0.5,0.5\n", "needs two columns"),
        (HEADER, "0 runs are too few"),
        (HEADER + "0.5,0.5\n", "row 2 has 2 values, not 3"),
        (HEADER + "0.5,0.5,1,1\n", "row 2 has 4 values, not 3"),
        (HEADER + ROWS + "0.5,half,1\n", "row 5, weight b: 'half' is no number"),
        (HEADER + ROWS + "0.5,0.5,nan\n", "the losses of run 3 are not finite"),
        (HEADER + ROWS + "0.5,1.5,1\n", "must not be negative and must add up to one"),
        (HEADER + ROWS + "-0.5,1.5,1\n", "must not be negative and must add up to one"),
        ("weight a,weight b,weight b,loss a\n", "two columns are called 'weight b'"),
        (HEADER + '0.5,"0.5,1\n', "cannot be read as a table"),
    ],
)
def test_a_table_that_cannot_be_fitted_is_one_line(tmp_path: Path, table: str, said: str) -> None:
    path = tmp_path / "swarm.csv"
    path.write_text(table)
    with pytest.raises(StropError, match=re.escape(said)) as error:
        read_swarm(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_what_is_no_file_or_no_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, tmp_path / "none.csv", tmp_path / "binary.csv"):
        with pytest.raises(StropError, match="cannot be read as a table"):
            read_swarm(path)


def test_other_columns_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "swarm.csv").write_text(
        "run,weight a,weight b,loss a\n" + "".join(f"x,{row}\n" for row in ROWS.split())
    )
    assert read_swarm(tmp_path / "swarm.csv").losses.ravel().tolist() == [1, 2, 3]


def test_a_mixture_from_a_table_goes_where_the_objective_is(tmp_path: Path) -> None:
    table, output = tmp_path / "swarm.csv", tmp_path / "m.json"
    write_swarm(swarm(), table)
    facts = mixture_from_table(table, output, Objective("worst"))
    weights = read_mixture(output, NAMES)
    assert weights[1] > 0.6
    assert facts["objective"]["mixture"] < facts["objective"]["uniform"] - 0.1
    assert {one["fit"] for one in facts["losses"].values()} <= {"near-share", "log-ridge"}
    even = mixture_from_table(table, output, Objective("worst"), pull=1e3)
    np.testing.assert_allclose(list(even["weights"].values()), 1 / 3, atol=0.02)
    with pytest.raises(StropError, match="unknown domain 'codes': did you mean 'code'"):
        mixture_from_table(table, output, Objective("weighted", {"codes": 1.0}))
    with pytest.raises(StropError, match="no column 'loss target'"):
        mixture_from_table(table, output, Objective("target"))


def test_copies_of_runs_say_nothing_new(tmp_path: Path) -> None:
    one = swarm()
    copies = Swarm(
        one.domains, one.texts, np.tile(one.mixtures, (3, 1)), np.tile(one.losses, (3, 1))
    )
    found = []
    for number, each in enumerate((one, copies)):
        write_swarm(each, tmp_path / f"{number}.csv")
        mixture_from_table(tmp_path / f"{number}.csv", tmp_path / f"{number}.json", Objective())
        found.append(read_mixture(tmp_path / f"{number}.json", NAMES))
    np.testing.assert_allclose(*found, atol=0.02)


@pytest.mark.parametrize("pull", [-1.0, math.inf, math.nan])
def test_what_nothing_can_be_fitted_to_is_said(tmp_path: Path, pull: float) -> None:
    table, output = tmp_path / "swarm.csv", tmp_path / "m.json"
    one = swarm()
    write_swarm(one, table)
    with pytest.raises(StropError, match="pull must be a number"):
        mixture_from_table(table, output, Objective(), pull)
    same = np.tile(one.mixtures[:1], (len(one.mixtures), 1))
    write_swarm(Swarm(one.domains, one.texts, same, one.losses), table)
    with pytest.raises(StropError, match="1 different mixtures"):
        mixture_from_table(table, output, Objective())
    write_swarm(Swarm(one.domains, one.texts, one.mixtures, one.losses * 1e300), table)
    with pytest.raises(StropError, match="larger than 1e"):
        mixture_from_table(table, output, Objective())
    output.write_text("notes of mine")
    with pytest.raises(StropError, match="is no mixture: name another"):
        mixture_from_table(table, output, Objective())
    assert output.read_text() == "notes of mine"


def test_a_table_with_a_mark_and_empty_lines_is_read(tmp_path: Path) -> None:
    write_swarm(swarm(), tmp_path / "swarm.csv")
    text = (tmp_path / "swarm.csv").read_text()
    (tmp_path / "other.csv").write_text("\ufeff" + text + "\n\n")
    assert np.array_equal(
        read_swarm(tmp_path / "other.csv").losses, read_swarm(tmp_path / "swarm.csv").losses
    )


def test_the_command_prints_what_the_fit_says(tmp_path: Path) -> None:
    write_swarm(swarm(("a", "b", "c")), tmp_path / "swarm.csv")
    command = ["fit-mixture", str(tmp_path / "swarm.csv"), "-o", str(tmp_path / "m.json")]
    result = CliRunner().invoke(app, [*command, "--objective", "weighted", "--weight", "b=1"])
    assert result.exit_code == 0, result.output
    assert "near-share" in result.stdout or "log-ridge" in result.stdout
    assert "12 runs" in result.stdout
    assert read_json(tmp_path / "m.json")["domains"]["b"] > 0.6
