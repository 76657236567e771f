"""Time one of TRL's trainers; runs in the peers' environment.

tuning_trl.py KIND TYPE MODEL PAIRS STEPS THREADS FOLDER
"""

from __future__ import annotations

import json
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback


def trainer(
    kind: str, dtype: str, common: dict[str, Any], given: dict[str, Any], completion: int
) -> Any:
    """Build a trainer: with its defaults, or tuned for a CPU."""
    from trl import DPOConfig, DPOTrainer, RLOOConfig, RLOOTrainer
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    if kind == "dpo-default":
        return DPOTrainer(args=DPOConfig(**common), **given)
    fast = {"bf16": dtype == "bfloat16", "gradient_checkpointing": False}
    if kind == "dpo-tuned":
        config = DPOConfig(**common, **fast, precompute_ref_log_probs=True)
        return DPOTrainer(args=config, **given)
    if kind == "cpo-hinge":
        config = CPOConfig(**common, **fast, loss_type="hinge", cpo_alpha=1.0)
        return CPOTrainer(args=config, **given)
    assert kind == "rloo"
    common = common | {"per_device_train_batch_size": 2}  # both answers to one prompt
    config = RLOOConfig(**common, **fast, num_generations=2, max_completion_length=completion)
    given["train_dataset"] = given["train_dataset"].remove_columns(["chosen", "rejected"])
    return RLOOTrainer(
        args=config,
        reward_funcs=lambda completions, **_: [float(len(c)) for c in completions],
        **given,
    )


class Clock(TrainerCallback):  # type: ignore[misc]
    """Notes when steps end."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())


def main() -> None:
    kind, dtype, model, pairs, steps, threads, folder = sys.argv[1:]
    torch.set_num_threads(int(threads))
    rows = [json.loads(line) for line in Path(pairs).read_text(encoding="utf-8").splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = None
    completion = len(tokenizer.encode(rows[0]["chosen"])) + 1
    repeated = [rows[index % len(rows)] for index in range(int(steps) + 1)]
    clock = Clock()
    common = {
        "output_dir": folder,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "max_steps": int(steps) + 1,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    held = "float32" if kind == "dpo-default" else dtype
    network = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, held))
    given = {
        "model": network,
        "processing_class": tokenizer,
        "train_dataset": Dataset.from_list(repeated),
        "peft_config": LoraConfig(
            r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        "callbacks": [clock],
    }
    trainer(kind, dtype, common, given, completion).train()
    seconds = [after - before for before, after in zip(clock.ends, clock.ends[1:], strict=False)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = {"seconds": seconds, "peak_bytes": peak, "version": f"TRL {version('trl')}"}
    print("RESULT " + json.dumps(found))


if __name__ == "__main__":
    main()
