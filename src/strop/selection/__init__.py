"""Which examples to train on, and how many are enough."""
