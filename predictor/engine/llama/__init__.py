"""The only package that touches llama.cpp: thin owners of its C objects, each closed deterministically.

Nothing here is thread-safe except `Model.tokenize` and `Model.piece`: one thread owns a `Context`, its
`Batch` and its `Sampler`s. ctypes releases the GIL during every call.
"""

from predictor.engine.llama.abort import AbortFlag
from predictor.engine.llama.adapter import Adapter
from predictor.engine.llama.batch import Batch
from predictor.engine.llama.context import Context, ContextParams, DecodeAbortedError, KVCacheFullError
from predictor.engine.llama.model import Model
from predictor.engine.llama.sampler import Sampler

__all__ = [
    "AbortFlag",
    "Adapter",
    "Batch",
    "Context",
    "ContextParams",
    "DecodeAbortedError",
    "KVCacheFullError",
    "Model",
    "Sampler",
]
