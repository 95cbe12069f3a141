"""Fetch the chat page's libraries from npm into the package, each by its version and checksum.

vendor_page_libraries.py            writes predictor/api/static/vendor
vendor_page_libraries.py --check    writes nothing, and fails where a file is not what npm has

To update one: change its version here, run it, and put the checksum that it complains of in place of the old
one, after a look at what has changed. It needs npm.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "predictor/api/static/vendor"
LANGUAGES = (
    *("bash", "c", "cpp", "csharp", "css", "diff", "dockerfile"),
    *("go", "ini", "java", "javascript", "json", "kotlin", "lua"),
    *("makefile", "markdown", "php", "powershell", "python", "r", "ruby"),
    *("rust", "sql", "swift", "typescript", "xml", "yaml"),
)


@dataclass(frozen=True)
class Library:
    """A package on npm.

    Attributes:
        name: there.
        version: exactly.
        integrity: npm's checksum of it.
        folder: where its files go.
        files: from their names in the package to those here.
    """

    name: str
    version: str
    integrity: str
    folder: str
    files: dict[str, str]


LIBRARIES = (
    Library(
        "marked",
        "18.2.1",
        "sha512-ii4bxCTCqqwpT86XZWgJNs+ZnAIZksmLGYMViWA7PDIXYIeNo1x6cDdX3JOip9NM/cI6p8z57FxliACboTruMA==",
        "marked",
        {"lib/marked.esm.js": "marked.esm.js", "LICENSE": "LICENSE"},
    ),
    Library(
        "@highlightjs/cdn-assets",
        "11.12.0",
        "sha512-KvOKXODaiFmId9xaq3xc5xCL66wVLUuOngDbO9B/kewbFTqdGbn2nJxNhN3H5R1cgDTVj6R8vH0zgiNDEGjpDw==",
        "highlight",
        {
            "es/core.min.js": "core.min.js",
            "LICENSE": "LICENSE",
            **{f"es/languages/{name}.min.js": f"languages/{name}.min.js" for name in LANGUAGES},
        },
    ),
)


def fetch(library: Library) -> Iterator[tuple[Path, bytes]]:
    """Each file's path here and its content."""
    wanted = f"{library.name}@{library.version}"
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", wanted], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(folder).glob("*.tgz")
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if f"sha512-{digest}" != library.integrity:
            sys.exit(f"{wanted} has the checksum sha512-{digest}, and not the one that is written down")
        with tarfile.open(archive) as packed:
            for source, target in library.files.items():
                content = packed.extractfile(f"package/{source}")
                assert content is not None
                yield FOLDER / library.folder / target, without_map(content.read())


def without_map(content: bytes) -> bytes:
    """The file without the address of its source map, which isn't shipped."""
    lines = content.rstrip().split(b"\n")
    return b"\n".join(line for line in lines if not line.startswith(b"//# sourceMappingURL=")) + b"\n"


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    for library in LIBRARIES:
        for path, content in fetch(library):
            if not check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            elif not path.is_file() or path.read_bytes() != content:
                sys.exit(f"{path} is not what npm has: run this script without --check")


if __name__ == "__main__":
    main()
