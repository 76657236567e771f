"""The training loop, adapters, and log-probabilities of completions that share a prompt."""
