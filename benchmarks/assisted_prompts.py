"""Prompts for assisted generation: those of Spec-Bench by category, and our own for copying.

Spec-Bench (Xia et al. 2024, arXiv 2401.07851) has six groups; its chat prompts come from MT-Bench
in eight kinds, of which extraction is shown alone, too. Editing and json are ours: what a model
is to repeat, with a change, is in the prompt.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

GROUPS = {"translation", "summarization", "qa", "math_reasoning", "rag"}
CHAT = "chat"  #: everything else in Spec-Bench
CHARACTERS = 1500  #: of a prompt that a head learns from, at most

FUNCTIONS = [
    (
        "def total_price(items, tax_rate):\n    subtotal = 0\n    for item in items:\n"
        "        subtotal += item['price'] * item['quantity']\n    tax = subtotal * tax_rate\n"
        "    return subtotal + tax\n",
        "Rename the variable subtotal to amount.",
    ),
    (
        "def count_words(text):\n    counts = {}\n    for word in text.lower().split():\n"
        "        word = word.strip('.,;:!?')\n        if word not in counts:\n"
        "            counts[word] = 0\n        counts[word] += 1\n    return counts\n",
        "Add a docstring to the function and change nothing else.",
    ),
    (
        "class Stack:\n    def __init__(self):\n        self.items = []\n\n"
        "    def push(self, item):\n        self.items.append(item)\n\n"
        "    def pop(self):\n        return self.items.pop()\n\n"
        "    def is_empty(self):\n        return len(self.items) == 0\n",
        "Add a method size that returns the number of items.",
    ),
    (
        "def read_numbers(path):\n    numbers = []\n    with open(path) as stream:\n"
        "        for line in stream:\n            line = line.strip()\n            if line:\n"
        "                numbers.append(float(line))\n    return numbers\n",
        "Skip lines that begin with '#'.",
    ),
    (
        "def celsius_to_fahrenheit(celsius):\n    return celsius * 9 / 5 + 32\n\n\n"
        "def fahrenheit_to_celsius(fahrenheit):\n    return (fahrenheit - 32) * 5 / 9\n\n\n"
        "def main():\n    for celsius in range(0, 101, 10):\n"
        "        print(celsius, celsius_to_fahrenheit(celsius))\n",
        "Print the temperatures with one digit after the point.",
    ),
    (
        "import json\n\n\ndef load_settings(path):\n    with open(path) as stream:\n"
        "        settings = json.load(stream)\n    settings.setdefault('language', 'en')\n"
        "    settings.setdefault('theme', 'light')\n    settings.setdefault('volume', 50)\n"
        "    return settings\n",
        "Change the default theme to 'dark'.",
    ),
]
EDIT = "Here is some Python code:\n\n```python\n{}```\n\n{} Write the whole code again."

RECORDS = [
    (
        "Maria Lopez, born 1984 in Sevilla, works as an architect. Tom Becker, born 1991 in "
        "Hamburg, works as a nurse. Aiko Tanaka, born 1978 in Osaka, works as a chemist.",
        "name, year of birth, city and profession",
    ),
    (
        "Order 1042: 3 boxes of green tea, 12.50 euros, shipped on 4 March. Order 1043: 1 teapot, "
        "39.00 euros, shipped on 5 March. Order 1044: 6 cups, 27.30 euros, not shipped yet.",
        "order number, goods, price and date of shipping",
    ),
    (
        "The Blue Lagoon opens at 9 and closes at 18; entry costs 14 dollars. The City Museum "
        "opens at 10 and closes at 17; entry costs 8 dollars. The Old Lighthouse opens at 11 and "
        "closes at 16; entry is free.",
        "place, opening time, closing time and price of entry",
    ),
    (
        "Train IC 204 leaves Vienna at 08:15 and arrives in Salzburg at 10:37 on platform 4. Train "
        "RE 88 leaves Linz at 09:02 and arrives in Graz at 12:20 on platform 2. Train EC 113 "
        "leaves Munich at 12:21 and arrives in Villach at 16:45 on platform 7.",
        "train, start, departure, destination, arrival and platform",
    ),
    (
        "Mount Rigi is 1,798 metres high and lies near Lucerne. Piz Bernina is 4,049 metres high "
        "and lies near Pontresina. The Eiger is 3,967 metres high and lies near Grindelwald.",
        "mountain, height in metres and the nearest town",
    ),
    (
        "Server alpha has 16 cores, 64 GB of memory and address 10.0.0.11. Server beta has 8 "
        "cores, 32 GB of memory and address 10.0.0.12. Server gamma has 32 cores, 128 GB of "
        "memory and address 10.0.0.13.",
        "server, cores, memory and address",
    ),
]
EXTRACT = "{}\n\nWrite this as a JSON list of objects with the keys {}. Copy the values exactly."


def prompts(most: int) -> dict[str, list[str]]:
    """Return at most so many prompts of each category, spread over those that there are."""
    found: dict[str, list[str]] = {}
    for row in rows("spec_bench.jsonl"):
        group = row["category"] if row["category"] in GROUPS else CHAT
        found.setdefault(group, []).append(row["turns"][0])
        if row["category"] == "extraction":
            found.setdefault("extraction", []).append(row["turns"][0])
    found["editing"] = [EDIT.format(code, change) for code, change in FUNCTIONS]
    found["json"] = [EXTRACT.format(text, keys) for text, keys in RECORDS]
    return {name: spread(texts, most) for name, texts in found.items()}


def training() -> list[str]:
    """Return what a head learns from: questions, sums and summaries, none of them in Spec-Bench."""
    dolly = [
        f"{row['instruction']} {row['input']}"[:CHARACTERS].strip() for row in rows("dolly.jsonl")
    ]
    sums = [row["question"] for row in rows("gsm8k_train.jsonl")]
    papers = [f"Summarize: {row['source']}"[:CHARACTERS] for row in rows("scitldr_train.jsonl")]
    return [*spread(dolly, 1200), *spread(sums, 300), *spread(papers, 300)]


def rows(name: str) -> list[dict[str, Any]]:
    """Return the objects in a file of $STROP_DATA, one in each line."""
    path = Path(os.environ["STROP_DATA"]) / name
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def spread(texts: list[str], most: int) -> list[str]:
    """Return at most so many texts, from all over a list."""
    if len(texts) <= most:
        return texts
    return [texts[index * len(texts) // most] for index in range(most)]
