"""Outputs with the real services: mosquitto, Prometheus, and consumers that hang."""

import gc
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import av
import pytest

from edge.bundle.bundle import Bundle
from edge.console import TERMINATED
from edge.live.outputs.base import MAX_QUEUED, OutputQueue
from edge.live.outputs.lines import Lines
from edge.live.outputs.mqtt import Mqtt, parse_broker
from edge.live.view.output import View
from tests.support.commands import ROOT, TIMEOUT_S, json_lines, start_command, wait_until
from tests.support.observations import observation
from tests.support.outputs import change, event, free_port, opened, server

pytestmark = pytest.mark.services

PUBLISHER = """
import sys, time
from edge.live.outputs.mqtt import Mqtt, parse_broker
from tests.support.outputs import event
mqtt = Mqtt(parse_broker(sys.argv[1]))
mqtt.open()
mqtt.write([event("7", source="cam")])
time.sleep(60)
"""


class Mosquitto:
    """A broker that can be stopped, started again and frozen, and those who listen to it."""

    def __init__(self, folder: Path, *config: str) -> None:
        self.port = free_port()
        self.url = f"mqtt://127.0.0.1:{self.port}/base"
        self._config, self.options = folder / "mosquitto.conf", ["-p", str(self.port)]
        self._config.write_text("\n".join((f"listener {self.port} 127.0.0.1", *(config or ("allow_anonymous true",)))))
        self._server: Any = None
        self.process: Any = None
        self.start()

    def start(self) -> None:
        self._server = server(["mosquitto", "-c", self._config], self.port)
        self.process = self._server.__enter__()

    def stop(self) -> None:
        self._server.__exit__(None, None, None)

    def retained(self, topic: str) -> Any:
        """Return a retained payload, or None."""
        words = ["mosquitto_sub", *self.options, "-t", topic, "-C", "1", "-W", "2", "--retained-only"]
        text = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S).stdout.strip()
        return json.loads(text) if text.startswith("{") else text or None

    def wait_for(self, topic: str, expected: Any) -> None:
        wait_until(lambda: self.retained(topic) == expected, f"{topic} {expected}")

    def publish(self, topic: str, *more: str) -> None:
        subprocess.run(["mosquitto_pub", *self.options, "-t", topic, "-m", "now", *more], check=True, timeout=TIMEOUT_S)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path)
    yield broker
    broker.process.send_signal(signal.SIGCONT)
    broker.stop()


def label(broker: Mosquitto, source: str = "test") -> Any:
    return (broker.retained(f"base/{source}/state") or {}).get("label")


def test_state_and_discovery_are_retained_and_the_end_is_announced(broker: Mosquitto) -> None:
    with opened(Mqtt(parse_broker(broker.url)), [event("7"), event("3"), observation(0)]):
        broker.wait_for("base/availability", "online")
        wait_until(lambda: label(broker) == "3", "the state")
        for key in ("label", "probability", "exit"):
            config = broker.retained(f"homeassistant/sensor/edge_base_test/{key}/config")
            assert config["unique_id"] == f"edge_base_test_{key}"
    assert broker.retained("base/availability") == "offline"


