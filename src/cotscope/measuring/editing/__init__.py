"""Edits found by search or training, what they are trained on, and what they do beside their base and beside each other."""
