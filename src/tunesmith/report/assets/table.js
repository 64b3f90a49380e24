// The table of trials: sorted by a column, filtered by state and by the selection in the parallel coordinates.
const view = { column: 0, sign: 1, state: "", most: 200, selected: { ranges: {}, trials: null } }; // kept over redraws

function trialTable(study) {
  const { trials } = study;
  const columns = [
    { name: "trial", of: (t) => t.number },
    { name: "state", of: (t) => t.state },
    ...study.objectives.map((name, k) => ({ name, of: (t) => (t.values ? t.values[k] : null) })),
    ...study.parameters.map((p, k) => ({ name: p.name, of: (t) => t.params[k], text: (t) => study.setting(t, k) })),
    { name: "time", of: (t) => t.seconds, text: (t) => duration(t.seconds) },
    { name: "why it ended, or was tried", of: (t) => t.reason, wide: true },
  ];
  if (Object.keys(study.notes).length) columns.push({ name: "note", of: (t) => study.notes[t.number] ?? null, wide: true });
  const body = make("tbody");
  const more = make("button", { type: "button" });
  const count = make("span", { className: "soft", "aria-live": "polite" });
  const choice = make("select", { "aria-label": "state" });

  function compare(a, b) {
    if (a === b) return 0;
    if (a === null || a === "") return 1; // what is missing stays at the end
    if (b === null || b === "") return -1;
    if (typeof a === "number" && typeof b === "number") return view.sign * (a - b);
    return view.sign * String(a).localeCompare(String(b));
  }

  function fill() {
    const { of } = columns[view.column] ?? columns[0];
    const chosen = view.selected.trials;
    const rows = trials.filter((t) => (!view.state || t.state === view.state) && (!chosen || chosen.has(t.number)));
    rows.sort((a, b) => compare(of(a), of(b)));
    body.replaceChildren(...rows.slice(0, view.most).map((t) => {
      const cells = columns.map((c) => {
        const text = c.text ? c.text(t) : show(c.of(t));
        return make("td", { textContent: text, className: c.wide ? "text" : "", title: c.wide ? text : "" });
      });
      const row = make("tr", { className: study.isBest(t) ? "best" : t.state }, ...cells);
      row.dataset.trial = t.number;
      return row;
    }));
    more.hidden = rows.length <= view.most;
    more.textContent = `Show all ${rows.length}`;
    count.textContent = rows.length < trials.length ? `${rows.length} of ${trials.length}` : "";
  }

  study.fill = fill;
  study.find = (number) => {
    if (!body.querySelector(`tr[data-trial="${number}"]`)) {
      Object.assign(view, { state: "", most: Infinity });
      view.selected.trials = null;
      choice.value = "";
      fill();
    }
    const row = body.querySelector(`tr[data-trial="${number}"]`);
    for (const other of body.querySelectorAll(".found")) other.classList.remove("found");
    row.classList.add("found");
    row.scrollIntoView({ block: "center" });
  };
  study.table = () => {
    if (!trials.length) return;
    choice.append(make("option", { value: "" }, "all states"));
    for (const state of new Set(trials.map((t) => t.state))) choice.append(make("option", { value: state }, state));
    choice.value = view.state;
    choice.addEventListener("change", () => { view.state = choice.value; fill(); });
    more.addEventListener("click", () => { view.most = Infinity; fill(); });
    const head = columns.map((c, k) => {
      const button = make("button", { type: "button", textContent: c.name });
      const cell = make("th", { scope: "col" }, button);
      if (k === view.column) cell.setAttribute("aria-sort", view.sign > 0 ? "ascending" : "descending");
      button.addEventListener("click", () => {
        Object.assign(view, { column: k, sign: view.column === k ? -view.sign : 1 });
        for (const other of cell.parentNode.children) other.removeAttribute("aria-sort");
        cell.setAttribute("aria-sort", view.sign > 0 ? "ascending" : "descending");
        fill();
      });
      return cell;
    });
    fill();
    section(`Trials (${trials.length})`, make("div", { className: "tools" }, choice, more, count),
      make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "all trials" },
        make("table", {}, make("thead", {}, make("tr", {}, ...head)), body)));
  };
}
