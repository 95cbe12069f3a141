"""The Flask app of the original container, written from its description, as the baseline.

One `llama_cpp.Llama` is loaded at import and shared by Flask's threads, as the original does. It is not
safe to use from several threads at once: under concurrent requests llama.cpp aborts the process.

    python -m benchmarks.original_container MODEL.gguf PORT
"""

from __future__ import annotations

import sys
from typing import Any

from flask import Flask, jsonify, request
from llama_cpp import Llama

# Llama 2's chat template, as the original fills it.
_TEMPLATE = "<s>[INST] <<SYS>>\n{system}\n<</SYS>>\n{prompt} [/INST]"
_MAX_TOKENS = 1000

app = Flask(__name__)
model = Llama(sys.argv[1])


@app.post("/predict")
def predict() -> Any:
    """Complete `prompt` under the system message `sys_msg`."""
    body = request.get_json()
    prompt = _TEMPLATE.format(system=body["sys_msg"], prompt=body["prompt"])
    return jsonify({"response": model(prompt, max_tokens=_MAX_TOKENS)})


if __name__ == "__main__":
    app.run(host="127.0.0.1", port=int(sys.argv[2]))
