// Charts by uPlot: points and lines, with a tip at the nearest point; a click finds the trial in the table.
let drawings = []; // drawn again when the colours change

// groups: [{label, color, points: [[x, y, trial, text]], line, dash, dot}]; `under` paints below them
function chart(parent, title, axes, groups, { height = 230, crosses = [], under = null } = {}) {
  const shown = groups
    .map((g) => ({ ...g, points: g.points.filter(([x, y]) => finite(x) && finite(y) && (!axes.logX || x > 0)) }))
    .filter((g) => g.points.length);
  if (!shown.length) return;
  const beyond = axes.direction ? heldBack(shown, axes.direction) : 0;
  const caption = make("figcaption", {}, title);
  for (const g of shown.filter((g) => g.label)) {
    const spot = make("i");
    drawings.push(() => { spot.style.background = color(g.color); });
    caption.append(make("span", {}, spot, g.label));
  }
  if (crosses.length) caption.append(make("span", {}, "\u00d7 failed"));
  if (beyond) caption.append(make("span", {}, `${beyond} beyond the edge`));
  const tip = make("div", { className: "tip", hidden: true });
  const place = make("div", { className: "plot", role: "img", "aria-label": `${title}: ${axes.y} against ${axes.x}` });
  parent.append(make("figure", {}, caption, place));
  place.style.height = `${height}px`;
  let plot = null;
  const paint = () => {
    if (plot) plot.destroy();
    const width = Math.max(place.clientWidth, 200);
    plot = new uPlot(options(axes, shown, crosses, { width, height, tip, under }), columnsOf(shown), place);
    plot.over.append(tip);
  };
  const watch = new ResizeObserver(() => {
    if (plot && place.clientWidth && plot.width !== place.clientWidth) {
      plot.setSize({ width: place.clientWidth, height });
    }
  });
  watch.observe(place);
  paint.end = () => { watch.disconnect(); plot?.destroy(); };
  drawings.push(paint);
}

// values far worse than most would leave the others no room: they are held at the edge; how many they are
function heldBack(groups, direction) {
  const sign = direction === "minimize" ? 1 : -1;
  const losses = groups.flatMap((g) => g.points.map((p) => sign * p[1])).sort((a, b) => a - b);
  const usual = losses[Math.floor(0.75 * (losses.length - 1))];
  const limit = usual + 4 * (usual - losses[0]);
  if (losses.length < 8 || limit === losses[0] || losses[losses.length - 1] <= limit) return 0;
  for (const g of groups) g.points = g.points.map(([x, y, ...rest]) => [x, sign * Math.min(sign * y, limit), ...rest]);
  return losses.filter((v) => v > limit).length;
}

// uPlot wants one sorted x for all series, with gaps where a series has no point
function columnsOf(groups) {
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

function options(axes, groups, crosses, { width, height, tip, under }) {
  const ys = groups.flatMap((g) => g.points.map((p) => p[1]));
  const low = Math.min(...ys);
  const logY = axes.logY ?? (low > 0 && Math.max(...ys) / low > 100);
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
      drawClear: [(u) => { if (under) clipped(u, under); }],
      draw: [(u) => crossAt(u, crosses)],
      setCursor: [(u) => { const p = nearest(u, groups); showTip(u, tip, p); }],
      ready: [(u) => {
        u.over.addEventListener("mouseleave", () => { tip.hidden = true; });
        u.over.addEventListener("click", () => { const p = nearest(u, groups); if (p) render.find(p[2]); });
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

function clipped(u, paint) {
  const { ctx, bbox } = u;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  paint(u, ctx, (x) => u.valToPos(x, "x", true), (y) => u.valToPos(y, "y", true));
  ctx.restore();
}

// a fitted curve with its interval
function curveUnder({ x, mean, low, high }) {
  return (u, ctx, px, py) => {
    ctx.fillStyle = color("band");
    ctx.beginPath();
    x.forEach((v, k) => ctx.lineTo(px(v), py(high[k])));
    for (let k = x.length - 1; k >= 0; k -= 1) ctx.lineTo(px(x[k]), py(low[k]));
    ctx.fill();
    ctx.strokeStyle = color("soft");
    ctx.lineWidth = 1.5 * devicePixelRatio;
    ctx.beginPath();
    x.forEach((v, k) => ctx.lineTo(px(v), py(mean[k])));
    ctx.stroke();
  };
}

// what is expected of each option of a choice, with its interval
function choicesUnder({ x, mean, low, high }, choices) {
  return (u, ctx, px, py) => x.forEach((option, k) => {
    const at = choices.indexOf(option);
    if (at < 0) return;
    const [from, to] = [px(at - 0.32), px(at + 0.32)];
    ctx.fillStyle = color("band");
    ctx.fillRect(from, py(high[k]), to - from, py(low[k]) - py(high[k]));
    ctx.fillStyle = color("soft");
    ctx.fillRect(from, py(mean[k]) - 0.75 * devicePixelRatio, to - from, 1.5 * devicePixelRatio);
  });
}

// how far noise alone reaches about the best so far
function noiseUnder(line, reach) {
  return (u, ctx, px, py) => {
    ctx.fillStyle = color("noise");
    line.forEach(([x, y], k) => {
      const to = k + 1 < line.length ? line[k + 1][0] : u.scales.x.max;
      ctx.fillRect(px(x), Math.min(py(y + reach), py(y - reach)), px(to) - px(x), Math.abs(py(y - reach) - py(y + reach)));
    });
  };
}

// a map of expected values: the better the stronger
function mapUnder({ x, y, mean }, sign) {
  const all = mean.flat().map((v) => sign * v);
  const low = Math.min(...all);
  const span = Math.max(...all) - low || 1;
  const edges = (at, to) => {
    const p = at.map(to).map(Math.round);
    const between = p.slice(1).map((v, k) => Math.round((v + p[k]) / 2));
    return [2 * p[0] - between[0], ...between, 2 * p[p.length - 1] - between[between.length - 1]];
  };
  return (u, ctx, px, py) => {
    const ex = edges(x, px);
    const ey = edges(y, py);
    ctx.fillStyle = color("mark");
    mean.forEach((row, j) => row.forEach((v, i) => {
      ctx.globalAlpha = 0.55 * (1 - (sign * v - low) / span) ** 1.5;
      ctx.fillRect(ex[i], Math.min(ey[j], ey[j + 1]), ex[i + 1] - ex[i], Math.abs(ey[j + 1] - ey[j]));
    }));
    ctx.globalAlpha = 1;
  };
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

