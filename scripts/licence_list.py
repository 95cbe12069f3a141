"""List the packages of a Python environment with their licences: licence_list.py SITE-PACKAGES"""

from __future__ import annotations

import sys
from importlib.metadata import Distribution, distributions


def licence(package: Distribution) -> str:
    """By its expression, else by its classifiers, else in its own words."""
    about = package.metadata
    if expression := about.get("License-Expression"):
        return expression
    classifiers = [line for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
    if classifiers:
        return ", ".join(line.rpartition(" :: ")[2] for line in classifiers)
    return next(iter((about.get("License") or "").strip().splitlines()), "") or "not stated: see its files"


def main(packages: str) -> None:
    found = {(one.name.lower(), one.version): licence(one) for one in distributions(path=[packages])}
    for (name, version), text in sorted(found.items()):
        print(f"{name} {version}: {text}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
