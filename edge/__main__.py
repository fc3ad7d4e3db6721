"""`edge`: a bundle on this machine."""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

from edge.bundle import Bundle
from edge.console import FAILED, PASSED, at_least, print_json, run_main, tracked
from edge.engines import BACKENDS, backend_named
from edge.protocols import Backend

Verb = Callable[[argparse.Namespace], int]


def main() -> int:
    """Do what the command line says."""
    arguments = parser().parse_args()
    verb: Verb = arguments.verb
    return verb(arguments)


def info(arguments: argparse.Namespace) -> int:
    """Print what a bundle holds, and how its exits would be decided here."""
    from edge.doctor import exits_on_the_gpu
    from edge.report import print_bundle

    bundle = Bundle.open(arguments.bundle)
    if arguments.json:
        print_json(dataclasses.asdict(bundle.manifest))
    else:
        print_bundle(bundle)
        print(f"exits on the GPU: {exits_on_the_gpu().found}")
    return PASSED


def build(arguments: argparse.Namespace) -> int:
    """Build every segment's engine into this user's cache."""
    from edge.building import build_bundle
    from edge.report import print_builds

    bundle = Bundle.open(arguments.bundle)
    builds = build_bundle(bundle, chosen_backend(arguments), precisions=arguments.precision, batches=arguments.batches)
    if arguments.json:
        print_json([dataclasses.asdict(item) for item in builds])
    else:
        print_builds(builds)
    return PASSED


def run(arguments: argparse.Namespace) -> int:
    """Classify frames of a camera, video or folder."""
    from edge.running import run_source

    bundle, backend = Bundle.open(arguments.bundle), chosen_backend(arguments)
    return run_source(
        bundle,
        precision=arguments.precision or default_precision(bundle, backend),
        backend=backend,
        source=arguments.source,
        thresholds=arguments.threshold,
        policy=arguments.policy,
        frames=arguments.frames,
        json_lines=arguments.json,
        output=arguments.output,
    )


def verify(arguments: argparse.Namespace) -> int:
    """Compare engines with the trained network, exit by exit."""
    from edge.files import write_file
    from edge.parity import verify as verify_precision
    from edge.parity_report import markdown
    from edge.report import print_parity

    bundle = Bundle.open(arguments.bundle)
    backend = chosen_backend(arguments)
    names = arguments.precision or bundle.manifest.precisions
    results = [verify_precision(bundle, name, backend, arguments.references) for name in names]
    if arguments.report is not None:
        write_file(arguments.report, markdown(bundle, results))
    passed = all(result.passed for result in results)
    if arguments.json:
        rows = [{**dataclasses.asdict(result), "first_diverging": result.first_diverging} for result in results]
        print_json({"passed": passed, "precisions": rows})
    else:
        print_parity(results)
    return PASSED if passed else FAILED


def record(arguments: argparse.Namespace) -> int:
    """Write every exit's scores for labelled images, to refit thresholds from."""
    from edge.labelled import record_folder

    bundle = Bundle.open(arguments.bundle)
    backend = chosen_backend(arguments)
    precision = arguments.precision or default_precision(bundle, backend)
    count = record_folder(bundle, precision, backend, arguments.images, arguments.output)
    if arguments.json:
        print_json({"scores": str(arguments.output), "precision": precision, "samples": count})
    else:
        print(f"wrote {arguments.output} with {count} samples; to refit thresholds:")
        print(f"  python -m calibration {bundle.path} --scores {arguments.output} --precision {precision}")
    return PASSED


def bench(arguments: argparse.Namespace) -> int:
    """Measure each exit, the real mix, and the whole network."""
    from edge.bench import candidates_of, measure
    from edge.machine import conditions
    from edge.report import print_bench

    bundle = Bundle.open(arguments.bundle)
    backend = chosen_backend(arguments)
    reference = bundle.reference()
    names = arguments.precision or list(bundle.manifest.precisions)
    before = conditions()
    results = {
        name: measure(
            candidates_of(bundle, name, backend),
            tracked(reference.frames, f"measuring {name}"),
            reference.labels.tolist(),
        )
        for name in names
    }
    if arguments.json:
        measured = {
            name: {key: dataclasses.asdict(value) for key, value in result.items()} for name, result in results.items()
        }
        segments = {name: bundle.segments_digest(name) for name in names}
        ran = {"backend": backend.name, "threads": arguments.threads, "segments": segments}
        print_json(ran | {"conditions": before, "precisions": measured})
    else:
        print_bench(results)
        print(
            f"on {before['cpu']}, {before['cores']} cores, load {before['load_average']}, {arguments.threads} threads"
        )
    return PASSED


