"""Losses that TRL's trainers give on a tiny model, with what they are functions of.

Run in an environment with TRL 1.16; writes trl_losses.json beside this file. Kept: of each pair the
loss, and the log-probabilities that the trainer logged; means over tokens where the trainer uses
those. Rewards are beta times the log-ratio.
"""

from __future__ import annotations

import inspect
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.utils.data import SequentialSampler
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

ROWS = [
    ("Why? ", "Because it is so.", "No."),
    ("Count: ", "one, two", "1 2 3 4 5 6"),
    ("Hi ", "Hello to you", "What"),
]
KEPT = ("loss", "logps", "rewards/chosen", "rewards/rejected", "nll_loss", "kl")


def tokenizer() -> Any:
    """Return a byte tokenizer."""
    special = ["<pad>", "<s>", "</s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(special + alphabet)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def network(seed: int) -> Any:
    """Return a small random model."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=259,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return transformers.LlamaForCausalLM(config)


def settings(config: Any, folder: str, batch: int, **own: Any) -> Any:
    """Return a configuration that changes no weight and logs every step."""
    common = {
        "per_device_train_batch_size": batch,
        "max_steps": 3 // batch,
        "learning_rate": 1e-30,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
    }
    known = inspect.signature(config).parameters
    return config(output_dir=folder, **{k: v for k, v in common.items() if k in known}, **own)


def logged(make: Callable[[str], Any]) -> list[dict[str, float]]:
    """Train without training, in the order of the rows; return what was logged of each step."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = make(folder)
        trainer._get_train_sampler = lambda *_, **__: SequentialSampler(trainer.train_dataset)
        trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    return [{k: v for k, v in row.items() if k.startswith(KEPT)} for row in rows]


def main() -> None:
    pairs = Dataset.from_list([{"prompt": p, "chosen": c, "rejected": r} for p, c, r in ROWS])
    labelled = Dataset.from_list(
        [
            {"prompt": ROWS[0][0], "completion": ROWS[0][1], "label": True},
            {"prompt": ROWS[1][0], "completion": ROWS[1][2], "label": False},
        ]
    )
    found: dict[str, Any] = {}
    for name, beta in (("sigmoid", 0.1), ("hinge", 0.05), ("ipo", 0.1), ("sigmoid_norm", 5.0)):
        rows = logged(
            lambda folder, name=name, beta=beta: DPOTrainer(
                model=network(1),
                ref_model=network(2),
                args=settings(DPOConfig, folder, 1, loss_type=[name], beta=beta),
                train_dataset=pairs,
                processing_class=tokenizer(),
            )
        )
        found[f"dpo {name}"] = {"beta": beta, "rows": rows}
    cpo = {
        "sigmoid": {"beta": 0.1, "cpo_alpha": 1.0},
        "simpo": {"beta": 2.0, "simpo_gamma": 1.0, "cpo_alpha": 0.0},
        "hinge": {"beta": 1.0, "cpo_alpha": 1.0},
    }
    for name, own in cpo.items():
        rows = logged(
            lambda folder, name=name, own=own: CPOTrainer(
                model=network(1),
                args=settings(CPOConfig, folder, 1, loss_type=name, **own),
                train_dataset=pairs,
                processing_class=tokenizer(),
            )
        )
        found[f"cpo {name}"] = {**own, "rows": rows}
    rows = logged(
        lambda folder: ORPOTrainer(
            model=network(1),
            args=settings(ORPOConfig, folder, 1, beta=0.1),
            train_dataset=pairs,
            processing_class=tokenizer(),
        )
    )
    found["orpo"] = {"beta": 0.1, "rows": rows}
    rows = logged(
        lambda folder: KTOTrainer(
            model=network(1),
            ref_model=network(2),
            args=settings(KTOConfig, folder, 2, beta=0.1),
            train_dataset=labelled,
            processing_class=tokenizer(),
        )
    )
    found["kto"] = {"beta": 0.1, "rows": rows}
    tokens = [[len(text) + 1 for text in row[1:]] for row in ROWS]  # bytes, and the end
    value = {"lengths": tokens, "losses": found}
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
