"""Judges a canary by its answers to a golden set of prompts."""
