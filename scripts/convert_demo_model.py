"""Write the demo model in Q4_0, which CPUs are faster with than with the Q4_1 that it comes in.

convert_demo_model.py FROM TO
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from predictor.cgroup import default_threads
from predictor.errors import PredictorError
from predictor.formats.convert import convert, plan_conversion
from predictor.models.gguf import read_header


def main(source: Path, target: Path) -> None:
    header = read_header(source)
    started = time.monotonic()
    conversion = plan_conversion(source, target, "Q4_0", source.stat().st_size - header.weights_bytes)
    convert(conversion, default_threads(), lambda done, total: None)
    print(f"Converted the demo model to Q4_0 in {time.monotonic() - started:.1f} s", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except PredictorError as error:
        sys.exit(f"the demo model can't be converted: {error.message}")
