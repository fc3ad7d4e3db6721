"""`python -m tests.fuzz.replace SOURCE OUTPUT`: write a bundle over another one, as `python -m compile` does."""

import shutil
import sys
from pathlib import Path

from edge.bundle.bundle import bundle_writer

if __name__ == "__main__":
    with bundle_writer(Path(sys.argv[2])) as folder:
        shutil.copytree(sys.argv[1], folder, dirs_exist_ok=True)
