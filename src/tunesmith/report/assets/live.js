// Draws the study that stands in the page; where a dashboard serves it, draws it again whenever it changes.
const live = document.documentElement.dataset.live === "true";
let opened = new Set(); // what the reader has unfolded stays so

// what is asked first is drawn first; `later` runs the rest
function render(data, later = (rest) => rest()) {
  const study = read(data);
  const at = scrollY;
  opened = new Set([...main.querySelectorAll("details[open] > summary")].map((s) => s.textContent));
  drawings.forEach((d) => d.end?.());
  drawings = [];
  main.replaceChildren();
  study.redraw = () => render(data);
  trialTable(study); // before what points to its rows
  render.find = study.find;
  header(study);
  if (live) actions(study, data);
  progressOverTrials(study);
  drawings.forEach((d) => d());
  document.title = `${study.name} - tunesmith`;
  later(() => {
    const drawn = drawings.length;
    importances(study);
    parameters(study);
    planes(study);
    parallel(study, view.selected, () => study.fill());
    curves(study);
    failed(study);
    timeline(study);
    study.table();
    drawings.slice(drawn).forEach((d) => d());
    for (const summary of main.querySelectorAll("details > summary")) summary.parentNode.open = opened.has(summary.textContent);
    scrollTo(0, at);
  });
}

async function ask(action, details = {}) {
  try {
    const answer = await fetch("actions", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ action, ...details }),
    });
    return (await answer.json()).message;
  } catch (error) {
    return `the dashboard does not answer: ${error.message}`;
  }
}

function actions(study, data) {
  const said = make("span", { className: "soft", role: "status", textContent: render.said ?? "" });
  const say = (text) => { render.said = text; said.textContent = text; };
  const button = (text, act) => {
    const node = make("button", { type: "button", textContent: text });
    node.addEventListener("click", async () => say(await act()));
    return node;
  };
  const trial = make("input", { type: "number", min: 0, size: 5, "aria-label": "trial", placeholder: "trial", value: view.trial ?? "" });
  const text = make("input", { type: "text", "aria-label": "note, or NAME=VALUE ... to try", placeholder: "note, or lr=1e-4 ... to try", value: view.text ?? "" });
  trial.addEventListener("input", () => { view.trial = trial.value; });
  text.addEventListener("input", () => { view.text = text.value; });
  main.append(make("div", { className: "tools", role: "group", "aria-label": "actions" },
    make("span", { textContent: data.activity === "running" ? "\u25cf running" : data.activity, className: data.activity }),
    data.activity === "running" ? button("Stop", () => ask("stop")) : null,
    trial, button("Retry trial", () => ask("retry", { trial: Number(trial.value) })),
    text, button("Try these", () => ask("enqueue", { values: text.value.split(/\s+/).filter(Boolean) })),
    button("Note on trial", () => ask("note", { trial: Number(trial.value), text: text.value })), said));
}

// on paper: light, as wide as a page, everything unfolded
let unfolded = [];
function paper(on) {
  if (on === document.documentElement.classList.contains("paper")) return;
  document.documentElement.classList.toggle("paper", on);
  if (on) unfolded = [...main.querySelectorAll("details:not([open])")];
  for (const d of unfolded) d.open = on;
  drawings.forEach((d) => d());
}

addEventListener("beforeprint", () => paper(true));
addEventListener("afterprint", () => paper(false));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawings.forEach((d) => d()));
render(JSON.parse(document.getElementById("study").textContent), (rest) => setTimeout(() => {
  rest();
  document.documentElement.dataset.ready = "true";
  if (live) follow();
}, 16)); // the first part is painted meanwhile

function follow() {
  const source = new EventSource("events");
  let waiting = null;
  source.onmessage = (event) => {
    const focused = document.activeElement?.tagName === "INPUT"; // not under the reader's hands
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      const data = JSON.parse(event.data);
      if (data.error) main.prepend(make("p", { role: "alert", textContent: data.error }));
      else render(data);
    }, focused ? 5000 : 0);
  };
}
