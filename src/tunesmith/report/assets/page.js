// Draws the study that stands as JSON in the page. Texts go through textContent only; charts are uPlot's.
"use strict";
(() => {
  const study = JSON.parse(document.getElementById("study").textContent);
  const main = document.querySelector("main");
  const best = new Set(study.best);
  const trials = study.trials.map(([number, state, values, last, params, seconds, reason]) => ({
    number, state, values, last, params, seconds, reason,
  }));
  const objectives = study.directions.map((_, k) => (study.directions.length === 1 ? "objective" : `objective ${k}`));
  const finite = (v) => typeof v === "number" && Number.isFinite(v);

  // -- small things ---------------------------------------------------------------------------------------------

  function make(tag, settings, ...children) {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(settings || {})) {
      if (key in node) node[key] = value;
      else node.setAttribute(key, value);
    }
    node.append(...children.filter((c) => c !== null && c !== undefined)); // strings become text, never markup
    return node;
  }

  function show(value) {
    if (value === null || value === undefined) return "";
    if (typeof value !== "number") return String(value);
    const rounded = Number(value.toPrecision(5));
    return rounded !== 0 && Math.abs(rounded) < 1e-3 ? rounded.toExponential() : String(rounded);
  }

  // rows hold a number, or the place of a choice
  function setting(t, k) {
    const { numeric, choices } = study.parameters[k];
    return t.params[k] === null ? "" : show(numeric ? t.params[k] : choices[t.params[k]]);
  }

  function duration(seconds) {
    if (!finite(seconds)) return "";
    if (seconds < 100) return `${seconds.toFixed(1)} s`;
    return seconds < 6000 ? `${(seconds / 60).toFixed(1)} min` : `${(seconds / 3600).toFixed(1)} h`;
  }

  function section(title, ...children) {
    main.append(make("section", {}, make("h2", { textContent: title }), ...children));
  }

  function color(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  }

  // -- charts -----------------------------------------------------------------------------------------------------

  const drawings = []; // drawn again when the colours change

  // groups: [{label, color, points: [[x, y, trial, text]], line, dash, dot, legend}]
  function chart(parent, title, axes, groups, { height = 230, crosses = [] } = {}) {
    const shown = groups
      .map((g) => ({ ...g, points: g.points.filter(([x, y]) => finite(x) && finite(y) && (!axes.logX || x > 0)) }))
      .filter((g) => g.points.length);
    if (!shown.length) return;
    const caption = make("figcaption", {}, title);
    for (const g of shown.filter((g) => g.label)) {
      const spot = make("i");
      drawings.push(() => { spot.style.background = color(g.color); });
      caption.append(make("span", {}, spot, g.label));
    }
    if (crosses.length) caption.append(make("span", {}, "\u00d7 failed"));
    const tip = make("div", { className: "tip", hidden: true });
    const place = make("div", { className: "plot", role: "img", "aria-label": `${title}: ${axes.y} against ${axes.x}` });
    parent.append(make("figure", {}, caption, place));
    place.style.height = `${height}px`;
    let plot = null;
    const draw = () => {
      if (plot) plot.destroy();
      const width = Math.max(place.clientWidth, 200);
      plot = new uPlot(options(axes, shown, crosses, { width, height, tip }), table(shown), place);
      plot.over.append(tip);
    };
    drawings.push(draw);
    new ResizeObserver(() => {
      if (plot && place.clientWidth && plot.width !== place.clientWidth) {
        plot.setSize({ width: place.clientWidth, height });
      }
    }).observe(place);
  }

  // uPlot wants one sorted x for all series, with gaps where a series has no point
  function table(groups) {
    const all = groups.flatMap((g, k) => g.points.map(([x, y]) => [x, y, k])).sort((a, b) => a[0] - b[0]);
    return [all.map((p) => p[0]), ...groups.map((_, k) => all.map((p) => (p[2] === k ? p[1] : null)))];
  }

  function padded(log) {
    return (_, low, high) => {
      if (low === null) return [0, 1];
      if (log) return low === high ? [low / 2, high * 2] : [low / (high / low) ** 0.04, high * (high / low) ** 0.04];
      const pad = high === low ? Math.abs(high) * 0.1 || 0.5 : (high - low) * 0.04;
      return [low - pad, high + pad];
    };
  }

  function options(axes, groups, crosses, { width, height, tip }) {
    const ys = groups.flatMap((g) => g.points.map((p) => p[1]));
    const low = Math.min(...ys);
    const logY = low > 0 && Math.max(...ys) / low > 100;
    const soft = color("soft");
    const line = color("line");
    const axis = (label, extra) => ({
      stroke: soft, label, labelSize: 18, labelFont: "12px system-ui", font: "11px system-ui",
      grid: { stroke: line, width: 0.5 }, ticks: { stroke: line, width: 1, size: 4 }, ...extra,
    });
    const texts = (_, at) => at.map((v) => (v === null ? "" : show(v)));
    const x = { size: 34 };
    const y = { size: 54, values: texts };
    if (logY) y.splits = (_, __, from, to) => decades(from, to);
    if (axes.choices) {
      const spaced = Math.max(1, Math.ceil(axes.choices.length / Math.max(width / 70, 1)));
      x.splits = () => axes.choices.map((_, k) => k).filter((k) => k % spaced === 0);
      x.values = (_, at) => at.map((k) => cut(axes.choices[k] ?? "", 11));
      x.grid = { show: false };
    } else {
      x.values = texts;
      if (axes.logX) x.splits = (_, __, low, high) => decades(low, high);
      if (axes.whole) x.incrs = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 1e4, 1e5, 1e6];
    }
    return {
      width, height, legend: { show: false },
      cursor: { x: false, y: false, points: { show: false }, drag: { x: false, y: false } },
      scales: {
        x: { time: false, distr: axes.logX ? 3 : 1, range: axes.choices
          ? [-0.5, Math.max(axes.choices.length, 1) - 0.5] : padded(axes.logX) },
        y: { distr: logY ? 3 : 1, range: padded(logY) },
      },
      axes: [axis(axes.x, x), axis(axes.y, y)],
      series: [{}, ...groups.map((g) => ({
        stroke: color(g.color), width: g.width ?? 1.5, dash: g.dash, spanGaps: true,
        paths: g.line === "step" ? uPlot.paths.stepped({ align: 1 }) : g.line ? uPlot.paths.linear() : () => null,
        points: { show: Boolean(g.dot), size: g.dot ?? 6, width: 1.2, stroke: color(g.color),
          fill: g.hollow ? color("paper") : color(g.color) },
      }))],
      hooks: {
        draw: [(u) => crossAt(u, crosses)],
        setCursor: [(u) => { const p = nearest(u, groups); showTip(u, tip, p); }],
        ready: [(u) => {
          u.over.addEventListener("mouseleave", () => { tip.hidden = true; });
          u.over.addEventListener("click", () => { const p = nearest(u, groups); if (p) find(p[2]); });
        }],
      },
    };
  }

  // round numbers on a logarithmic axis: powers of ten, or 1, 2 and 5 times them where there are few
  function decades(low, high) {
    const from = Math.floor(Math.log10(low));
    const to = Math.ceil(Math.log10(high));
    const powers = Array.from({ length: to - from + 1 }, (_, k) => Number(`1e${from + k}`));
    const inside = (all) => all.filter((v) => v >= low && v <= high);
    const whole = inside(powers);
    return whole.length > 2 ? whole : inside(powers.flatMap((v) => [v, 2 * v, 5 * v]));
  }

  function cut(text, length) {
    return text.length > length ? `${text.slice(0, length - 1)}\u2026` : text;
  }

  function crossAt(u, places) {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.strokeStyle = color("bad");
    ctx.lineWidth = 1.5 * devicePixelRatio;
    const r = 3 * devicePixelRatio;
    const y = bbox.top + bbox.height - 2 * r;
    for (const value of places) {
      const x = u.valToPos(value, "x", true);
      ctx.beginPath();
      ctx.moveTo(x - r, y - r); ctx.lineTo(x + r, y + r);
      ctx.moveTo(x - r, y + r); ctx.lineTo(x + r, y - r);
      ctx.stroke();
    }
    ctx.restore();
  }

  function nearest(u, groups) {
    const { left, top } = u.cursor;
    if (left === undefined || left < 0) return null;
    let found = null;
    let distance = 28 ** 2;
    for (const g of groups) {
      for (const p of g.points) {
        const d = (u.valToPos(p[0], "x") - left) ** 2 + (u.valToPos(p[1], "y") - top) ** 2;
        if (d < distance) { distance = d; found = p; }
      }
    }
    return found;
  }

  function showTip(u, tip, point) {
    tip.hidden = !point;
    if (!point) return;
    tip.textContent = point[3];
    const x = u.valToPos(point[0], "x");
    const right = x > u.over.clientWidth / 2;
    tip.style.left = right ? "" : `${x + 10}px`;
    tip.style.right = right ? `${u.over.clientWidth - x + 10}px` : "";
    tip.style.top = `${Math.max(u.valToPos(point[1], "y") - 14, 0)}px`;
  }

  // -- the sections -----------------------------------------------------------------------------------------------

  function describe(t) {
    const value = t.values || t.last;
    const ended = t.state === "complete" ? "" : ` (${t.reason || t.state})`;
    return `trial ${t.number}: ${value ? value.map(show).join(", ") : "no value"}${ended}`;
  }

  function header() {
    const counts = new Map();
    for (const t of trials) counts.set(t.state, (counts.get(t.state) || 0) + 1);
    const parts = [...counts].map(([state, n]) => `${n} ${state}`);
    if (study.failed) parts.push(study.failed.replace(/^\d+ failed \((.*)\)$/, "failures: $1"));
    parts.push(`${duration(study.seconds)} in trials`, study.directions.join(", "));
    main.append(
      make("h1", { textContent: study.name }),
      make("p", { className: "lead", textContent: trials.length ? parts.join(" \u00b7 ") : "no trials yet" }),
    );
    if (!study.best.length) {
      if (trials.length) main.append(make("p", {}, "No trial has completed."));
      return;
    }
    const top = trials.find((t) => t.number === study.best[0]);
    const code = make("pre", { textContent: study.settings });
    const copy = make("button", { type: "button", className: "copy", textContent: "Copy" });
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(study.settings);
        copy.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code); // no clipboard here: the reader presses Ctrl-C
      }
    });
    const many = study.best.length > 1;
    main.append(make("div", { className: "best" },
      make("div", {},
        make("span", { className: "soft", textContent: many ? `One of ${study.best.length} in the Pareto set` : "Best" }),
        make("b", { textContent: top.values.map(show).join(", ") }),
        make("div", {}, `trial ${top.number}`),
        study.checkpoint ? make("div", { className: "soft" }, `checkpoint ${study.checkpoint}`) : null),
      make("div", {}, code, copy)));
  }

  function progressOverTrials() {
    const grid = make("div", { className: study.directions.length > 1 ? "grid large" : "" });
    study.directions.forEach((direction, k) => {
      const at = (t) => [t.number, t.values[k], t.number, describe(t)];
      const done = trials.filter((t) => t.values && finite(t.values[k]));
      const reported = (t) => [t.number, t.last[k], t.number, describe(t)];
      const without = trials.filter((t) => !t.values && t.last);
      const sign = direction === "minimize" ? 1 : -1;
      let record = Infinity;
      const line = done.map((t) => {
        record = Math.min(record, sign * t.values[k]);
        return [t.number, sign * record, t.number, `best so far: ${show(sign * record)}`];
      });
      chart(grid, `${objectives[k]}, ${direction}`, { x: "trial", y: objectives[k], whole: true }, [
        { label: "stopped early", color: "stop", dot: 6, hollow: true,
          points: without.filter((t) => t.state === "pruned").map(reported) },
        { label: "not finished", color: "soft", dot: 6, hollow: true,
          points: without.filter((t) => !["pruned", "failed"].includes(t.state)).map(reported) },
        { label: "best so far", color: "good", line: "step", width: 2, points: line },
        { label: "complete", color: "mark", dot: 6, points: done.map(at) },
      ], { height: 280, crosses: trials.filter((t) => t.state === "failed").map((t) => t.number) });
    });
    if (study.directions.length === 2) paretoFront(grid);
    if (grid.children.length) section("Objective over trials", grid);
  }

  function paretoFront(grid) {
    const done = trials.filter((t) => t.values && t.values.every(finite));
    const point = (t) => [t.values[0], t.values[1], t.number, describe(t)];
    chart(grid, "Pareto front", { x: objectives[0], y: objectives[1] }, [
      { label: "other trials", color: "mark", dot: 6, points: done.filter((t) => !best.has(t.number)).map(point) },
      { label: "Pareto set", color: "good", dot: 8, line: "line",
        points: done.filter((t) => best.has(t.number)).map(point).sort((a, b) => a[0] - b[0]) },
    ], { height: 280 });
  }

  function parameters() {
    const done = trials.filter((t) => t.values && finite(t.values[0]));
    const grid = make("div", { className: "grid" });
    study.parameters.slice(0, 24).forEach((parameter, k) => {
      const having = done.filter((t) => t.params[k] !== null);
      const values = new Set(having.map((t) => t.params[k]));
      if (values.size < 2) return; // what did not vary says nothing
      const x = (t) => (parameter.numeric
        ? t.params[k]
        : t.params[k] + (((t.number * 0.618) % 1) - 0.5) * 0.36); // apart, so that each is seen
      const point = (t) => [x(t), t.values[0], t.number, `${describe(t)}\n${parameter.name} = ${setting(t, k)}`];
      const axes = { x: parameter.log ? `${parameter.name} (log)` : parameter.name, y: objectives[0],
        logX: parameter.log, choices: parameter.numeric ? null : parameter.choices };
      chart(grid, parameter.name, axes, [
        { color: "mark", dot: 5, points: having.filter((t) => !best.has(t.number)).map(point) },
        { color: "good", dot: 9, points: having.filter((t) => best.has(t.number)).map(point) },
      ]);
    });
    if (!grid.children.length) return;
    const order = done.length >= 10 ? " Those that explain most of it come first." : "";
    section("Parameters against objective", make("p", { className: "lead" }, `The best in green.${order}`), grid);
  }

  function curves() {
    const { shown, of, by_share: byShare } = study.curves;
    if (!shown.length) return;
    const grid = make("div", {});
    const group = (c, look) => ({
      ...look, line: "line",
      points: c.points.map(([x, y]) => [x, y, c.trial,
        `trial ${c.trial} ${c.state}${c.reason ? `: ${c.reason}` : ""}\n${show(y)} at ${show(x)}${byShare ? " %" : ""}`]),
    });
    const once = (label) => { let used = false; return () => { if (used) return ""; used = true; return label; }; };
    const labels = { stop: once("stopped early"), fail: once("failed"), top: once("best"), rest: once("complete"),
      run: once("not finished") };
    const look = (c) => {
      if (best.has(c.trial)) return { label: labels.top(), color: "good", width: 2.5 };
      if (c.state === "complete") return { label: labels.rest(), color: "mark", width: 1 };
      if (c.state === "pruned") return { label: labels.stop(), color: "stop", width: 1, dash: [5, 4] };
      if (c.state === "failed") return { label: labels.fail(), color: "bad", width: 1, dash: [2, 3] };
      return { label: labels.run(), color: "soft", width: 1 };
    };
    const last = (c) => best.has(c.trial);
    const ordered = [...shown.filter((c) => !last(c)), ...shown.filter(last)];
    const ends = ordered.filter((c) => c.state === "pruned" || c.state === "failed").map((c) => ({
      color: c.state === "failed" ? "bad" : "stop", dot: 7, points: group(c, {}).points.slice(-1),
    }));
    const x = byShare ? "% of training" : "step";
    chart(grid, objectives[0], { x, y: objectives[0] }, [...ordered.map((c) => group(c, look(c))), ...ends], { height: 340 });
    const note = of > shown.length ? make("p", { className: "lead" }, `${shown.length} of ${of}: the best and the newest`) : null;
    const stopped = shown.filter((c) => c.state === "pruned" || c.state === "failed");
    const list = stopped.length ? make("details", {},
      make("summary", {}, `${stopped.length} stopped or failed: why`),
      make("ul", {}, ...stopped.map((c) => {
        const at = c.points[c.points.length - 1][0];
        return make("li", {}, `trial ${c.trial}, at ${show(at)}${byShare ? " %" : ""}: ${c.reason || c.state}`);
      }))) : null;
    section("Learning curves", ...[note, grid, list].filter(Boolean));
  }

  function failed() {
    if (!study.failures.length) return;
    section("What failed", ...study.failures.map((f) => make("details", {},
      make("summary", {}, make("b", {}, `${f.trials.length} \u00d7`), f.reason),
      make("p", { className: "soft" }, `trials ${f.trials.slice(0, 50).join(", ")}${f.trials.length > 50 ? ", ..." : ""}`),
      f.detail ? make("pre", { textContent: f.detail }) : null)));
  }

  // -- the table --------------------------------------------------------------------------------------------------

  const columns = [
    { name: "trial", of: (t) => t.number },
    { name: "state", of: (t) => t.state },
    ...objectives.map((name, k) => ({ name, of: (t) => (t.values ? t.values[k] : null) })),
    ...study.parameters.map((p, k) => ({ name: p.name, of: (t) => t.params[k], text: (t) => setting(t, k) })),
    { name: "time", of: (t) => t.seconds, text: (t) => duration(t.seconds) },
    { name: "reason", of: (t) => t.reason, wide: true },
  ];
  let order = { column: 0, sign: 1 };
  let wanted = "";
  let most = 200;
  const body = make("tbody");
  const more = make("button", { type: "button" });

  function compare(a, b) {
    if (a === b) return 0;
    if (a === null || a === "") return 1; // what is missing stays at the end
    if (b === null || b === "") return -1;
    if (typeof a === "number" && typeof b === "number") return order.sign * (a - b);
    return order.sign * String(a).localeCompare(String(b));
  }

  function fill() {
    const { of } = columns[order.column];
    const rows = trials.filter((t) => !wanted || t.state === wanted).sort((a, b) => compare(of(a), of(b)));
    body.replaceChildren(...rows.slice(0, most).map((t) => {
      const cells = columns.map((c) => {
        const text = c.text ? c.text(t) : show(c.of(t));
        return make("td", { textContent: text, className: c.wide ? "text" : "", title: c.wide ? text : "" });
      });
      const row = make("tr", { className: best.has(t.number) ? "best" : t.state }, ...cells);
      row.dataset.trial = t.number;
      return row;
    }));
    more.hidden = rows.length <= most;
    more.textContent = `Show all ${rows.length}`;
  }

  function find(number) {
    if (wanted || trials.length > most) { wanted = ""; most = Infinity; choice.value = ""; fill(); }
    const row = body.querySelector(`tr[data-trial="${number}"]`);
    for (const other of body.querySelectorAll(".found")) other.classList.remove("found");
    row.classList.add("found");
    row.scrollIntoView({ block: "center" });
  }

  const choice = make("select", { "aria-label": "state" });

  function trialTable() {
    if (!trials.length) return;
    choice.append(make("option", { value: "" }, "all states"));
    for (const state of new Set(trials.map((t) => t.state))) choice.append(make("option", { value: state }, state));
    choice.addEventListener("change", () => { wanted = choice.value; fill(); });
    more.addEventListener("click", () => { most = Infinity; fill(); });
    const head = columns.map((c, k) => {
      const button = make("button", { type: "button", textContent: c.name });
      const cell = make("th", { scope: "col" }, button);
      button.addEventListener("click", () => {
        order = { column: k, sign: order.column === k ? -order.sign : 1 };
        for (const other of cell.parentNode.children) other.removeAttribute("aria-sort");
        cell.setAttribute("aria-sort", order.sign > 0 ? "ascending" : "descending");
        fill();
      });
      return cell;
    });
    fill();
    section(`Trials (${trials.length})`, make("div", { className: "tools" }, choice, more),
      make("div", { className: "scroll", tabIndex: 0 }, make("table", {}, make("thead", {}, make("tr", {}, ...head)), body)));
  }

  header();
  progressOverTrials();
  parameters();
  curves();
  failed();
  trialTable();
  const drawAll = () => drawings.forEach((draw) => draw());
  drawAll();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  document.documentElement.dataset.ready = "true";
})();
