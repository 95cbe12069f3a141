"""What every notebook needs: servers as users start them, stopped in any case, and sizes for small runs."""

from __future__ import annotations

import atexit
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent
COMMAND = (sys.executable, "-m", "predictor.cli")
MODEL_NAME = "smollm2"
_START_SECONDS, _STOP_SECONDS, _POLL_SECONDS = 300, 60, 0.02
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux

sys.path.insert(0, str(ROOT))
from scripts.free_ports import free_ports  # noqa: E402

_running: list[Server] = []


def setting(name: str, default: int) -> int:
    """A size that `NOTEBOOK_<NAME>` changes, so that the tests can run every notebook in seconds."""
    return int(os.environ.get(f"NOTEBOOK_{name.upper()}", default))


def demo_model() -> Path:
    """The GGUF file that `make setup` fetches, or the one that `KSERVE_LLAMACPP_TEST_MODEL` names."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kserve-llamacpp"
    file = "SmolLM2-135M-Instruct.Q4_1.gguf"
    path = Path(os.environ.get("KSERVE_LLAMACPP_TEST_MODEL") or cache / "models" / file)
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: run `make setup` first")
    return path


def has_cluster() -> bool:
    """Whether kubectl reaches a cluster that has KServe; cells that need one ask before they start."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        print("Skipped: there is no kubectl here.")
        return False
    question = [kubectl, "get", "crd", "inferenceservices.serving.kserve.io", "--request-timeout=3s"]
    if subprocess.run(question, capture_output=True, check=False).returncode:
        print("Skipped: kubectl reaches no cluster with KServe.")
        return False
    return True


@dataclass
class Server:
    """A `kserve-llamacpp serve` process.

    Attributes:
        url: of HTTP.
        grpc: host and port of gRPC.
        started: when, on the clock of `time.perf_counter`.
        ready_seconds: from then to the readiness probe's first 200; 0 before.
    """

    url: str
    grpc: str
    process: subprocess.Popen[bytes]
    log: Path
    started: float
    ready_seconds: float = 0.0

    def wait_until_ready(self) -> Server:
        """Ask as a readiness probe does.

        Raises:
            RuntimeError: the process ended or took too long; the message holds the end of its log.
        """
        while not self._answers():
            ended = self.process.poll() is not None
            if ended or time.perf_counter() - self.started > _START_SECONDS:
                raise RuntimeError(f"the server is not ready:\n{self.log.read_text()[-2000:]}")
            time.sleep(_POLL_SECONDS)
        self.ready_seconds = time.perf_counter() - self.started
        return self

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/v2/models/{MODEL_NAME}/ready").status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        """SIGTERM, as Kubernetes does; SIGKILL for one that stays."""
        self.process.terminate()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self in _running:
            _running.remove(self)


def serve(*options: str, model: Path | None = None) -> Server:
    """Start a server on free ports. It ends with the notebook's kernel, whatever happens in between."""
    http, grpc = free_ports(2)
    ports = ["--http-port", str(http), "--grpc-port", str(grpc)]
    command = [*COMMAND, "serve", str(model or demo_model()), "--model-name", MODEL_NAME, *ports, *options]
    log = Path(tempfile.mkdtemp(prefix="notebook-")) / "server.log"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    started = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, preexec_fn=_end_with_the_kernel
        )
    server = Server(f"http://127.0.0.1:{http}", f"127.0.0.1:{grpc}", process, log, started)
    _running.append(server)
    return server


def _end_with_the_kernel() -> None:
    if sys.platform == "linux":  # elsewhere only a kernel that is killed leaves its servers behind
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGTERM)


@atexit.register
def stop_all() -> None:
    """Stop every server that still runs."""
    while _running:
        _running[-1].stop()
