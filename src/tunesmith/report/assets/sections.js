// The study's data with what all sections ask of it.
function read(data) {
  const study = { ...data };
  study.trials = data.trials.map(([number, state, values, last, params, started, seconds, reason]) => ({
    number, state, values, last, params, started, seconds, reason,
  }));
  const best = new Set(data.best);
  study.isBest = (t) => best.has(t.number);
  study.objectives = data.directions.map((_, k) => (data.directions.length === 1 ? "objective" : `objective ${k}`));
  study.varied = (k) => new Set(study.trials.filter((t) => t.values && t.params[k] !== null).map((t) => t.params[k])).size > 1;
  // rows hold a number, or the place of a choice
  study.setting = (t, k) => {
    const { numeric, choices } = study.parameters[k];
    return t.params[k] === null ? "" : show(numeric ? t.params[k] : choices[t.params[k]]);
  };
  study.describe = (t) => {
    const value = t.values || t.last;
    const ended = t.state === "complete" ? "" : ` (${t.reason || t.state})`;
    return `trial ${t.number}: ${value ? value.map(show).join(", ") : "no value"}${ended}`;
  };
  return study;
}

function header(study) {
  const { trials } = study;
  const counts = new Map();
  for (const t of trials) counts.set(t.state, (counts.get(t.state) || 0) + 1);
  const done = trials.filter((t) => ["complete", "pruned", "failed"].includes(t.state)).length;
  const parts = [study.n_trials ? `${done} of ${study.n_trials} trials` : `${done} trials`];
  if (finite(study.left)) parts.push(`about ${duration(study.left)} left`);
  if (trials.length) parts.push([...counts].map(([state, n]) => `${n} ${state}`).join(", "));
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
  const first = trials.find((t) => t.number === study.best[0]);
  const many = study.best.length > 1;
  main.append(make("div", { className: "top" },
    make("div", {},
      make("span", { className: "soft", textContent: many ? `One of ${study.best.length} in the Pareto set` : "Best" }),
      make("b", { textContent: first.values.map(show).join(", ") }),
      make("div", {}, `trial ${first.number}`),
      ...margins(study).map((text) => make("div", { className: "soft", textContent: text })),
      trusted(study)),
    make("div", {}, pasted(study.settings),
      study.checkpoint ? make("div", { className: "soft" }, `checkpoint ${study.checkpoint}`) : null)));
}

// can the best be trusted? what the model says of it, unless that was another one
function trusted(study) {
  const trust = study.model?.trust;
  if (!trust || trust.best !== study.best[0]) return null;
  return make("ul", { className: "trust", "aria-label": "can the best be trusted?" },
    ...trust.sentences.map((text) => make("li", {}, text)));
}

// whether the best one stands out: the next best, and what is usual
function margins(study) {
  if (study.directions.length > 1) return [];
  const sign = study.directions[0] === "minimize" ? 1 : -1;
  const values = study.trials.filter((t) => t.values && finite(t.values[0])).map((t) => sign * t.values[0]).sort((a, b) => a - b);
  if (values.length < 3) return [];
  const median = values[Math.floor(values.length / 2)];
  return [`next best ${show(sign * values[1])}, median ${show(sign * median)}`];
}

function pasted(settings) {
  const code = make("pre", { tabIndex: 0, "aria-label": "the best trial's parameters" });
  const copy = make("button", { type: "button", textContent: "Copy" });
  const choose = Object.keys(settings).map((language) => make("button", { type: "button", textContent: language }));
  function take(button) {
    for (const other of choose) other.setAttribute("aria-pressed", String(other === button));
    code.textContent = settings[button.textContent];
    copy.textContent = "Copy";
  }
  for (const button of choose) button.addEventListener("click", () => take(button));
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      copy.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code); // no clipboard here: the reader presses Ctrl-C
    }
  });
  take(choose[0]);
  return make("div", {}, make("div", { className: "tools copy" }, ...choose, copy), code);
}

function progressOverTrials(study) {
  const { trials, objectives } = study;
  const grid = make("div", { className: study.directions.length > 1 ? "grid large" : "" });
  study.directions.forEach((direction, k) => {
    const at = (t) => [t.number, t.values[k], t.number, study.describe(t)];
    const done = trials.filter((t) => t.values && finite(t.values[k]));
    const reported = (t) => [t.number, t.last[k], t.number, study.describe(t)];
    const without = trials.filter((t) => !t.values && t.last);
    const sign = direction === "minimize" ? 1 : -1;
    let record = Infinity;
    const line = done.map((t) => {
      record = Math.min(record, sign * t.values[k]);
      return [t.number, sign * record, t.number, `best so far: ${show(sign * record)}`];
    });
    const noise = k === 0 && study.directions.length === 1 ? study.model?.trust?.noise : null;
    chart(grid, `${objectives[k]}, ${direction}`, { x: "trial", y: objectives[k], whole: true, direction }, [
      { label: "stopped early", color: "stop", dot: 6, hollow: true,
        points: without.filter((t) => t.state === "pruned").map(reported) },
      { label: "not finished", color: "soft", dot: 6, hollow: true,
        points: without.filter((t) => !["pruned", "failed"].includes(t.state)).map(reported) },
      { label: noise ? "best so far, and what noise makes of it (90 %)" : "best so far", color: "good", line: "step", width: 2, points: line },
      { label: "complete", color: "mark", dot: 6, points: done.map(at) },
    ], { height: 280, crosses: trials.filter((t) => t.state === "failed").map((t) => t.number),
      under: noise && line.length ? noiseUnder(line, 1.645 * noise) : null });
  });
  if (study.directions.length === 2) paretoFront(study, grid);
  if (grid.children.length) section("Objective over trials", grid);
}

