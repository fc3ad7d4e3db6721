"""`edge run`: live classification of cameras, streams, videos and folders."""

import argparse
import re
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import get_args

from edge.bundle.bundle import MANIFEST, Bundle
from edge.bundle.chain import ChainSpec
from edge.cli.arguments import add_backend, add_bundle, add_precision, open_bundle
from edge.cli.run_follow import make_follower
from edge.cli.run_outputs import add_output_arguments, check_outputs, make_outputs, writes_stdout
from edge.cli.run_summary import Summary
from edge.cli.run_watch import add_watch_arguments, make_auditor, make_deadline
from edge.console import PASSED, ProgressDisplay, at_least
from edge.cuda.base import Sync
from edge.decision import NONE
from edge.entry import STDOUT
from edge.errors import SourceError
from edge.frames.address import SourceAddress, parse_address
from edge.live import run
from edge.live.deployment import Deployer, Deployment
from edge.live.events import Debouncer
from edge.live.messages import Message
from edge.live.triggers import OnRequest, Trigger, parse_trigger
from edge.progress import OnProgress

AGREEMENT = re.compile(r"([1-9]\d{0,3})/([1-9]\d{0,3})")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `edge run`."""
    add_bundle(parser)
    parser.add_argument(
        "--source",
        action="append",
        required=True,
        type=_source,
        metavar="NAME",
        help="camera (0, /dev/video0, csi://0), stream (rtsp://, http://), video file, folder of images, test://, or "
        "GStreamer pipeline (... ! appsink); repeatable",
    )
    parser.add_argument("--crop", metavar="X,Y,W,H", help="region of the upright image to classify, in pixels")
    add_precision(parser, "run")
    parser.add_argument(
        "--threshold",
        type=float,
        action="append",
        metavar="T",
        help="thresholds of the early exits, one for each, in order; 0 always exits, 2 never (default: the fitted "
        "thresholds)",
    )
    parser.add_argument(
        "--policy",
        choices=("latest", "all"),
        help="latest drops late frames; all drops none (default: latest for cameras and streams, all for files)",
    )
    parser.add_argument(
        "--follow",
        metavar="ADDRESS",
        help="tag in a registry, oci://HOST[:PORT]/NAME:TAG: when it names another bundle, verify it and swap. BUNDLE "
        "is the one to begin with, or a new name. Needs --require-signature",
    )
    _add_live_arguments(parser)
    add_watch_arguments(parser)
    add_output_arguments(parser)
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out damaged images and video frames, and count them"
    )
    add_backend(parser)
    parser.add_argument(
        "--gpu-sync",
        choices=get_args(Sync),
        help="how threads wait for a GPU: spin takes a core, block takes longer (default: the better one, by timing)",
    )


def _add_live_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that select frames, report states and end the run."""
    parser.add_argument(
        "--trigger", metavar="WHEN", help="classify only some frames: every:5s, motion, motion:2%%, message"
    )
    parser.add_argument(
        "--events", type=_agreement, metavar="K/N", help="report a state once K of the last N predictions agree: 3/5"
    )
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="LABEL",
        help="label that is not a state, such as background",
    )
    parser.add_argument("--frames", type=at_least(1), metavar="N", help="stop after N classified frames")
    parser.add_argument(
        "--give-up",
        type=at_least(1),
        metavar="SECONDS",
        help="end with exit code 3 after SECONDS without a frame (default: wait forever)",
    )


