"""Endpoints that a test makes, and that end with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.lm.endpoint import Endpoint, Reply


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Endpoint]]:
    monkeypatch.setenv("STROP_API_KEY", "secret")
    made: list[Endpoint] = []

    def make(reply: Callable[[dict[str, Any], int], Reply]) -> Endpoint:
        made.append(Endpoint(reply))
        return made[-1]

    yield make
    for one in made:
        one.close()