def doctor(arguments: argparse.Namespace) -> int:
    """Say what this machine has and lacks."""
    from edge.doctor import examine
    from edge.report import print_findings

    findings = examine()
    if arguments.json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        print_findings(findings)
    return PASSED if all(finding.is_well for finding in findings) else FAILED


def chosen_backend(arguments: argparse.Namespace) -> Backend:
    """Return the backend the command line names."""
    return backend_named(arguments.backend, threads=arguments.threads, target=getattr(arguments, "target", None))


def default_precision(bundle: Bundle, backend: Backend) -> str:
    """Return what is fastest on a backend, where the bundle has it: ONNX Runtime emulates this int8 in float."""
    fastest = "fp32" if backend.name == "onnxruntime" else "int8"
    return fastest if fastest in bundle.manifest.precisions else next(iter(bundle.manifest.precisions))


def parser() -> argparse.ArgumentParser:
    """Return the command line of all verbs."""
    new = argparse.ArgumentParser(
        prog="edge", description="Run an early-exit bundle on this machine. Make one with `python -m compile`."
    )
    verbs = new.add_subparsers(required=True, metavar="VERB")
    _add(verbs, "info", info, "what a bundle holds: exits, cost, precisions, thresholds")
    one = _add(verbs, "build", build, "build every segment's engine, kept in this user's cache")
    _backend(one)
    one.add_argument(
        "--target", metavar="SM", help="GPU to build for, such as sm89 (tensorrt-rtx; default: all from Ampere on)"
    )
    one.add_argument("--precision", action="append", help="precision to build; repeatable (default: all)")
    one.add_argument("--batches", action="store_true", help="also build engines for up to 32 images at once")
    one = _add(verbs, "run", run, "classify a camera, video or folder")
    one.add_argument("--source", required=True, help="camera index, video file, folder of images, or rtsp:// address")
    one.add_argument("--precision", help="precision to run (default: the fastest on the backend)")
    one.add_argument(
        "--threshold",
        type=float,
        action="append",
        metavar="T",
        help="confidence that is enough at an early exit; repeat for each in order; 0: always, above 1: never "
        "(default: the fitted ones)",
    )
    one.add_argument(
        "--policy",
        choices=("latest", "all"),
        help="latest: skip frames when late; all: skip none (default: latest for cameras, all for files)",
    )
    one.add_argument("--frames", type=at_least(1), metavar="N", help="stop after N frames")
    one.add_argument("--output", type=Path, metavar="FILE", help="write one JSON line a frame to FILE")
    _backend(one)
    one = _add(
        verbs, "verify", verify, "compare engines with the trained network, exit by exit; exit code 1 if they differ"
    )
    one.add_argument("--precision", action="append", help="precision to verify; repeatable (default: all)")
    one.add_argument(
        "--references",
        type=Path,
        metavar="FILE",
        help="samples of `python -m compile --references` (default: the bundle's)",
    )
    one.add_argument("--report", type=Path, metavar="FILE", help="write the comparison as a Markdown page, too")
    _backend(one)
    one = _add(verbs, "record", record, "write every exit's scores for labelled images, to refit thresholds from")
    one.add_argument(
        "--images",
        type=Path,
        required=True,
        metavar="DIR",
        help="one subfolder per class, named like the bundle's labels",
    )
    one.add_argument("--output", type=Path, required=True, metavar="FILE", help="scores file (.npz)")
    one.add_argument("--precision", help="precision to record (default: the fastest on the backend)")
    _backend(one)
    one = _add(verbs, "bench", bench, "latency of each exit, the real mix, and the whole network as one engine")
    one.add_argument("--precision", action="append", help="precision to measure; repeatable (default: all)")
    _backend(one)
    one = verbs.add_parser(
        "doctor", help="what this machine has and lacks", description="Say what this machine has and lacks."
    )
    one.set_defaults(verb=doctor)
    one.add_argument("--json", action="store_true", help="print the result as JSON")
    return new


def _add(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, verb: Verb, summary: str
) -> argparse.ArgumentParser:
    one = verbs.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
    one.set_defaults(verb=verb)
    one.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder made by `python -m compile`")
    one.add_argument("--json", action="store_true", help="print the result as JSON")
    return one


def _backend(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--backend", choices=BACKENDS, default="onnxruntime", help="inference library (default: %(default)s)"
    )
    one.add_argument(
        "--threads",
        type=at_least(0),
        default=1,
        metavar="N",
        help="CPU threads a segment runs on, 0: all (default: %(default)s)",
    )


def command() -> None:
    """Entry point of the installed command."""
    run_main(main)


if __name__ == "__main__":
    command()
