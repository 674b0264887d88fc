"""Metrics and gates: from models and recordings to verdicts. Never changes a weight."""