def main(arguments: argparse.Namespace) -> int:
    """Classify frames until all sources end, `--frames` are done, or a signal arrives.

    Raises:
        OutputError: an output is an input or another file that exists, or cannot be opened.
        SourceError: a source cannot be opened or fails; earlier predictions are written.
        EdgeError: the bundle, thresholds or engines cannot be used.
    """
    deploy = _deployer(arguments)
    follower = make_follower(arguments, partial(_deploy_followed, arguments, deploy))
    bundle = open_bundle(arguments) if follower is None else follower.bundle
    chain = bundle.chain(deploy.select(bundle).precision)
    sources, triggers = _sources(arguments, bundle), Triggers(arguments.trigger)
    new_debouncer = _new_debouncer(arguments, chain)
    check_outputs(arguments, bundle)
    with ProgressDisplay() as display:
        deployment = deploy(bundle, on_progress=display) if follower is None else follower.load(display)
    deadline, auditor = make_deadline(arguments, deployment), make_auditor(arguments, deployment)
    summary, stop = Summary(chain.exits), threading.Event()

    def task() -> str:
        return str(deploy.select(bundle if follower is None else follower.load().bundle))

    def watch(message: Message) -> None:
        summary.add(message)
        if STDOUT.is_lost and writes_stdout(arguments):
            stop.set()

    try:
        with ProgressDisplay() as display:
            run(
                deployment.classifier,
                sources,
                make_outputs(arguments, deployment, triggers.request),
                policy=arguments.policy,
                new_trigger=triggers.new,
                new_debouncer=new_debouncer,
                frames=arguments.frames,
                give_up_s=arguments.give_up,
                skip_bad=arguments.skip_bad,
                auditor=auditor,
                deadline=deadline,
                follower=follower,
                stop=stop,
                on_message=watch,
                on_progress=lambda progress: display(progress._replace(task=f"{task()}: {progress.task}")),
            )
    finally:
        if not writes_stdout(arguments):
            summary.print(task())
    return PASSED


def _deployer(arguments: argparse.Namespace) -> Deployer:
    precision = arguments.precision or "auto"
    return Deployer(arguments.backend, precision, arguments.threads, arguments.threshold, gpu_sync=arguments.gpu_sync)


def _deploy_followed(
    arguments: argparse.Namespace, deploy: Deployer, bundle: Bundle, digest: str, on_progress: OnProgress
) -> Deployment:
    """Load a bundle of a followed tag, if the command line allows it: the next start begins with it.

    Raises:
        EdgeError: it cannot be loaded, or other arguments do not fit it.
    """
    deployment = deploy(bundle, digest, on_progress)
    _sources(arguments, bundle)
    _new_debouncer(arguments, deployment.classifier.chain)
    make_deadline(arguments, deployment)
    make_auditor(arguments, deployment)
    return deployment


class Triggers:
    """The triggers of all sources."""

    def __init__(self, description: str | None) -> None:
        """Check the description.

        Raises:
            SourceError: the trigger is unknown.
        """
        self.new: Callable[[], Trigger] | None = None
        """Makes the trigger of another source; None where every frame is classified."""
        self._made: list[Trigger] = []
        if description is not None:
            parse_trigger(description)
            self.new = partial(self._new, description)

    def _new(self, description: str) -> Trigger:
        self._made.append(parse_trigger(description))
        return self._made[-1]

    def request(self) -> None:
        """Request the next frame of every source whose trigger waits for messages."""
        for trigger in self._made:
            if isinstance(trigger, OnRequest):
                trigger.requested.set()


def _sources(arguments: argparse.Namespace, bundle: Bundle) -> list[SourceAddress]:
    """Return the addresses of all sources, checked before engines are built, which takes minutes."""
    sources: list[SourceAddress] = arguments.source
    if arguments.crop is not None:
        sources = [address.with_crop(arguments.crop) for address in sources]
    for address in sources:
        is_folder = address.path is not None and address.path.is_dir()
        if bundle.manifest.input.kind == "array" and not is_folder:
            raise SourceError(
                f"{address.public} is not a folder, and this bundle reads arrays, not images; give a folder of .npy "
                "files"
            )
    return sources


def _new_debouncer(arguments: argparse.Namespace, chain: ChainSpec) -> Callable[[], Debouncer] | None:
    if arguments.events is None:
        if arguments.ignore:
            raise SourceError("--ignore was given without --events; add --events 3/5")
        return None
    k, n = arguments.events
    labels = chain.labels if chain.rejection is None else (*chain.labels, NONE)
    for label in arguments.ignore:
        if label not in labels:
            raise SourceError(f"--ignore {label}: the bundle has no such label; choose one of {', '.join(labels)}")
    return partial(Debouncer, k, n, ignore=arguments.ignore)


def _source(text: str) -> SourceAddress:
    """Parse a source, for argparse; a bundle is refused, since it is meant as the positional argument."""
    if (Path(text) / MANIFEST).is_file():
        raise argparse.ArgumentTypeError(f"{text} is a bundle, not a source; give positional arguments first")
    return parse_address(text)


def _agreement(text: str) -> tuple[int, int]:
    match = AGREEMENT.fullmatch(text)
    k, n = (int(match[1]), int(match[2])) if match else (0, 0)
    if not n / 2 < k <= n:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an agreement; give K/N with K more than half of N, such as 3/5"
        )
    return k, n
