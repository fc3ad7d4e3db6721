// The page: a WebSocket brings messages and the pictures that it requests; charts are SVG.
"use strict";

const SECONDS = 300, MIN_SECONDS = 60; // of the charts
const SIZES = [320, 640, 1280];
const SMALL_PX = 160; // smaller pictures are enlarged with hard edges
const STALE_S = 3;
const SVG = "http://www.w3.org/2000/svg";
const RISKS = {
  accuracy_gap: "accuracy lost", disagreement: "differs from the last exit", mean_macs: "mean computation", mean_ms: "mean time",
};

const find = (id) => document.getElementById(id);
const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;
const percentUp = (share) => `${(Math.ceil(1000 * share - 1e-9) / 10).toFixed(1)} %`; // of a bound, never rounded down
const format = (value, unit) => value == null ? "–" : `${value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : 2)} ${unit}`;

const cameras = [];          // in the order of the server's sources
const histories = new Map(); // points by source
let deployment = null;
let powerScope = null;       // part of the machine that the power covers
let newestEvent = -1;        // its id
let socket = null;
let retryMs = 250;

// ---- connection

function connect() {
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`);
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }) => typeof data === "string" ? receive(JSON.parse(data)) : receivePicture(data);
  socket.onclose = reconnect;
}

async function reconnect() {
  showConnection("connection lost", "off");
  const response = await fetch("/api/status").catch(() => null);
  if (response?.status === 401) return location.assign("/login");
  setTimeout(connect, retryMs);
  retryMs = Math.min(2 * retryMs, 4000);
}

function showConnection(text, kind) {
  find("connection").textContent = text;
  find("connection").className = `badge ${kind}`;
}

function receive(message) {
  if ("history" in message) open(message);
  if (message.sources) message.sources.forEach(addCamera);
  if (message.tick) addTick(message.tick);
  if (message.status) showStatus(message.status);
  if (message.event) addEvent(message.event);
  if (message.event?.follow === "swapped") reloadDeployment();
}

async function reloadDeployment() {
  const response = await fetch("/api/deployment").catch(() => null);
  if (response?.ok) deployment = await response.json();
  showDeployment();
}

function open(message) {
  retryMs = 250;
  showConnection("live", "live");
  deployment = message.deployment;
  powerScope = message.power_scope;
  newestEvent = -1; // a server that was restarted counts anew
  histories.clear();
  Object.entries(message.history).forEach(([name, points]) => histories.set(name, points));
  const charted = find("source").value;
  cameras.splice(0).forEach((camera) => camera.element.remove());
  for (const id of ["events", "source"]) find(id).replaceChildren();
  message.sources.forEach(addCamera);
  if (message.sources.includes(charted)) find("source").value = charted;
  message.events.forEach(addEvent);
  showDeployment();
  drawCharts();
}

function addTick(tick) {
  for (const [name, point] of Object.entries(tick.points)) {
    if (!histories.has(name)) histories.set(name, []);
    histories.get(name).push(point);
    histories.get(name).splice(0, histories.get(name).length - SECONDS);
  }
  showStatus(tick);
  drawCharts();
}

// ---- cameras

function addCamera(name, index) {
  if (cameras[index]) return;
  const element = find("camera-template").content.firstElementChild.cloneNode(true);
  const part = (selector) => element.querySelector(selector);
  cameras[index] = {
    name, index, element, part, canvas: part("canvas"), bitmap: null, header: null, isWaiting: false, drawnAt: 0,
  };
  part("h3").textContent = name;
  part("canvas").setAttribute("aria-label", `Picture of ${name}`);
  find("no-camera").hidden = true;
  find("cameras").append(element);
  find("source").append(new Option(name, name));
  find("source-choice").hidden = cameras.length < 2;
  requestPicture(cameras[index]);
}

// A request acknowledges the picture before. A hidden page requests none.
function requestPicture(camera) {
  camera.isWaiting = document.hidden || socket.readyState !== WebSocket.OPEN;
  if (camera.isWaiting) return;
  const wanted = camera.element.clientWidth * Math.min(devicePixelRatio, 2);
  const size = SIZES.find((each) => each >= wanted) ?? SIZES.at(-1);
  socket.send(JSON.stringify({ next: camera.index, size, attention: find("attention").checked }));
}

async function receivePicture(data) {
  const length = new DataView(data).getUint32(0);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  const camera = cameras[header.picture];
  const bitmap = await createImageBitmap(new Blob([new Uint8Array(data, 4 + length)], { type: "image/jpeg" }));
  requestAnimationFrame(() => {
    camera.bitmap?.close();
    Object.assign(camera, { bitmap, header, drawnAt: performance.now() });
    drawPicture(camera);
    showAnswer(camera, header);
    requestPicture(camera);
  });
}

function drawPicture({ canvas, bitmap, header }) {
  if (!bitmap) return;
  if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
    Object.assign(canvas, { width: bitmap.width, height: bitmap.height });
    canvas.classList.toggle("small", Math.max(bitmap.width, bitmap.height) < SMALL_PX);
  }
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const isShown = find("attention").checked && header.attention;
  canvas.dataset.attention = isShown ? "shown" : "hidden";
  if (isShown) drawAttention(context, header.attention);
}

// Little attention is darkened, much is tinted: brightness shows the map without colour.
function drawAttention(context, { width, height, values, region }) {
  const map = new OffscreenCanvas(width, height);
  const image = new ImageData(width, height);
  Uint8Array.from(atob(values), (character) => character.charCodeAt(0)).forEach((value, index) => {
    const isLow = value < 150;
    image.data.set([...(isLow ? [10, 14, 34] : [255, 176, 32]), isLow ? 190 * (1 - value / 150) : 0.9 * (value - 150)], 4 * index);
  });
  map.getContext("2d").putImageData(image, 0, 0);
  const [left, top, columns, rows] = region;
  const { width: across, height: down } = context.canvas;
  context.imageSmoothingQuality = "high";
  context.drawImage(map, left * across, top * down, columns * across, rows * down);
}

function showAnswer(camera, { label, probability, exit_index }) {
  camera.part(".label").textContent = label;
  camera.part(".probability").textContent = probability == null ? "–" : percent(probability);
  const macs = deployment?.bundle.exit_macs ?? [];
  const total = macs.reduce((sum, each) => sum + each, 0);
  const used = macs.slice(0, exit_index + 1).reduce((sum, each) => sum + each, 0);
  camera.part(".exit").textContent = `exit ${exit_index}` + (total ? `, after ${percent(used / total)} of the computation` : "");
  const bars = camera.part(".exits");
  if (bars.childElementCount !== macs.length) {
    bars.replaceChildren(...macs.map((each) => {
      const bar = document.createElement("span");
      bar.style.flexGrow = each / total;
      return bar;
    }));
  }
  [...bars.children].forEach((bar, index) => bar.classList.toggle("used", index <= exit_index));
}

function showStatus(status) {
  for (const source of status.sources) {
    const camera = cameras.find(({ name }) => name === source.name);
    if (camera) showSource(camera, source);
  }
  if (deployment) showChoice(status.candidate, status.thresholds);
}

function showSource(camera, source) {
  const last = histories.get(source.name)?.at(-1);
  const isLate = source.status !== "ended" && (last?.frame_age_s ?? 0) > STALE_S;
  const reason = source.unhealthy || [source.status, source.reason].filter(Boolean).join(": ");
  const isTrouble = Boolean(source.unhealthy) || source.status !== "connected" || isLate;
  camera.element.classList.toggle("stale", isTrouble);
  camera.part(".notice").hidden = !isTrouble;
  camera.part(".notice").textContent = isLate && source.status === "connected" && !source.unhealthy
    ? `the newest frame is ${format(last.frame_age_s, "s")} old` : reason;
  if (!camera.header && source.newest) showAnswer(camera, source.newest);
  showFacts(camera.part(".counters"), [
    ["frames", source.frames], ["a second", last?.frames ?? "–"], ["age", format(last?.frame_age_s, "s")],
    ["dropped", source.dropped], ["reconnects", source.reconnects],
    ...["skipped", "damaged"].filter((name) => source[name]).map((name) => [name, source[name]]),
    ...auditFacts(source.audits),
  ], true);
  camera.part(".alarm").hidden = source.alarms.length === 0;
  const alarms = source.alarms.map(({ alarm, reason }) => `Alarm, ${alarm.replace("_", " ")}: ${reason}`).join(" ");
  if (camera.part(".alarm").textContent !== alarms) camera.part(".alarm").textContent = alarms; // it is read aloud
}

function auditFacts({ agrees = 0, differs = 0, left_out = 0 }) {
  return agrees + differs + left_out ? [["audited", agrees + differs], ["differ", differs]] : [];
}

function showFacts(list, facts, isGrouped = false) {
  list.replaceChildren(...facts.flatMap(([name, value]) => {
    const [term, definition] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name;
    definition.textContent = typeof value === "number" ? value.toLocaleString("en") : value;
    if (!isGrouped) return [term, definition];
    const group = document.createElement("div");
    group.append(term, definition);
    return [group];
  }));
}

// ---- bundle, device and thresholds

function showDeployment() {
  for (const id of ["choice", "bundle-card", "device-card"]) find(id).hidden = !deployment;
  if (!deployment) return;
  const { bundle, guarantee, candidates, rejection, device } = deployment;
  find("title").textContent = bundle.name;
  document.title = `${bundle.name}, live`;
  find("attention-switch").hidden = !bundle.has_attention;
  const total = bundle.exit_macs.reduce((sum, each) => sum + each, 0);
  const level = guarantee.confidence_level == null ? "not certified" : `confidence ${percent(guarantee.confidence_level)}`;
  const limit = guarantee.target_metric === "mean_ms" ? `${guarantee.limit} ms` : percentUp(guarantee.limit);
  showFacts(find("bundle"), [
    ...(bundle.digest ? [["digest", bundle.digest.slice(7, 19)]] : []), ["precision", bundle.precision], ["classes", bundle.labels.length], ["input", bundle.input.join(" × ")],
    ["computation", `${(total / 1e6).toFixed(2)} M MACs`],
    ...bundle.exit_macs.map((macs, index) => [`up to exit ${index}`, percent(
      bundle.exit_macs.slice(0, index + 1).reduce((sum, each) => sum + each, 0) / total)]),
    ["fitted to", `${RISKS[guarantee.target_metric]} ≤ ${limit}`], ["guarantee", `${guarantee.method}, ${level}`],
    ...(rejection ? [["errors among answers", `≤ ${percentUp(rejection.limit)}`], ["answered", percent(rejection.coverage)]] : []),
  ]);
  showFacts(find("device"), [
    ...(device.board ? [["board", device.board]] : []), ["processor", device.cpu],
    ...device.gpus.map((name) => ["GPU", name]), ["system", device.system],
  ]);
  const slider = find("candidate");
  slider.max = candidates.length - 1;
  slider.disabled = candidates.length < 2;
  find("ticks").replaceChildren(...candidates.map(() => document.createElement("span")));
}

function showChoice(index, thresholds) {
  const slider = find("candidate");
  if (slider.dataset.moving) return;
  slider.dataset.current = index ?? "";
  if (index != null) slider.value = index;
  describeCandidate(index, thresholds);
}

function describeCandidate(index, thresholds) {
  const { candidates, guarantee } = deployment;
  const candidate = candidates[index] ?? { values: thresholds, risk_bound: null, disagreement_bound: null, mean_macs: null };
  const bound = (value) => value == null ? "not certified" : `≤ ${percentUp(value)}`;
  const values = candidate.values.map((value) => value > 1 ? "never" : value.toFixed(3)).join(", ");
  showFacts(find("choice-facts"), [
    ["computation, mean", candidate.mean_macs == null ? "unknown" : percent(candidate.mean_macs)],
    ...(guarantee.target_metric === "disagreement" ? [] : [[RISKS[guarantee.target_metric], bound(candidate.risk_bound)]]),
    [RISKS.disagreement, bound(candidate.disagreement_bound)], ["thresholds", values],
  ]);
  const position = index == null ? "thresholds of the command line" : `candidate ${index + 1} of ${candidates.length}`;
  find("candidate").setAttribute("aria-valuetext", position);
  find("choice-note").textContent = index == null ? "These thresholds were set by hand and have no guarantee."
    : candidates.length < 2 ? "The bundle has one certified set of thresholds: there is nothing to choose." : "";
}

async function choose(index) {
  const response = await fetch("/api/candidate", { method: "PUT", body: JSON.stringify({ index }) }).catch(() => null);
  if (!response?.ok) find("choice-note").textContent = "The thresholds could not be changed.";
}

// ---- events

// An event that came while the page opened is in the opening message and comes again by itself.
function addEvent({ id, time, source, text, alarm }) {
  if (id <= newestEvent) return;
  newestEvent = id;
  const row = document.createElement("li");
  const [moment, words, from] = ["time", "strong", "span"].map((tag) => document.createElement(tag));
  moment.dateTime = time;
  moment.textContent = new Date(time).toLocaleTimeString("en-GB");
  words.textContent = text;
  from.textContent = source;
  from.className = "from";
  if (alarm) row.className = "alarm";
  row.append(moment, words, from);
  find("events").prepend(row);
  if (find("events").childElementCount > 200) find("events").lastElementChild.remove();
  find("no-event").hidden = true;
}

// ---- charts: the newest second is at the right

function drawCharts() {
  if (document.hidden) return; // drawn once the page is visible
  const points = histories.get(find("source").value) ?? [];
  const exits = deployment?.bundle.exit_macs.length ?? Math.max(0, ...points.map((point) => point.exits.length));
  drawShares(points, exits);
  drawLines("latency", "Latency", points, "ms", [["p50", "latency_p50_ms", "exit-0", ""], ["p95", "latency_p95_ms", "exit-1", "4 3"]]);
  drawLines("age", "Age of the newest frame", points, "s", [["age", "frame_age_s", "exit-0", ""]]);
  drawLosses(points);
  if (points.some((point) => point.power_w != null)) {
    drawLines("power", `Power: ${powerScope}`, points, "W", [["power", "power_w", "exit-0", ""]]);
    drawLines("energy", `Energy of a frame: ${powerScope}`, points, "mJ", [["energy", "energy_mj", "exit-0", ""]]);
  }
}

function chart(id, title) {
  let figure = find(`chart-${id}`);
  if (!figure) {
    figure = find("chart-template").content.firstElementChild.cloneNode(true);
    figure.id = `chart-${id}`;
    find("chart-grid").append(figure);
  }
  figure.querySelector("figcaption").textContent = title;
  return figure;
}

function fillChart(id, title, points, top, paths, legend) {
  const figure = chart(id, title);
  const seconds = Math.max(points.length, MIN_SECONDS);
  figure.querySelector(".top").textContent = top;
  figure.querySelector(".from").textContent = seconds < 120 ? `${seconds} s ago` : `${Math.round(seconds / 60)} min ago`;
  figure.querySelector(".plot svg").setAttribute("viewBox", `${SECONDS - seconds} 0 ${seconds} 100`);
  figure.querySelector(".plot svg").replaceChildren(...paths);
  figure.querySelector(".plot svg").setAttribute("aria-label",
    `${title}: ${legend.map(([name, value]) => `${name} ${value}`).join(", ")}`);
  figure.querySelector(".legend").replaceChildren(...legend.map(legendItem));
}

function legendItem([name, value, key]) {
  const [item, number] = [document.createElement("li"), document.createElement("b")];
  const sample = document.createElementNS(SVG, "svg");
  sample.setAttribute("aria-hidden", "true");
  sample.append(key);
  number.textContent = value;
  item.append(sample, name, number);
  return item;
}

function path(d, colour, dash = "", isBar = false) {
  const element = document.createElementNS(SVG, "path");
  element.setAttribute("d", d);
  if (isBar) element.setAttribute("class", "bar");
  element.style[isBar ? "fill" : "stroke"] = `var(--${colour})`;
  if (!isBar) element.style.cssText += `fill: none; stroke-width: 1.8; stroke-dasharray: ${dash || "none"}`;
  return element;
}

const xOf = (index, points) => SECONDS - points.length + index;
const barKey = (colour) => path("M0 0h18v10h-18z", colour, "", true);
const lineKey = (colour, dash) => path("M0 5h18", colour, dash);

function bars(points, bottomOf, topOf) {
  return points.map((point, index) => {
    const [bottom, top] = [bottomOf(point), topOf(point)];
    return top > bottom ? `M${xOf(index, points)} ${100 - bottom}v${bottom - top}h1.05v${top - bottom}z` : "";
  }).join("");
}

function drawShares(points, exits) {
  const upTo = (point, exit) => point.frames
    ? 100 * point.exits.slice(0, exit).reduce((sum, each) => sum + each, 0) / point.frames : 0;
  const indices = [...Array(exits).keys()];
  const last = points.findLast((point) => point.frames);
  fillChart("shares", "Exit shares", points, "100 %",
    indices.map((exit) => path(bars(points, (point) => upTo(point, exit), (point) => upTo(point, exit + 1)), exitColour(exit), "", true)),
    indices.map((exit) => [`exit ${exit}`, last ? percent((last.exits[exit] ?? 0) / last.frames) : "–", barKey(exitColour(exit))]));
}

const exitColour = (exit) => `exit-${exit % 5}`;

function drawLines(id, title, points, unit, lines) {
  const top = niceCeiling(Math.max(...points.flatMap((point) => lines.map(([, key]) => point[key] ?? 0)), 1e-3));
  const line = (key) => points.map((point, index) => {
    if (point[key] == null) return "";
    const isFirst = index === 0 || points[index - 1][key] == null;
    return `${isFirst ? "M" : "L"}${xOf(index, points) + .5} ${(100 - 96 * point[key] / top).toFixed(2)}`;
  }).join("");
  fillChart(id, title, points, `${top} ${unit}`,
    lines.map(([, key, colour, dash]) => path(line(key), colour, dash)),
    lines.map(([name, key, colour, dash]) => [name, format(points.at(-1)?.[key], unit), lineKey(colour, dash)]));
}

function drawLosses(points) {
  const total = (key) => points.reduce((sum, point) => sum + point[key], 0);
  const top = niceCeiling(Math.max(...points.map((point) => point.dropped), 1));
  const marks = points.map((point, index) => point.reconnects ? `M${xOf(index, points) + .5} 0v100` : "").join("");
  fillChart("losses", "Losses", points, `${top} a second`,
    [path(bars(points, () => 0, (point) => 96 * point.dropped / top), "exit-1", "", true), path(marks, "bad", "2 3")],
    [["dropped frames", total("dropped").toLocaleString("en"), barKey("exit-1")],
      ["reconnects", total("reconnects"), lineKey("bad", "2 3")]]);
}

function niceCeiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return Number(([1, 2, 5, 10].find((step) => step * power >= value) * power).toPrecision(1));
}

// ---- controls

find("attention").addEventListener("change", () => cameras.forEach(drawPicture));
find("source").addEventListener("change", drawCharts);
find("candidate").addEventListener("input", ({ target }) => {
  target.dataset.moving = "yes";
  describeCandidate(Number(target.value), []);
});
find("candidate").addEventListener("change", async ({ target }) => {
  await choose(Number(target.value));
  delete target.dataset.moving;
});
document.addEventListener("keydown", (event) => {
  const isTyping = event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select");
  if (event.key.toLowerCase() === "a" && !isTyping && !find("attention-switch").hidden) find("attention").click();
});
document.addEventListener("visibilitychange", () => {
  cameras.filter(({ isWaiting }) => isWaiting).forEach(requestPicture);
  drawCharts();
});

connect();