def test_events_published_at_the_very_end_arrive_before_it(broker: Mosquitto) -> None:
    words = ["mosquitto_sub", *broker.options, "-t", "base/#", "-F", "%t %p"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as subscriber:
        try:
            assert subscriber.stdout is not None
            with opened(Mqtt(parse_broker(broker.url))) as mqtt:
                assert subscriber.stdout.readline() == "base/availability online\n"
                mqtt.write([event(str(index % 10)) for index in range(100)])
            lines = list(iter(subscriber.stdout.readline, "base/availability offline\n"))
        finally:
            subscriber.kill()
    assert [line.split()[0] for line in lines].count("base/test/event") == 100


def test_the_last_will_tells_of_a_killed_process(broker: Mosquitto) -> None:
    with subprocess.Popen([sys.executable, "-c", PUBLISHER, broker.url], cwd=ROOT) as process:
        try:
            broker.wait_for("base/availability", "online")
            wait_until(lambda: label(broker, "cam") == "7", "the state")
        finally:
            process.kill()
    broker.wait_for("base/availability", "offline")
    assert label(broker, "cam") == "7"


def test_a_restarted_broker_gets_states_and_the_events_meanwhile(
    broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(Mqtt(parse_broker(broker.url)), [event("7")]) as mqtt:
        wait_until(lambda: label(broker) == "7", "the state")
        broker.stop()
        wait_until(lambda: "is not connected" in caplog.text, "the loss to be noticed, without a message to send")
        mqtt.write([event("7", "left"), event("3")])
        broker.start()  # it has forgotten everything
        broker.wait_for("base/availability", "online")
        wait_until(lambda: label(broker) == "3", "the state")
        assert broker.retained("homeassistant/sensor/edge_base_test/label/config")
    wait_until(lambda: "is connected again; 0 events were lost" in caplog.text, "the report")


def test_a_frozen_broker_delays_neither_messages_nor_the_end(broker: Mosquitto) -> None:
    queue = OutputQueue(Mqtt(parse_broker(broker.url)))
    queue.put(event("7"))
    wait_until(lambda: label(broker) == "7", "the state")
    broker.process.send_signal(signal.SIGSTOP)
    for index in range(50 * MAX_QUEUED):
        queue.put(observation(index))
        queue.put(event("3"))
        if index % 100 == 0:
            time.sleep(0.001)
    queue.close(limit_s=TIMEOUT_S)
    assert not queue._thread.is_alive()
    broker.process.send_signal(signal.SIGCONT)
    broker.wait_for("base/availability", "offline")


def test_connections_to_a_broker_that_never_answers_are_closed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, seconds in (("REPLY_S", 0.1), ("MIN_BACKOFF_S", 0.1), ("MAX_BACKOFF_S", 0.1), ("KEEPALIVE_S", 1)):
        monkeypatch.setattr(f"edge.live.outputs.mqtt.{name}", seconds)
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:
        listener.settimeout(TIMEOUT_S)
        stack.enter_context(opened(Mqtt(parse_broker(f"mqtt://127.0.0.1:{listener.getsockname()[1]}/base"))))
        connections = [stack.enter_context(listener.accept()[0]) for _ in range(5)]
        for connection in connections:
            connection.settimeout(TIMEOUT_S)
            while connection.recv(4096):
                pass
    assert [message for message in caplog.messages if "Operation timed out" not in message] == []


def test_a_password_opens_a_guarded_broker_and_is_never_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    subprocess.run(["mosquitto_passwd", "-b", "-c", tmp_path / "users", "board", "s3cret"], check=True)
    os.chmod(tmp_path / "users", 0o644)
    broker = Mosquitto(tmp_path, "allow_anonymous false", f"password_file {tmp_path / 'users'}", "user root")
    broker.options += ["-u", "board", "-P", "s3cret"]
    try:
        url = broker.url.replace("//", "//board:%s@")
        with opened(Mqtt(parse_broker(url % "wr0ng"))):
            wait_until(lambda: "is not connected" in caplog.text, "the refusal")
        with opened(Mqtt(parse_broker(url % "s3cret"))):
            broker.wait_for("base/availability", "online")
    finally:
        broker.stop()
    assert "s3cret" not in caplog.text
    assert "wr0ng" not in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # paho closes no refused socket itself
def test_tls_checks_the_certificate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", key, "-out", certificate]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, *files],
        check=True, capture_output=True,
    )  # fmt: skip
    broker = Mosquitto(tmp_path, f"certfile {certificate}", f"keyfile {key}", "allow_anonymous true", "user root")
    broker.options += ["-h", "localhost", "--cafile", str(certificate)]
    url = f"mqtts://localhost:{broker.port}/base"
    try:
        with opened(Mqtt(parse_broker(url))):
            wait_until(lambda: "certificate verify failed" in caplog.text, "the refusal")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        caplog.clear()
        with opened(Mqtt(parse_broker(url))) as mqtt:
            mqtt.write([event("7")])
            wait_until(lambda: label(broker) == "7", "the state")
        assert not caplog.messages
    finally:
        broker.stop()
    gc.collect()  # the refused socket, here where the warning about it is ignored


def test_a_message_on_the_request_topic_is_handed_on(broker: Mosquitto) -> None:
    requests: list[int] = []
    broker.publish("base/request", "-r")  # retained: of some time ago
    with opened(Mqtt(parse_broker(broker.url), lambda: requests.append(1))):
        broker.wait_for("base/availability", "online")
        wait_until(lambda: broker.publish("base/request") or requests, "a request")


# Prometheus


def test_prometheus_scrapes_the_metrics(tmp_path: Path) -> None:
    port = free_port()
    with opened(View("127.0.0.1", 0, timeout_s=5)) as metrics:
        metrics.write([observation(index, exit_index=index % 2) for index in range(100)])
        metrics.write([event(), change("lost", 'a "reason"\\', source='odd "name"\\\n')])
        with urlopen(metrics.name + "/metrics") as response:
            text = response.read()
        check = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
        assert (check.returncode, check.stdout, check.stderr) == (0, b"", b"")
        config = tmp_path / "prometheus.yml"
        target = metrics.name.removeprefix("http://")
        config.write_text(json.dumps({
            "scrape_configs": [
                {"job_name": "edge", "scrape_interval": "1s", "static_configs": [{"targets": [target]}]}
            ]
        }))  # fmt: skip
        words = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}"]
        with server([*words, f"--web.listen-address=127.0.0.1:{port}"], port):
            wait_until(lambda: query(port, "edge_frames_total > 0") == {"test://": 100.0}, "a scrape")
            metrics.write([observation(0)])
            wait_until(lambda: query(port, "edge_frames_total > 0") == {"test://": 101.0}, "another scrape")
            assert query(port, "sum by (source) (edge_exits_total)") == {"test://": 101.0}
            p95 = query(port, "histogram_quantile(0.95, edge_latency_seconds_bucket)")
            assert 0.001 < p95["test://"] < 0.002
            assert query(port, "edge_source_connected == 0") == {'odd "name"\\\n': 0.0}


