"""Topics and payloads for MQTT, without a broker."""

import json
import logging
import threading
from typing import Any

import pytest

from edge.live.outputs.mqtt import Mqtt, parse_broker
from edge.live.outputs.mqtt_topics import MAX_EVENTS, Outbox, Publication
from tests.support.commands import wait_until
from tests.support.observations import observation
from tests.support.outputs import alarm, audit, bundle_change, candidate_change, change, event, free_port, opened


def sent(outbox: Outbox, now_s: float = 0.0) -> list[tuple[str, Any]]:
    """Return the due publications by topic, without Home Assistant's descriptions."""
    due = [(each.topic, json.loads(each.payload)) for each in outbox.due(now_s)]
    return [(topic.removeprefix("base/"), payload) for topic, payload in due if topic.startswith("base/")]


def test_the_state_follows_events_and_changes_of_the_source() -> None:
    outbox = Outbox("base")
    outbox.add([event("7", source="cam")])
    time = "2026-11-27T18:04:05.000Z"
    first = {"source": "cam", "label": "7", "since": time, "status": "connected", "alarms": []}
    entered = {"time": time, "source": "cam", "event": "entered", "label": "7", "label_index": 7}
    assert sent(outbox) == [("cam/state", first), ("cam/event", entered)]
    outbox.add([change("lost", "no frame", source="cam", reconnects=1)])
    assert sent(outbox) == [("cam/state", first | {"status": "lost", "reason": "no frame", "reconnects": 1})]
    outbox.add([change("connected", source="cam", reconnects=1), event("7", "left", source="cam", duration_s=3)])
    (_, state), (_, left) = sent(outbox)
    assert (state["label"], state["status"], state["reason"]) == (None, "connected", "")
    assert left["duration_s"] == 3
    assert sent(outbox) == []


def test_alarms_are_events_and_stay_in_the_state_while_audits_are_not_published() -> None:
    outbox = Outbox("base")
    outbox.add([audit(), alarm("disagreement"), candidate_change(), alarm("latency"), event("7")])
    (_, state), *events = sent(outbox)
    assert (state["label"], state["alarms"]) == ("7", ["disagreement", "latency"])
    assert [topic for topic, _ in events] == ["test/event"] * 4
    assert [payload.get("alarm") for _, payload in events] == ["disagreement", None, "latency", None]


def test_a_swap_lowers_alarms_and_repeated_faults_are_no_events() -> None:
    outbox = Outbox("base")
    outbox.add(
        [alarm("latency"), bundle_change(), bundle_change("failing"), *[bundle_change("failing", is_repeated=True)] * 3]
    )
    (_, state), *events = sent(outbox)
    assert state["alarms"] == []
    assert [payload.get("follow") for _, payload in events] == [None, "swapped", "failing"]


def test_only_the_newest_state_is_sent_and_all_states_again_after_a_reconnection() -> None:
    outbox = Outbox("base")
    outbox.add([event("7"), event("3"), event("5", source="cam")])
    states = [(topic, payload["label"]) for topic, payload in sent(outbox) if topic.endswith("state")]
    assert states == [("test/state", "3"), ("cam/state", "5")]
    outbox.restore()
    assert [(topic, payload["label"]) for topic, payload in sent(outbox)] == states


def test_predictions_are_sent_at_most_once_a_second_and_the_newest() -> None:
    outbox = Outbox("base")
    frames = []
    for index in range(100):
        outbox.add([observation(0, frame_index=index)])
        frames += [payload["frame"] for topic, payload in sent(outbox, index / 30) if topic == "test/prediction"]
    assert frames == [0, 30, 60, 90]


def test_what_has_not_arrived_is_sent_again() -> None:
    outbox = Outbox("base")
    outbox.add([event("7"), event("3")])
    for publication in outbox.due(0.0):
        if publication.topic == "base/test/event":
            break  # the connection broke
    assert [payload["label"] for topic, payload in sent(outbox) if topic == "test/event"] == ["7", "3"]


def test_a_state_that_changes_while_it_is_sent_is_sent_again() -> None:
    outbox = Outbox("base")
    outbox.add([event("7")])
    labels = []
    for publication in outbox.due(0.0):
        if publication.topic == "base/test/state":
            labels.append(json.loads(publication.payload)["label"])
            if len(labels) == 1:
                outbox.add([event("3")])
    assert labels == ["7", "3"]


