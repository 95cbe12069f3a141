"""Records how long a running server takes for requests, for the queueing model of tests/rollout.

python scripts/record_service_times.py MODEL > tests/rollout/service_times.json

A server is started, four clients send chats of mixed lengths to it, and its own log says how long each prompt
was read and each answer was written. Prints JSON: `requests` holds [tokens, seconds of the prompt, seconds of
the answer], in the order in which they ended.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

REQUESTS = 200
CLIENTS = 4
PORT, GRPC_PORT = 18471, 18472
WORDS = ["harbour", "quiet", "boats", "came", "back", "with", "nets", "full", "of", "silver", "fish", "songs"]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [sys.executable, "-m", "predictor.cli", "serve", sys.argv[1], "--model-name", "model"]
        command += ["--http-port", str(PORT), "--grpc-port", str(GRPC_PORT), "--log-format", "json"]
        command += ["--max-sequences", str(CLIENTS)]
        with log.open("w") as out:
            server = subprocess.Popen(command, stdout=out, stderr=out)
        try:
            wait_until_ready(server)
            with ThreadPoolExecutor(CLIENTS) as pool:
                list(pool.map(chat, range(REQUESTS)))
        finally:
            server.terminate()
            server.wait()
        found = recorded(log.read_text())
    source = f"{REQUESTS} chats, {CLIENTS} at a time, {Path(sys.argv[1]).name}"
    rows = ",\n  ".join(map(json.dumps, found))
    print(f'{{"source": {json.dumps(source)}, "requests": [\n  {rows}\n]}}')


def wait_until_ready(server: subprocess.Popen[bytes]) -> None:
    while server.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{PORT}/v2/models/model/ready").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"the server ended with status {server.returncode}")


def chat(number: int) -> None:
    chance = random.Random(number)
    words = int(chance.lognormvariate(4.0, 0.9))
    body = {
        "model": "model",
        "messages": [{"role": "user", "content": " ".join(chance.choices(WORDS, k=words))}],
        "max_tokens": max(1, min(256, int(chance.lognormvariate(3.6, 0.8)))),
        "ignore_eos": True,
        "seed": number,
    }
    answer = httpx.post(f"http://127.0.0.1:{PORT}/v1/chat/completions", json=body, timeout=300)
    answer.raise_for_status()


def recorded(log: str) -> list[list[float]]:
    found = []
    for line in log.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("message") != "request finished":
            continue
        first, total = entry["time_to_first_token_seconds"], entry["total_seconds"]
        prompt = first - entry["queue_seconds"]
        found.append([entry["completion_tokens"], round(prompt, 4), round(total - first, 4)])
    return found


if __name__ == "__main__":
    main()
