// What the model says: importances with intervals, maps of two parameters; and the timeline of workers.
function importances(study) {
  if (!study.model) return;
  const list = make("div", { className: "bars", role: "table", "aria-label": "importances" });
  for (const i of study.model.importances.slice(0, 16)) {
    const bar = make("i");
    const whisker = make("s");
    bar.style.width = `${100 * i.total}%`;
    whisker.style.left = `${100 * i.low}%`;
    whisker.style.width = `${100 * (i.high - i.low)}%`;
    list.append(make("div", { role: "row" },
      make("span", { role: "cell", textContent: i.name, title: i.name }),
      make("span", { role: "cell", className: "bar", "aria-hidden": "true" }, bar, whisker),
      make("span", { role: "cell", className: "soft", textContent: `${percent(i.total)} (${percent(i.low)} to ${percent(i.high)}), alone ${percent(i.main)}` })));
  }
  section("Which parameters matter",
    make("p", { className: "lead", textContent: "The share of the objective's variance over the space that a parameter has a hand in, with its 90 % interval. A wide interval: the trials do not tell yet." }),
    list, study.model.ranges.length
      ? make("ul", { "aria-label": "where to look next" }, ...study.model.ranges.map((text) => make("li", {}, text))) : null);
}

function planes(study) {
  const maps = study.model?.maps ?? [];
  const grid = make("div", { className: "grid" });
  const sign = study.directions[0] === "minimize" ? 1 : -1;
  for (const map of maps) {
    const [a, b] = map.names.map((name) => study.parameters.findIndex((p) => p.name === name));
    if (a < 0 || b < 0) continue;
    const done = study.trials.filter((t) => t.values && finite(t.values[0]) && t.params[a] !== null && t.params[b] !== null);
    const point = (t) => [t.params[a], t.params[b], t.number, study.describe(t)];
    const [p, q] = [study.parameters[a], study.parameters[b]];
    const axes = { x: p.log ? `${p.name} (log)` : p.name, y: q.log ? `${q.name} (log)` : q.name, logX: p.log, logY: q.log };
    chart(grid, `${p.name} and ${q.name}`, axes, [
      { color: "soft", dot: 5, hollow: true, points: done.filter((t) => !study.isBest(t)).map(point) },
      { color: "good", dot: 9, points: done.filter(study.isBest).map(point) },
    ], { height: 320, under: mapUnder(map, sign) });
  }
  if (!grid.children.length) return;
  section(maps.length > 1 ? "Those that matter most, two by two" : "The two that matter most",
    make("p", { className: "lead", textContent: "The stronger the blue, the better the expected objective; circles are trials, the best in green." }), grid);
}

function timeline(study) {
  const ran = study.trials.filter((t) => finite(t.started));
  if (ran.length < 2) return;
  const now = study.now ?? Math.max(...ran.map((t) => t.started + (t.seconds || 0)));
  const ends = (t) => (finite(t.seconds) ? t.started + t.seconds : now);
  const lanes = [];
  const places = [...ran].sort((a, b) => a.started - b.started).map((t) => {
    let lane = lanes.findIndex((end) => end <= t.started + 0.005 * now);
    if (lane < 0) lane = lanes.push(0) - 1;
    lanes[lane] = ends(t);
    return [t, lane];
  });
  if (lanes.length > 64) return;
  const W = 1160;
  const row = lanes.length > 12 ? 10 : 20;
  const H = lanes.length * row + 22;
  const x = (s) => (s / (now || 1)) * (W - 4) + 2;
  const svg = draw("svg", { viewBox: `0 0 ${W} ${H}`, class: "timeline", role: "img", "aria-label": `timeline: ${ran.length} trials, at most ${lanes.length} at a time, over ${duration(now)}` });
  for (const [t, lane] of places) {
    const bar = draw("rect", { x: x(t.started).toFixed(1), y: lane * row + 2, width: Math.max(1, x(ends(t)) - x(t.started) - 1).toFixed(1),
      height: row - 4, rx: 2, class: study.isBest(t) ? "best" : t.state }, draw("title"));
    bar.firstChild.textContent = `${study.describe(t)}, ${duration(t.seconds)}`;
    bar.addEventListener("click", () => study.find(t.number));
    svg.append(bar);
  }
  for (let k = 0; k <= 4; k += 1) {
    const text = draw("text", { x: k === 4 ? W - 2 : x((now * k) / 4), y: H - 5, "text-anchor": k === 0 ? "start" : k === 4 ? "end" : "middle" });
    text.textContent = duration((now * k) / 4);
    svg.append(text);
  }
  section("When trials ran", make("p", { className: "lead", textContent: `One row for each that ran at the same time: at most ${lanes.length}.` }), make("div", { className: "wide" }, svg));
}
