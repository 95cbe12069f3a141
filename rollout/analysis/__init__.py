"""Judges a canary by the figures of the users' traffic."""