def test_events_without_a_connection_are_bounded_and_the_lost_ones_counted() -> None:
    outbox = Outbox("base")
    for index in range(MAX_EVENTS + 10):
        outbox.add([event(str(index % 10))])
    due = outbox.due(0.0)
    first = next(each for each in due if each.topic == "base/test/event")
    outbox.add([event("5")])  # replaces the one that is being sent
    rest = [first, *(each for each in due if each.topic == "base/test/event")]
    assert [json.loads(each.payload)["label_index"] for each in rest[:3]] == [0, 1, 2]
    assert len(rest) == MAX_EVENTS + 1
    assert outbox.lost_events == 11


def test_sources_with_similar_names_have_topics_of_their_own() -> None:
    outbox = Outbox("base")
    names = ["rtsp://cam/1", "rtsp://Cam/1…", "rtsp:/cam/1", "камера", "/dev/video0"]
    outbox.add([event(source=name) for name in names])
    topics = [topic for topic, _ in sent(outbox) if topic.endswith("state")]
    assert len(set(topics)) == len(names)
    assert topics[0] == "rtsp_cam_1/state"
    assert all(set(topic) <= set("abcdefghijklmnopqrstuvwxyz0123456789_/") for topic in topics)


def test_home_assistant_finds_four_sensors_per_source_whose_topics_exist() -> None:
    outbox = Outbox("farm/gate")
    outbox.add([event(source="cam"), observation(0, source="cam")])
    due: dict[str, Publication] = {each.topic: each for each in outbox.due(0.0)}
    configs = {topic: json.loads(each.payload) for topic, each in due.items() if topic.startswith("homeassistant/")}
    assert list(configs) == [
        f"homeassistant/sensor/edge_farm_gate_cam/{key}/config" for key in ("label", "probability", "exit", "alarm")
    ]
    assert all(due[topic].retain for topic in configs)
    for topic, config in configs.items():
        assert config["unique_id"] == topic.split("/")[2] + "_" + topic.split("/")[3]
        assert config["state_topic"] in due
        value = config["value_template"].removeprefix("{{ value_json.").split()[0]
        assert value in json.loads(due[config["state_topic"]].payload)
        assert [each["topic"] for each in config["availability"]] == ["farm/gate/availability", "farm/gate/cam/state"]
    assert len({config["unique_id"] for config in configs.values()}) == 4
    assert len({json.dumps(config["device"]) for config in configs.values()}) == 1


# The address


def test_credentials_come_from_the_address_or_the_environment_and_are_never_shown() -> None:
    environment = {"EDGE_MQTT_USER": "env-user", "EDGE_MQTT_PASSWORD": "env-secret"}
    given = parse_broker("mqtts://us%40er:pa%2Fss@host/a/b/", environment)
    assert (given.user, given.password, given.port, given.base, given.uses_tls) == ("us@er", "pa/ss", 8883, "a/b", True)
    other = parse_broker("mqtt://host:1", environment)
    assert (other.user, other.password, other.port) == ("env-user", "env-secret", 1)
    assert other.base.startswith("edge/")
    for broker in (given, other):
        shown = f"{broker} {Mqtt(broker).name}"
        assert not any(secret in shown for secret in ("us@er", "pa/ss", "env-user", "env-secret"))


# Without a broker


def test_a_missing_broker_is_reported_once_and_delays_nothing(caplog: pytest.LogCaptureFixture) -> None:
    url = f"mqtt://user:secret@127.0.0.1:{free_port()}/base"
    with caplog.at_level(logging.WARNING), opened(Mqtt(parse_broker(url)), [event()]) as mqtt:
        wait_until(lambda: caplog.messages, "a report")
        assert mqtt._thread.is_alive()
    assert not mqtt._thread.is_alive()
    mqtt.write([event()])  # is lost, without an error
    mqtt.close()
    assert len(caplog.messages) == 1
    assert "/base is not connected (" in caplog.text
    assert "Connection refused" in caplog.text
    assert "secret" not in caplog.text


def test_the_end_does_not_wait_for_a_network_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = threading.Event(), threading.Event()

    def connect(*_: object, **__: object) -> None:
        asked.set()
        answer.wait(60)
        raise OSError("no route to host")

    monkeypatch.setattr("paho.mqtt.client.Client.connect", connect)
    with opened(Mqtt(parse_broker("mqtt://host/base"))) as mqtt:
        assert asked.wait(60)
    assert not mqtt._thread.is_alive()
    answer.set()
