"""`python -m tests.machines`: the runtime on other machines than this one.

python -m tests.machines oldest --python python3.10    the oldest libraries that are allowed
python -m tests.machines arm64                         Debian for arm64 under qemu-user, as root
python -m tests.machines provision                     jetson/provision.sh in a clean Debian, as root
"""

import argparse
import sys
from pathlib import Path

from tests.machines.suite import add_machine


def main() -> int:
    """Test one machine; exit code 1 where something differs or fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.machines", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("machine", choices=("oldest", "arm64", "provision"))
    parser.add_argument("--python", default=f"{sys.version_info[0]}.{sys.version_info[1]}", help="of oldest")
    parser.add_argument("--rooms", nargs="+", default=[], help="tests to run instead of all, such as bundle frames")
    parser.add_argument("--folder", type=Path, default=Path("runs/machines"), help="environments, systems and bundles")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/machines.json"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.machine == "oldest":
        from tests.machines.oldest import oldest

        result = oldest(arguments.python, arguments.folder, arguments.rooms)
    elif arguments.machine == "arm64":
        from tests.machines.arm64 import arm64

        result = arm64(arguments.folder, arguments.rooms)
    else:
        from tests.machines.provision import provision

        result = provision(arguments.folder)
    name = " ".join([arguments.machine, *arguments.rooms])  # some rooms do not replace the result of all
    add_machine(arguments.output, name, result)
    print({name: value for name, value in result.items() if name != "failed"})
    print(*result["failed"], sep="\n")
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