def query(port: int, expression: str) -> dict[str, float]:
    """Return the value of an expression by source."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/api/v1/query?{urlencode({'query': expression})}") as response:
            found = json.load(response)["data"]["result"]
    except HTTPError as error:  # it is starting
        error.close()
        return {}
    return {each["metric"].get("source", ""): float(each["value"][1]) for each in found if "source" in each["metric"]}


# Consumers that hang


def test_a_pipe_that_nobody_reads_delays_nothing_and_a_late_reader_gets_the_newest(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    queue = OutputQueue(Lines(path))
    total = 20 * MAX_QUEUED
    for index in range(total):
        queue.put(observation(index, frame_index=index))
    assert queue.dropped > 0
    with subprocess.Popen(["cat", path], stdout=subprocess.PIPE, text=True) as reader:
        wait_until(lambda: not queue._queued, "the reader")
        queue.close()
        frames = [line["frame"] for line in json_lines(reader.communicate(timeout=TIMEOUT_S)[0])]
    assert frames == sorted(frames)
    assert frames[-1] == total - 1
    assert len(frames) + queue.dropped == total


def test_a_pipe_that_nobody_ever_reads_does_not_keep_the_process(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    script = (
        "import sys; from pathlib import Path\n"
        "from edge.live.outputs.base import OutputQueue; from edge.live.outputs.lines import Lines\n"
        "from tests.support.observations import observation\n"
        "queue = OutputQueue(Lines(Path(sys.argv[1]))); queue.put(observation(0)); queue.close()"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "pipe"], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert result.returncode == 0
    assert "hangs; " in result.stderr


# All together


def test_a_terminated_run_leaves_every_output_complete(
    digits_bundle: Bundle, broker: Mosquitto, tmp_path: Path
) -> None:
    lines, video, port = tmp_path / "lines.jsonl", tmp_path / "video.mp4", free_port()
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(tmp_path / "notify"))
    names = [lines, video, broker.url.replace("//", "//user:s3cret@"), f"http://127.0.0.1:{port}"]
    words = [word for name in names for word in ("--output", name)]
    source = ("--source", "test://?size=320x240&rate=30", "--events", "3/5")
    env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "20000000"}
    with (
        notify,
        start_command(
            "edge",
            "run",
            digits_bundle.path,
            *source,
            *words,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        notify.settimeout(TIMEOUT_S)
        beats = ""
        while "READY=1" not in beats or "WATCHDOG=1" not in beats:
            beats += notify.recv(4096).decode() + "\n"
        wait_until(lambda: video.exists() and video.stat().st_size > 10_000, "a fragment of the video")
        broker.wait_for("base/availability", "online")
        with urlopen(f"http://127.0.0.1:{port}/healthz") as response:
            assert json.load(response)["healthy"]
        process.terminate()
        printed = process.communicate(timeout=TIMEOUT_S)[0]
        assert process.returncode == TERMINATED
        while "STOPPING=1" not in beats:
            beats += notify.recv(4096).decode() + "\n"
    assert broker.retained("base/availability") == "offline"
    frames = [line["frame"] for line in json_lines(lines.read_text()) if "frame" in line]
    assert f" {len(frames)} frames, " in printed
    assert "s3cret" not in printed + lines.read_text()
    with av.open(str(video)) as container:
        assert sum(1 for _ in container.decode(video=0)) > 10
