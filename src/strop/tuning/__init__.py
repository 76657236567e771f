"""Tuning: on examples, into a ranker, and on preferences without reinforcement learning."""
