// Parallel coordinates: a line for each trial, across its parameters to its objective. A range dragged on an axis (or
// moved with the arrow keys) selects trials, here and in the table.
const MOST_AXES = 10;

function parallelAxes(study) {
  const shown = study.parameters.map((p, k) => ({ ...p, k })).filter((p) => study.varied(p.k)).slice(0, MOST_AXES);
  const axes = shown.map((p) => {
    const of = (t) => (t.params[p.k] === null ? null : t.params[p.k]);
    if (!p.numeric) {
      const last = Math.max(p.choices.length - 1, 1);
      return { name: p.name, of, at: (v) => v / last, text: (at) => p.choices[Math.round(at * last)] ?? "" };
    }
    return scaled(p.name, of, study.trials, p.log);
  });
  study.directions.forEach((direction, k) => {
    axes.push(scaled(study.objectives[k], (t) => (t.values ? t.values[k] : null), study.trials, false, direction));
  });
  return axes;
}

function scaled(name, of, trials, log, direction = "maximize") {
  const values = trials.map(of).filter(finite);
  const f = log ? Math.log : (v) => v;
  const back = log ? Math.exp : (v) => v;
  const low = f(Math.min(...values));
  const span = f(Math.max(...values)) - low || 1;
  const up = direction !== "minimize"; // the better end is the upper one
  return {
    name, of,
    at: (v) => (up ? (f(v) - low) / span : 1 - (f(v) - low) / span),
    text: (at) => show(back(low + span * (up ? at : 1 - at))),
  };
}

function parallel(study, selected, onChange) {
  const lines = study.trials.filter((t) => t.values && finite(t.values[0]));
  const axes = parallelAxes(study);
  if (lines.length < 3 || axes.length < 3) return;
  const W = 1160;
  const H = 300;
  const top = 46;
  const bottom = H - 22;
  const x = (k) => 60 + (k * (W - 120)) / (axes.length - 1);
  const y = (at) => bottom - at * (bottom - top);
  const sign = study.directions[0] === "minimize" ? 1 : -1;
  const ranked = [...lines].sort((a, b) => sign * (b.values[0] - a.values[0])); // the best are drawn last, on top
  const svg = draw("svg", { viewBox: `0 0 ${W} ${H}`, class: "parallel", role: "group",
    "aria-label": "parallel coordinates of the completed trials" });
  const paths = ranked.map((t, place) => {
    const points = axes.map((a, k) => (finite(a.of(t)) ? `${x(k).toFixed(1)} ${y(a.at(a.of(t))).toFixed(1)}` : null)).filter(Boolean);
    const rank = study.best.includes(t.number) ? "best" : `q${Math.floor((4 * place) / ranked.length)}`;
    const path = draw("path", { d: `M${points.join("L")}`, class: `line ${rank}` }, draw("title"));
    path.firstChild.textContent = study.describe(t);
    path.addEventListener("click", () => study.find(t.number));
    svg.append(path);
    return [t, path];
  });

  const inside = (t) => axes.every((a) => {
    const range = selected.ranges[a.name];
    return !range || (finite(a.of(t)) && a.at(a.of(t)) >= range[0] - 1e-9 && a.at(a.of(t)) <= range[1] + 1e-9);
  });
  const count = make("span", { className: "soft", "aria-live": "polite" });
  const clear = make("button", { type: "button", textContent: "Clear the selection" });
  function apply() {
    const active = Object.keys(selected.ranges).length > 0;
    selected.trials = active ? new Set(lines.filter(inside).map((t) => t.number)) : null;
    for (const [t, path] of paths) path.classList.toggle("out", active && !selected.trials.has(t.number));
    count.textContent = active ? `${selected.trials.size} of ${lines.length} trials selected` : "Drag along an axis to select trials.";
    clear.hidden = !active;
    onChange();
  }

  axes.forEach((a, k) => {
    const band = draw("rect", { x: x(k) - 9, width: 18, y: top, height: 0, class: "brush" });
    const grip = draw("g", { tabindex: 0, role: "slider", "aria-label": a.name, "aria-valuemin": 0, "aria-valuemax": 100, class: "axis" },
      draw("rect", { x: x(k) - 22, y: top - 6, width: 44, height: bottom - top + 12, class: "grab" }),
      draw("line", { x1: x(k), x2: x(k), y1: top, y2: bottom }), band);
    const label = (text, at, cls) => {
      const anchor = k === 0 ? "start" : k === axes.length - 1 ? "end" : "middle";
      const node = draw("text", { x: k === 0 ? 2 : k === axes.length - 1 ? W - 2 : x(k), y: at, class: cls, "text-anchor": anchor });
      node.textContent = text;
      return node;
    };
    const width = Math.max(6, Math.floor(150 / axes.length) + 4);
    svg.append(grip, label(cut(a.name, width), 14 + (k % 2) * 14, "name"), label(cut(a.text(1), width), top - 4 + 0, "end"), label(cut(a.text(0), width), H - 6, "end"));
    function range(low, high) {
      const [from, to] = [Math.max(0, Math.min(low, high)), Math.min(1, Math.max(low, high))];
      if (to - from < 0.01) delete selected.ranges[a.name];
      else selected.ranges[a.name] = [from, to];
      paint();
      apply();
    }
    function paint() {
      const r = selected.ranges[a.name];
      band.setAttribute("height", r ? y(r[0]) - y(r[1]) : 0);
      if (r) band.setAttribute("y", y(r[1]));
      grip.setAttribute("aria-valuenow", r ? Math.round(50 * (r[0] + r[1])) : 50);
      grip.setAttribute("aria-valuetext", r ? `${a.text(r[0])} to ${a.text(r[1])}` : "all");
    }
    const where = (event) => {
      const box = svg.getBoundingClientRect();
      return (bottom - ((event.clientY - box.top) * H) / box.height) / (bottom - top);
    };
    grip.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      grip.focus();
      grip.setPointerCapture(event.pointerId);
      const from = where(event);
      const move = (e) => range(from, where(e));
      grip.addEventListener("pointermove", move);
      grip.addEventListener("pointerup", (e) => { grip.removeEventListener("pointermove", move); move(e); }, { once: true });
    });
    grip.addEventListener("keydown", (event) => {
      const [low, high] = selected.ranges[a.name] || [0, 1];
      const step = { ArrowUp: 0.05, ArrowDown: -0.05 }[event.key];
      if (event.key === "Escape") range(0, 0);
      else if (step && event.shiftKey) range(low, Math.max(low + 0.05, high + step)); // shift: the upper end alone
      else if (step) range(Math.max(0, low + step), high + (low + step < 0 ? 0 : step));
      else return;
      event.preventDefault();
    });
    paint();
  });
  clear.addEventListener("click", () => { selected.ranges = {}; study.redraw(); });
  section("Parallel coordinates",
    make("p", { className: "lead", textContent: "Each line is a completed trial; the better half is blue, the best green. Axes take the arrow keys, too." }),
    make("div", { className: "wide" }, svg), make("div", { className: "tools" }, count, clear));
  apply();
}
