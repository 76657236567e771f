"""lm-evaluation-harness beside Strop: it drives a model of ours, and reads our results.

    python -m strop.evaluation.harness run --model strop --model_args pretrained=small --tasks piqa

takes what `lm_eval` takes. Prompts are continued as they are, or put into the chat template by the
harness (--apply_chat_template), which also makes few-shot prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from strop.console import progress
from strop.decoding import CachedSession, Sampling
from strop.decoding.generate import beginning
from strop.errors import StropError, StropFailure
from strop.lm import Answer, LocalModel, Scores, local
from strop.models import load

#: Our figures by the names that the harness gives to the same
METRICS = {
    "accuracy": "acc",
    "accuracy per letter": "acc_norm",
    "exact match": "exact_match",
    "all followed": "prompt_level_strict_acc",
    "all followed, loosely": "prompt_level_loose_acc",
    "passed": "pass@1",
    "bits per byte": "bits_per_byte",
}
#: What the harness calls the most tokens of an answer; the first that is set counts
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
MOST_TOKENS = 256  #: of an answer, if nothing is set


def harness_results(facts: Mapping[str, Any], model: int = 0) -> dict[str, Any]:
    """Return what an evaluation found of its model, or the other one, in the harness's layout.

    Tasks without figures are not in it. What the harness calls the version of a task is here the
    hash of what was asked.
    """
    role = ("model", "against")[model]
    tasks = {name: task for name, task in facts["tasks"].items() if task["figures"]}
    results: dict[str, Any] = {}
    for name, task in tasks.items():
        results[name] = {"alias": name}
        for metric, one in known_figures(task).items():
            results[name][f"{metric},none"] = one[role]["estimate"]
            results[name][f"{metric}_stderr,none"] = one["stderr"][model]
    return {
        "results": results,
        "configs": {
            name: {
                "task": name,
                "num_fewshot": task["shots"],
                "apply_chat_template": task["chat"][model],
            }
            for name, task in tasks.items()
        },
        "versions": {name: task["hash"][:12] for name, task in tasks.items()},
        "n-shot": {name: task["shots"] for name, task in tasks.items()},
        "higher_is_better": {
            name: dict.fromkeys(known_figures(task), not task["loss"])
            for name, task in tasks.items()
        },
        "n-samples": {
            name: {
                "original": task["rows"],
                "effective": next(iter(task["figures"].values()))[role]["n"],
            }
            for name, task in tasks.items()
        },
        "config": {"model": "strop", "model_args": {"pretrained": facts[role]}},
    }


def known_figures(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures that the harness has too, by its names."""
    return {
        metric: task["figures"][figure]
        for figure, metric in METRICS.items()
        if figure in task["figures"]
    }


def adapter() -> Any:
    """Return the class by which the harness drives a model. Raises StropError without it."""
    try:
        from lm_eval.api.model import LM
    except ImportError as error:
        raise StropError(f"cannot import lm_eval ({error}): pip install lm-eval") from error

    class StropLM(LM):  # type: ignore[misc]
        """A packed model, or one on PyTorch."""

        def __init__(self, pretrained: str, backend: str | None = None, **_: Any) -> None:
            super().__init__()
            self.model = LocalModel(load(pretrained, backend), chat=False)

        @property
        def tokenizer_name(self) -> str:
            return self.model.name.replace("/", "__")

        def apply_chat_template(
            self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
        ) -> str:
            return self.model.model.tokenizer.chat(chat_history, add_generation_prompt)

        def chat_template(self, chat_template: bool | str = False) -> str | None:
            return self.model.model.tokenizer.template if chat_template else ""

        def loglikelihood(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
            return [
                (one.total, one.greedy)
                for one in scored(self.model, [request.args for request in requests])
            ]

        def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
            return [rolling(self.model, *request.args) for request in requests]

        def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
            return generated(self.model, [request.args for request in requests])

    return StropLM


def scored(model: LocalModel, pairs: Sequence[tuple[str, str]]) -> list[Scores]:
    """Score answers. Raises StropFailure for one that does not fit."""
    found: dict[int, Scores] = {}
    with progress("scoring", len(pairs), "answers") as advance:
        for number, one in model.score(pairs):
            if not isinstance(one, Scores):
                raise StropFailure(f"request {number + 1}: {one.reason}")
            found[number] = one
            advance(1)
    return [found[number] for number in range(len(pairs))]


def rolling(model: LocalModel, text: str) -> float:
    """Return the log-probability of a text, in windows that fill the context.

    The last one begins so early that it fills it too, and counts what the others did not, as in the
    harness's own models.
    """
    loaded = model.model
    ids = [beginning(loaded), *loaded.tokenizer.encode(text, special=False)]
    room, total = loaded.context_length, 0.0
    for start in range(1, len(ids), room):
        end = min(start + room, len(ids))
        before = ids[max(0, end - room - 1) : start]
        cache = CachedSession(loaded.session())
        total += local.scored(cache, before, ids[start:end]).total
    return total


def generated(model: LocalModel, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Write answers as the harness asks: greedy, or by a temperature.

    A request that is repeated gets a seed of its own each time.
    """
    samplings = [sampling_of(settings, number) for number, (_, settings) in enumerate(requests)]
    found: dict[int, str] = {}
    with progress("writing", len(requests), "answers") as advance:
        for number, one in model.generate([prompt for prompt, _ in requests], samplings):
            if not isinstance(one, Answer):
                raise StropFailure(f"request {number + 1}: {one.reason}")
            found[number] = one.text
            advance(1)
    return [found[number] for number in range(len(requests))]


def sampling_of(settings: Mapping[str, Any], seed: int) -> Sampling:
    """Return our sampling for the harness's settings, by the rules of its `normalize_gen_kwargs`.

    A temperature above 0 draws unless do_sample is false; of several lengths the first of `LENGTHS`
    counts. Raises StropError for settings that we have not.
    """
    known = {"until", "do_sample", "temperature", "top_p", "top_k", *LENGTHS}
    if unknown := set(settings) - known:
        raise StropError(f"the harness asks for {', '.join(sorted(unknown))}, which we have not")
    until = settings.get("until") or ()
    lengths = [settings[name] for name in LENGTHS if settings.get(name) is not None]
    draws = settings.get("do_sample") is not False
    return Sampling(
        temperature=float(settings.get("temperature", 0.0)) if draws else 0.0,
        top_p=float(settings.get("top_p", 1.0)),
        top_k=int(settings.get("top_k", 0)),
        min_p=0.0,
        repetition_penalty=1.0,
        stop=(until,) if isinstance(until, str) else tuple(one for one in until if one),
        max_tokens=int(lengths[0]) if lengths else MOST_TOKENS,
        seed=seed,
    )


def main() -> None:
    """Run the harness's own command line, which then knows the model `strop`."""
    model = adapter()
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.registry import register_model

    register_model("strop")(model)
    cli_evaluate()


if __name__ == "__main__":
    main()