function paretoFront(study, grid) {
  const done = study.trials.filter((t) => t.values && t.values.every(finite));
  const point = (t) => [t.values[0], t.values[1], t.number, study.describe(t)];
  chart(grid, "Pareto front", { x: study.objectives[0], y: study.objectives[1] }, [
    { label: "other trials", color: "mark", dot: 6, points: done.filter((t) => !study.isBest(t)).map(point) },
    { label: "Pareto set", color: "good", dot: 8, line: "line",
      points: done.filter(study.isBest).map(point).sort((a, b) => a[0] - b[0]) },
  ], { height: 280 });
}

function parameters(study) {
  const done = study.trials.filter((t) => t.values && finite(t.values[0]));
  const middle = done.length ? done[Math.floor((done.length - 1) / 2)].number : 0;
  const grid = make("div", { className: "grid" });
  study.parameters.slice(0, 24).forEach((parameter, k) => {
    if (!study.varied(k)) return; // what did not vary says nothing
    const having = done.filter((t) => t.params[k] !== null);
    const x = (t) => (parameter.numeric
      ? t.params[k]
      : t.params[k] + (((t.number * 0.618) % 1) - 0.5) * 0.36); // apart, so that each is seen
    const point = (t) => [x(t), t.values[0], t.number, `${study.describe(t)}\n${parameter.name} = ${study.setting(t, k)}`];
    const axes = { x: parameter.log ? `${parameter.name} (log)` : parameter.name, y: study.objectives[0],
      logX: parameter.log, choices: parameter.numeric ? null : parameter.choices, direction: study.directions[0] };
    const curve = study.model?.curves[parameter.name];
    const others = having.filter((t) => !study.isBest(t));
    const later = (t) => t.number > middle;
    chart(grid, parameter.name, axes, [
      { color: "mark", dot: 5, hollow: true, points: others.filter((t) => !later(t)).map(point) },
      { color: "mark", dot: 5, points: others.filter(later).map(point) },
      { color: "good", dot: 9, points: having.filter(study.isBest).map(point) },
    ], { under: !curve ? null : parameter.numeric ? curveUnder(curve) : choicesUnder(curve, parameter.choices) });
  });
  if (!grid.children.length) return;
  const order = done.length >= 10 ? " Those that explain most of it come first." : "";
  const fitted = study.model ? " The line is what the model expects, averaged over the other parameters, with its 90 % interval." : "";
  section("Parameters against objective", make("p", { className: "lead" }, `The best in green, the later half of the trials filled.${order}${fitted}`), grid);
}

function curves(study) {
  const { shown, of, by_share: byShare } = study.curves;
  if (!shown.length) return;
  const best = new Set(study.best);
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
  chart(grid, study.objectives[0], { x, y: study.objectives[0], direction: study.directions[0] }, [...ordered.map((c) => group(c, look(c))), ...ends], { height: 340 });
  const note = of > shown.length ? make("p", { className: "lead" }, `${shown.length} of ${of}: the best and the newest`) : null;
  const stopped = shown.filter((c) => c.state === "pruned" || c.state === "failed");
  const list = stopped.length ? make("details", {},
    make("summary", {}, `${stopped.length} stopped or failed: why`),
    make("ul", {}, ...stopped.map((c) => {
      const at = c.points[c.points.length - 1][0];
      return make("li", {}, `trial ${c.trial}, at ${show(at)}${byShare ? " %" : ""}: ${c.reason || c.state}`);
    }))) : null;
  section("Learning curves", note, grid, list);
}

function failed(study) {
  if (!study.failures.length) return;
  section("What failed", ...study.failures.map((f) => make("details", {},
    make("summary", {}, make("b", {}, `${f.trials.length} \u00d7`), f.reason),
    make("p", { className: "soft" }, `trials ${f.trials.slice(0, 50).join(", ")}${f.trials.length > 50 ? ", ..." : ""}`),
    f.common ? make("p", {}, f.common) : null,
    f.detail ? make("pre", { tabIndex: 0, textContent: f.detail }) : null)));
}
