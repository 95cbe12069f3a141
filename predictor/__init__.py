"""KServe predictor that serves GGUF language models with llama.cpp."""

__version__ = "0.1.0"
