"""Number formats of weights: which are fast on this CPU, and conversion from one to another."""
