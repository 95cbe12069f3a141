"""Side-by-side runs against llama-server and the original container: `python -m benchmarks --help`."""
