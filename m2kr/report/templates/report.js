"use strict";
// Every text from outside is set as text, never as markup; files of data come in through `m2kr`.

const report = JSON.parse(document.getElementById("data").textContent);
const $ = (selector, within = document) => within.querySelector(selector);
const PRIMARY = "primary";
const number = new Intl.NumberFormat("en");
const count = (n, noun, nouns = noun + "s") => `${number.format(n)} ${n === 1 ? noun : nouns}`;
// Three places as Python rounds them: of two equally near, which only sixteenths have, the even one.
const thousandths = value =>
  (Math.abs(value * 16 % 2) === 1 ? 2 * Math.round(value * 500) / 1000 : value).toFixed(3);
const score = value => thousandths(value).replace(/^(-?)0\./, "$1.").replace("-", "−");
const metricNames = report.metrics.map(metric => metric.name);
const metricLabel = name => report.metrics.find(metric => metric.name === name)?.label ?? name;

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter(child => child !== null && child !== undefined && typeof child !== "boolean"));
  return node;
}
const h = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const text = (x, y, words, attributes) => svg("text", {x, y, ...attributes}, words);

const fill = (node, ...children) => { node.replaceChildren(); return build(node, {}, children); };

function select(label, options, value, change, attributes) {
  const list = h("select", {onchange: event => change(event.target.value), ...attributes},
    options.map(([key, name]) => h("option", {value: key}, name)));
  list.value = value;
  return h("label", {class: "choice"}, h("span", {}, label), list);
}

/* ---- the scores ---- */

const state = {metric: PRIMARY, column: 0, off: new Set()};
const narrow = matchMedia("(max-width: 859px)");
const nameIn = (column, metric) => metric === PRIMARY ? column.primary : metric;
function valueOf(column, system, metric = state.metric) {
  const result = column.results[system];
  return result ? result.values[metricNames.indexOf(nameIn(column, metric))] ?? null : null;
}
const full = column => 1e9 * column.results.filter(Boolean).length + column.queries;
state.column = report.columns.reduce((most, column, place) => full(column) > full(report.columns[most]) ? place : most, 0);
const systemsOn = column => report.systems.map((_, system) => system).filter(system => column.results[system]);
function mean(system) {
  const values = report.columns.map(column => valueOf(column, system));
  return values.every(value => value) ? values.reduce((sum, value) => sum + value[0], 0) / values.length : null;
}
function lettersOf(column, system, metric) {
  return column.letters[nameIn(column, metric)]?.[report.systems[system]] ?? "";
}
const dot = system => h("i", {class: `dot c${system % 12}`, "aria-hidden": "true"});
const best = values => Math.max(...values.filter(value => value !== null));

function scoreTable() {
  const single = report.columns.length === 1;
  const only = report.columns[0];
  const shown = single
    ? [...new Set([nameIn(only, state.metric), ...report.shown])].filter(name => systemsOn(only).some(s => valueOf(only, s, name)))
    : null;
  const cells = single
    ? shown.map(name => ({title: metricLabel(name), sub: "", of: system => valueOf(only, system, name), letters: system => lettersOf(only, system, name)}))
    : report.columns.map(column => ({
        title: column.label,
        sub: metricLabel(nameIn(column, state.metric)),
        link: `#${encodeURIComponent(column.key)}/`,
        of: system => valueOf(column, system),
        letters: system => lettersOf(column, system, state.metric),
      }));
  const tops = cells.map(cell => best(report.systems.map((_, system) => cell.of(system)?.[0] ?? null)));
  const means = report.systems.map((_, system) => single ? null : mean(system));
  const tested = cells.some(cell => report.systems.some((_, system) => cell.letters(system)));
  const withMean = means.some(value => value !== null) && report.columns.length > 1;
  return h("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "Scores"},
    h("table", {class: cells.length > 7 ? "scores many" : "scores"},
      h("thead", {}, h("tr", {}, h("th", {scope: "col"}, "System"),
        cells.map(cell => h("th", {scope: "col", class: "n"},
          cell.link ? h("a", {href: cell.link, title: "See its queries"}, cell.title) : cell.title,
          cell.sub && h("small", {}, cell.sub))),
        withMean && h("th", {scope: "col", class: "n"}, "Mean", h("small", {}, "of splits")))),
      h("tbody", {}, report.systems.map((name, system) => h("tr", {},
        h("th", {scope: "row"}, dot(system), h("bdi", {}, name)),
        cells.map((cell, place) => {
          const value = cell.of(system);
          if (!value) return h("td", {class: "n none"}, "–");
          return h("td", {class: "n" + (value[0] === tops[place] ? " best" : "")},
            h("b", {}, score(value[0])), tested && h("sup", {}, cell.letters(system)),
            h("small", {}, `${score(value[1])} – ${score(value[2])}`));
        }),
        withMean && h("td", {class: "n" + (means[system] === best(means) ? " best" : "")},
          means[system] === null ? "–" : h("b", {}, score(means[system]))))))));
}

/* ---- the plots ---- */

const MARKS = [
  (x, y) => svg("circle", {cx: x, cy: y, r: 4.5}),
  (x, y) => svg("rect", {x: x - 4, y: y - 4, width: 8, height: 8}),
  (x, y) => svg("path", {d: `M${x} ${y - 5.5}l5.2 9.2h-10.4z`}),
  (x, y) => svg("path", {d: `M${x} ${y - 5.5}l5.5 5.5l-5.5 5.5l-5.5 -5.5z`}),
];
const mark = (system, x, y) => build(MARKS[Math.floor(system / 4) % 4](x, y), {class: `mark c${system % 12}`}, []);
const DASHES = ["", "6 3", "2 3"];

function figure(title, sub, content, more) {
  return h("figure", {class: more}, h("figcaption", {}, h("h3", {}, title), sub && h("p", {}, sub)), content);
}

function drawing(width, height, label, ...children) {
  return svg("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, class: "plot"}, children);
}

const tick = value => value === 0 ? "0" : value.toFixed(2).replace(/^0\./, ".");
function niceEnd(value) {
  return [.05, .1, .2, .3, .4, .5, .6, .8, 1].find(end => end >= value) ?? value;
}

function bars(column) {
  const systems = systemsOn(column).filter(system => valueOf(column, system));
  const order = [...systems].sort((a, b) => valueOf(column, b)[0] - valueOf(column, a)[0]);
  const metric = metricLabel(nameIn(column, state.metric));
  const end = Math.max(.05, ...systems.map(system => valueOf(column, system)[2]));
  const scale = value => `${100 * Math.max(0, value) / end}%`;
  return h("section", {class: "bars"},
    h("h4", {}, column.label, h("small", {}, `${metric}; line: 95 % interval`)),
    h("ul", {}, order.map(system => {
      const [value, low, high] = valueOf(column, system);
      const track = h("div", {class: "track", "aria-hidden": "true"}, h("i", {class: "bar"}), h("i", {class: "whisker"}));
      track.firstChild.style.width = scale(value);
      track.lastChild.style.left = scale(low);
      track.lastChild.style.width = scale(high - low);
      return h("li", {}, h("bdi", {title: report.systems[system]}, report.systems[system]), track,
        h("span", {class: "figure"}, score(value)));
    })));
}

function legend(systems) {
  return h("ul", {class: "legend"}, systems.map(system => h("li", {}, h("button", {
    type: "button", "aria-pressed": String(!state.off.has(system)),
    onclick: () => { state.off.has(system) ? state.off.delete(system) : state.off.add(system); drawPlots(system); },
    "data-system": system,
  }, svg("svg", {viewBox: "0 0 14 14", "aria-hidden": "true"}, mark(system, 7, 7)), h("bdi", {}, report.systems[system])))));
}

function radar() {
  const columns = report.columns.filter(column => systemsOn(column).some(system => valueOf(column, system)));
  if (columns.length < 3) return null;
  const systems = report.systems.map((_, system) => system).filter(system => columns.filter(column => valueOf(column, system)).length > 2);
  const size = narrow.matches ? 400 : 460, centre = size / 2, radius = narrow.matches ? 118 : 148;
  const angle = place => 2 * Math.PI * place / columns.length - Math.PI / 2;
  const point = (place, share) => [centre + radius * share * Math.cos(angle(place)), centre + radius * share * Math.sin(angle(place))];
  const ends = columns.map(column => niceEnd(best(systems.map(system => valueOf(column, system)?.[0] ?? null))));
  const ring = share => svg("polygon", {class: "grid", points: columns.map((_, place) => point(place, share).join()).join(" ")});
  const names = columns.map((column, place) => {
    const [x, y] = point(place, 1.13);
    const side = Math.cos(angle(place));
    const anchor = Math.abs(side) < .3 ? "middle" : side > 0 ? "start" : "end";
    const label = column.label.length > 14 ? column.label.slice(0, 13) + "…" : column.label;
    return [text(x, y, label, {"text-anchor": anchor, class: "name"}),
      text(x, y + 14, `0 – ${ends[place].toString().replace(/^0/, "")}`, {"text-anchor": anchor, class: "tick"})];
  });
  const lines = systems.filter(system => !state.off.has(system)).map(system => {
    const values = columns.map(column => valueOf(column, system)?.[0] ?? null);
    const points = values.map((value, place) => value === null ? null : point(place, value / ends[place]));
    const whole = points.every(each => each);
    const d = points.map((each, place) => each ? `${place && points[place - 1] ? "L" : "M"}${each.map(v => v.toFixed(1)).join(" ")}` : "").join("") + (whole ? "Z" : "");
    return svg("g", {class: `line c${system % 12}`}, svg("path", {d, "stroke-dasharray": DASHES[Math.floor(system / 4) % 3]}),
      points.map(each => each && mark(system, ...each)), svg("title", {}, report.systems[system]));
  });
  return figure("Across splits", "Each axis is a split with a scale of its own, from 0 at the centre.",
    [drawing(size, size - 40, "Radar of scores, an axis a split; the table above has the numbers",
      svg("g", {transform: `translate(0 ${columns.length === 3 ? 14 : -16})`}, [.25, .5, .75, 1].map(ring),
        columns.map((_, place) => svg("line", {class: "grid", x1: centre, y1: centre, x2: point(place, 1)[0], y2: point(place, 1)[1]})), names, lines)),
    legend(systems)], "tall");
}

// Ends of lines labelled beside them, moved apart where they would overlap.
function labels(items, x, top, bottom) {
  const gap = 15;
  const sorted = [...items].sort((a, b) => a.y - b.y);
  sorted.forEach((item, place) => { item.at = Math.max(item.y, place ? sorted[place - 1].at + gap : top); });
  let limit = bottom;
  for (const item of sorted.reverse()) { item.at = Math.min(item.at, limit); limit = item.at - gap; }
  return sorted.map(item => [
    svg("path", {class: "leader", d: `M${item.x} ${item.y}L${x - 4} ${item.at}`}),
    text(x, item.at + 4, shortened(report.systems[item.system], 18), {class: `name c${item.system % 12}`}),
  ]);
}
const shortened = (words, most) => words.length > most ? words.slice(0, most - 1) + "…" : words;

function curve(column) {
  const systems = systemsOn(column).filter(system => !state.off.has(system));
  const stem = nameIn(column, state.metric).split("@")[0];
  const chosen = name => name.startsWith(stem + "@");
  const points = system => metricNames.map((name, place) => [Number(name.split("@")[1]), chosen(name) ? column.results[system].values[place]?.[0] ?? null : null])
    .filter(([k, value]) => k && value !== null).sort((a, b) => a[0] - b[0]);
  const series = systems.map(system => ({system, points: points(system)})).filter(one => one.points.length > 1);
  if (!series.length) return null;
  const ks = [...new Set(series.flatMap(one => one.points.map(([k]) => k)))].sort((a, b) => a - b);
  const width = narrow.matches ? 360 : 560, height = 330, left = 34, right = width - 150, top = 14, bottom = 290;
  const x = k => left + (right - left) * Math.log(k / ks[0]) / Math.log(ks.at(-1) / ks[0] || 2);
  const end = niceEnd(Math.max(...series.flatMap(one => one.points.map(([, value]) => value))));
  const y = value => bottom - (bottom - top) * value / end;
  const ticks = [0, .25, .5, .75, 1].map(share => share * end);
  return figure(`${metricLabel(`${stem}@5`).replace(/@5/, "@K")} by K`, column.label,
    drawing(width, height, "Score by cut-off K",
      ticks.map(value => [svg("line", {class: "grid", x1: left, x2: right, y1: y(value), y2: y(value)}),
        text(left - 8, y(value) + 4, tick(value), {"text-anchor": "end", class: "tick"})]),
      ks.filter((k, place) => !place || x(k) - x(ks[place - 1]) > 21 || k === ks.at(-1)).map(k => text(x(k), bottom + 20, k, {"text-anchor": "middle", class: "tick"})),
      text((left + right) / 2, bottom + 38, "K", {"text-anchor": "middle", class: "tick"}),
      series.map(one => svg("g", {class: `line c${one.system % 12}`},
        svg("path", {d: one.points.map(([k, value], place) => `${place ? "L" : "M"}${x(k).toFixed(1)} ${y(value).toFixed(1)}`).join(""),
          "stroke-dasharray": DASHES[Math.floor(one.system / 4) % 3]}),
        one.points.map(([k, value]) => mark(one.system, x(k), y(value))), svg("title", {}, report.systems[one.system]))),
      labels(series.map(one => ({system: one.system, x: x(one.points.at(-1)[0]) + 6, y: y(one.points.at(-1)[1])})), right + 18, top, bottom)));
}

const COSTS = {
  seconds: {name: "seconds a query", unit: power => ({"-6": "1 µs", "-5": "10 µs", "-4": "100 µs", "-3": "1 ms", "-2": "10 ms", "-1": "100 ms"})[power] ?? `${number.format(10 ** power)} s`},
  cpu_seconds: {name: "CPU seconds a query", unit: power => COSTS.seconds.unit(power)},
  passages: {name: "passages a second", unit: power => power < 0 ? String(10 ** power) : number.format(10 ** power)},
  bytes: {name: "bytes a passage", unit: power => power < 3 ? `${10 ** power} B` : power < 6 ? `${10 ** (power - 3)} kB` : `${number.format(10 ** (power - 6))} MB`},
};
function cost(column) {
  const scored = systemsOn(column).filter(system => valueOf(column, system));
  const kinds = Object.keys(COSTS).filter(kind => scored.some(system => column.results[system].costs[kind]));
  if (!kinds.length) return null;
  const kind = kinds.includes(state.cost) ? state.cost : kinds[0];
  const of = system => column.results[system].costs[kind];
  const lacking = scored.filter(system => !of(system));
  const systems = scored.filter(system => of(system) && !state.off.has(system));
  const width = narrow.matches ? 360 : 560, height = 330, left = 34, right = width - 24, top = 14, bottom = 284;
  const powers = systems.map(system => Math.log10(of(system)));
  const first = Math.floor(Math.min(...powers) - .05), last = Math.max(first + 1, Math.ceil(Math.max(...powers) + .05));
  const x = value => left + (right - left) * (Math.log10(value) - first) / (last - first);
  const end = niceEnd(Math.max(...systems.map(system => valueOf(column, system)[0])));
  const y = value => bottom - (bottom - top) * value / end;
  const each = Math.ceil((last - first) / (narrow.matches ? 4 : 7));
  const marks = Array.from({length: last - first + 1}, (_, place) => first + place).filter(power => (power - first) % each === 0);
  const taken = [];
  const name = system => {
    const [px, py] = [x(of(system)), y(valueOf(column, system)[0])];
    const words = shortened(report.systems[system], 26), wide = words.length * 7;
    const after = px + 12 + wide < right + 20;
    const start = after ? px + 10 : px - 10 - wide;
    let at = py + 4;
    for (let tries = 0; tries < 12 && taken.some(box => Math.abs(box[1] - at) < 14 && box[0] < start + wide && start < box[0] + box[2]); tries++) at -= 14;
    taken.push([start, at, wide]);
    return text(after ? start : px - 10, at, words, {class: `name c${system % 12}`, "text-anchor": after ? "start" : "end"});
  };
  return figure("Score by cost", `${column.label}, ${metricLabel(nameIn(column, state.metric))}; each on the machine that it ran on.`, [
    kinds.length > 1 && select("Cost", kinds.map(each => [each, COSTS[each].name]), kind, value => { state.cost = value; drawPlots(); $("#cost").focus(); }, {id: "cost"}),
    systems.length ? drawing(width, height, `Score by ${COSTS[kind].name}`,
      [0, .25, .5, .75, 1].map(share => share * end).map(value => [svg("line", {class: "grid", x1: left, x2: right, y1: y(value), y2: y(value)}),
        text(left - 8, y(value) + 4, tick(value), {"text-anchor": "end", class: "tick"})]),
      marks.map(power => [svg("line", {class: "grid", x1: x(10 ** power), x2: x(10 ** power), y1: top, y2: bottom}),
        text(x(10 ** power), bottom + 20, COSTS[kind].unit(power), {"text-anchor": "middle", class: "tick"})]),
      text((left + right) / 2, bottom + 40, COSTS[kind].name, {"text-anchor": "middle", class: "tick"}),
      systems.map(system => svg("g", {}, mark(system, x(of(system)), y(valueOf(column, system)[0])), svg("title", {}, report.systems[system]))),
      systems.map(name)) : null,
    lacking.length ? h("p", {class: "soft under"}, `Not known of ${lacking.map(system => report.systems[system]).join(", ")}.`) : null]);
}

function drawPlots(focused) {
  const column = report.columns[state.column];
  $("#plot-area").replaceChildren(...[radar(), curve(column), cost(column)].filter(Boolean));
  if (focused !== undefined) $(`.legend [data-system="${focused}"]`)?.focus();
}

/* ---- groups and notes ---- */

function groupTable(column, group) {
  const metric = metricNames.indexOf(nameIn(column, state.metric));
  return h("div", {class: "group"}, h("h3", {}, group.name, h("small", {}, `${column.label}, ${metricLabel(nameIn(column, state.metric))}`)),
    h("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": `Scores by ${group.name}`}, h("table", {class: "scores heat"},
      h("thead", {}, h("tr", {}, h("th", {scope: "col"}, "System"),
        group.values.map((value, place) => h("th", {scope: "col", class: "n"}, h("bdi", {}, value), h("small", {}, count(group.sizes[place], "query", "queries")))))),
      h("tbody", {}, systemsOn(column).map(system => h("tr", {}, h("th", {scope: "row"}, dot(system), h("bdi", {}, report.systems[system])),
        group.values.map((_, place) => {
          const value = group.scores[system]?.[place]?.[metric] ?? null;
          const cell = h("td", {class: "n"}, value === null ? "–" : score(value));
          if (value !== null) cell.style.setProperty("--share", `${Math.round(Math.max(0, Math.min(1, value)) * 26)}%`);
          return cell;
        })))))),
    group.left_out > 0 && h("p", {class: "soft"}, `${count(group.left_out, "smaller group")} left out; result files have them.`));
}

function drawReport() {
  const column = report.columns[state.column];
  $("#table-area").replaceChildren(scoreTable());
  $("#letters-note").textContent = $("#table-area sup") ? "Systems of a column that share a letter can’t be told apart: paired randomisation tests over its queries, Holm’s correction for all pairs, 5 %." : "";
  $("#bars-area").classList.toggle("one", report.columns.length === 1);
  $("#bars-area").replaceChildren(...report.columns.filter(each => systemsOn(each).some(system => valueOf(each, system))).map(bars));
  drawPlots();
  $("#group-area").replaceChildren(...column.groups.map(group => groupTable(column, group)),
    ...(column.groups.length ? [] : [h("p", {class: "soft"}, "The results of this split are not broken down by groups.")]));
}

function makeReport() {
  const systems = count(report.systems.length, "system"), columns = report.columns;
  const scored = metricNames.length > 0;
  const stems = [...new Set(metricNames.map(name => name.split("@")[0]))];
  const options = [[PRIMARY, columns.length > 1 ? "primary of each split" : `primary (${metricLabel(columns[0].primary)})`],
    ...stems.flatMap(stem => metricNames.filter(name => name.split("@")[0] === stem)
      .sort((a, b) => (Number(a.split("@")[1]) || 0) - (Number(b.split("@")[1]) || 0)).map(name => [name, metricLabel(name)]))];
  const facts = column => `${column.label}: ${count(column.queries, "query", "queries")}, ${count(column.passages, "passage")}, edition ${column.edition}${column.partial ? ", partial" : ""}`;
  build($("#report"), {}, [
    h("p", {class: "lead"}, `${systems} on ${count(columns.length, "split")}. `,
      columns.length < 3 ? columns.map(facts).join(" · ") : "", h("span", {class: "soft"}, ` m2kr ${report.version}`)),
    columns.some(column => column.partial) && h("p", {class: "warning"}, "Some of the data are a part of their source: their scores compare with nothing else."),
    !scored && h("p", {class: "warning"}, "Nothing here is judged, so there are no scores. The queries and what was retrieved for them can be looked at."),
    scored && h("div", {class: "toolbar"},
      select("Metric", options, state.metric, value => { state.metric = value; drawReport(); }, {id: "metric"}),
      columns.length > 1 && select("Split of curves and groups", columns.map((column, place) => [place, column.label]), state.column, value => { state.column = Number(value); drawReport(); }, {id: "split"})),
    scored && h("section", {id: "scores", "aria-label": "Scores"}, h("div", {id: "table-area"}),
      h("p", {class: "soft under"}, "Small: 95 % bootstrap interval over queries. ", h("span", {id: "letters-note"}))),
    scored && h("section", {id: "plots"}, h("h2", {}, "Plots"), h("div", {id: "bars-area"}), h("div", {id: "plot-area"})),
    scored && h("section", {id: "groups"}, h("h2", {}, "Groups"), h("div", {id: "group-area"})),
    h("section", {id: "notes"}, h("h2", {}, "Notes"),
      h("ul", {class: "notes"}, columns.length > 2 && columns.map(column => h("li", {}, facts(column))), report.notes.map(note => h("li", {}, h("bdi", {}, note)))))]);
  if (scored) drawReport();
  else for (const part of ["scores", "plots", "groups"]) $(`nav [data-part=${part}]`).remove();
}

/* ---- files of data ---- */

const files = new Map(), waiting = new Map();
window.m2kr = (name, value) => waiting.get(name)?.(value);
function load(name) {
  if (!files.has(name)) {
    files.set(name, new Promise((done, fail) => {
      waiting.set(name, done);
      const script = h("script", {src: `./${name}.js`, charset: "utf-8"});
      script.onload = () => script.remove();
      script.onerror = () => { script.remove(); files.delete(name); fail(new Error(`${name}.js, which belongs beside this page, can’t be read.`)); };
      document.head.append(script);
    }));
  }
  return files.get(name);
}

class Source {
  constructor(column) {
    this.column = column;
    this.folder = column.browser.folder;
    this.rows = [];
    this.texts = new Map();
    this.hits = new Map();
  }
  async open() {
    this.meta = await load(`${this.folder}/meta`);
    this.systems = this.column.browser.systems.map(name => report.systems.indexOf(name));
    this.present = this.systems.map((_, place) => place).filter(place => this.meta.depths[place] !== null);
    const blocks = Math.ceil(this.meta.count / this.meta.listed);
    const lists = await Promise.all(Array.from({length: blocks}, (_, block) => load(`${this.folder}/list-${block}`)));
    lists.forEach(list => list.id.forEach((id, place) => this.rows.push({
      id, number: this.rows.length, question: list.question[place] ?? "", instruction: this.meta.instructions[list.instruction[place]],
      answers: list.answers[place], image: list.image[place], judged: list.judged[place],
      filters: Object.fromEntries(Object.entries(list.filters).map(([name, values]) => [name, values[place]])),
      ranks: list.ranks.map(ranks => ranks[place]),
    })));
    this.byId = new Map(this.rows.map(row => [row.id, row]));
    return this;
  }
  async ranking(row) {
    const block = Math.floor(row.number / this.meta.ranked);
    const hits = await load(`${this.folder}/hits-${block}`);
    this.hits.set(block, hits);
    const start = (row.number % this.meta.ranked) * this.meta.k;
    const of = place => Array.from({length: this.meta.k}, (_, rank) => ({
      passage: hits.passages[place][start + rank], score: hits.scores[place][start + rank],
      mark: Number(hits.marks[place][start + rank]), rank: rank + 1,
    })).filter(hit => hit.passage >= 0);
    return {of, right: hits.right[row.number % this.meta.ranked]};
  }
  chunkOf(passage) {
    let low = 0, high = this.meta.texts.length;
    while (low + 1 < high) { const middle = (low + high) >> 1; this.meta.texts[middle] <= passage ? low = middle : high = middle; }
    return low;
  }
  async chunk(number) {
    const texts = await load(`${this.folder}/texts-${number}`);
    this.texts.set(number, texts);
    return texts;
  }
  async passage(passage) {
    const number = this.chunkOf(passage), texts = await this.chunk(number), place = passage - this.meta.texts[number];
    return {id: texts.id[place], title: texts.title[place], text: texts.text[place], image: texts.image[place], length: texts.length[place]};
  }
  async everything(told) {
    const blocks = Math.ceil(this.meta.count / this.meta.ranked), all = blocks + this.meta.texts.length;
    let done = 0;
    for (let block = 0; block < blocks; block++) { this.hits.set(block, await load(`${this.folder}/hits-${block}`)); told(++done / all); }
    for (let number = 0; number < this.meta.texts.length; number++) { await this.chunk(number); told(++done / all); }
  }
  // Rows whose shown passages hold some words, once all are loaded.
  holding(words) {
    const passages = new Set();
    for (const [number, texts] of this.texts) {
      texts.text.forEach((body, place) => {
        if (body.toLowerCase().includes(words) || texts.title[place].toLowerCase().includes(words)) passages.add(this.meta.texts[number] + place);
      });
    }
    const rows = new Set();
    if (passages.size) for (const [block, hits] of this.hits) {
      hits.passages.forEach(of => of.forEach((passage, place) => {
        if (passages.has(passage)) rows.add(block * this.meta.ranked + Math.floor(place / this.meta.k));
      }));
    }
    return rows;
  }
}

async function thumbnail(folder, image) {
  const chunk = await load(`${folder}/images-${Math.floor(image / 32)}`);
  return `data:image/jpeg;base64,${chunk[image % 32]}`;
}

// A picture's place, which is filled when its file has come.
function picture(folder, image, name, at) {
  if (image === -1) return null;
  const box = h("span", {class: `picture ${at}`});
  if (image < 0) box.append(h("span", {class: "lacking"}, image === -2 ? "image missing" : "image left out"));
  else {
    const img = h("img", {alt: name});
    box.append(img);
    thumbnail(folder, image).then(uri => { img.src = uri; }, () => img.replaceWith(h("span", {class: "lacking"}, "image missing")));
  }
  return box;
}

/* ---- answers in texts, as pseudo recall finds them ---- */

function spans(body, answers) {
  const lowered = body.toLowerCase(), found = [];
  for (const answer of new Set(answers.map(each => each.toLowerCase()))) {
    if (!answer) continue;
    for (let start = lowered.indexOf(answer); start >= 0; start = lowered.indexOf(answer, start + 1)) found.push([start, start + answer.length]);
  }
  if (lowered.length !== body.length) { // back to the characters that they came from
    const from = [], to = [];
    let place = 0;
    for (const char of body) {
      for (const _ of char.toLowerCase().split("")) { from.push(place); to.push(place + char.length); }
      place += char.length;
    }
    found.forEach(span => { span[1] = to[span[1] - 1]; span[0] = from[span[0]]; });
  }
  const joined = [];
  for (const [start, end] of found.sort((a, b) => a[0] - b[0] || a[1] - b[1])) {
    if (joined.length && start <= joined.at(-1)[1]) joined.at(-1)[1] = Math.max(joined.at(-1)[1], end);
    else joined.push([start, end]);
  }
  return joined;
}

function marked(body, answers) {
  const parts = [];
  let end = 0;
  for (const [start, stop] of spans(body, answers)) { parts.push(body.slice(end, start), h("mark", {}, body.slice(start, stop))); end = stop; }
  return [...parts, body.slice(end)];
}

/* ---- the query browser ---- */

const ROW = 76;
const sources = new Map();
const browser = {source: null, rows: [], at: -1, shown: [0, 1], filters: {}, words: "", find: "all", a: 0, b: 1, k: 5, everywhere: false};

function openSource(column) {
  if (!sources.has(column.key)) {
    const opening = new Source(column).open();
    sources.set(column.key, opening);
    opening.catch(() => sources.delete(column.key));
  }
  return sources.get(column.key);
}

const foundBy = (row, place) => row.ranks[place] > 0 && row.ranks[place] <= browser.k;
const FINDS = [
  ["all", "all queries"], ["missed", "missed by all"], ["some", "found by some, not all"], ["alone", "found by one alone"],
  ["hits", "found by all"], ["ab", "found by A, missed by B"], ["unjudged", "without judgements"],
];
function isShown(row) {
  if (browser.find === "unjudged") return !row.judged;
  if (browser.find === "all") return true;
  if (!row.judged) return false;
  if (browser.find === "ab") return foundBy(row, browser.a) && !foundBy(row, browser.b);
  const places = browser.source.present, hits = places.filter(place => foundBy(row, place)).length;
  return {missed: hits === 0, some: hits > 0 && hits < places.length, alone: hits === 1, hits: hits === places.length}[browser.find];
}

function applyFilters(keep) {
  const source = browser.source, words = browser.words.trim().toLowerCase();
  const holding = words && source.whole ? source.holding(words) : null;
  browser.rows = source.rows.filter(row => isShown(row)
    && Object.entries(browser.filters).every(([name, value]) => value === "" || row.filters[name] === Number(value))
    && (!words || holding?.has(row.number) || (row.text ??= [row.id, row.question, ...row.answers].join("\n").toLowerCase()).includes(words)));
  const some = browser.rows.length, all = source.rows.length;
  $("#found").textContent = some === all ? count(all, "query", "queries") : `${number.format(some)} of ${count(all, "query", "queries")}`;
  $("#key-hit").textContent = `in the top ${browser.k}`;
  const list = $("#list");
  browser.at = browser.rows.findIndex(row => row === keep);
  $("#spacer").style.height = `${some * ROW}px`;
  if (browser.at < 0) list.scrollTop = 0; else reveal();
  drawRows(true);
  if (browser.at < 0 && some && !narrow.matches) go(0, true);
  if (!some) { list.removeAttribute("aria-activedescendant"); }
}

function drawRows(anew) {
  const list = $("#list"), body = $("#rows");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 4);
  const last = Math.min(browser.rows.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 4);
  const there = new Map(anew ? [] : [...body.children].map(node => [Number(node.dataset.place), node]));
  if (anew) body.replaceChildren();
  for (const [place, node] of there) if (place < first || place >= last) node.remove();
  for (let place = first; place < last; place++) if (!there.has(place)) body.append(rowNode(place));
  clearTimeout(drawRows.timer);
  drawRows.timer = setTimeout(fillPictures, 60);
}

function rowNode(place) {
  const row = browser.rows[place], source = browser.source;
  const asked = row.question.trim(), ranks = source.present.map(each => row.ranks[each]);
  const hits = source.present.filter(each => foundBy(row, each)).length;
  const node = h("div", {
    class: "row", role: "option", id: `row-${place}`, "data-place": place, "aria-selected": String(place === browser.at),
    "aria-setsize": browser.rows.length, "aria-posinset": place + 1, onclick: () => { go(place, false); if (narrow.matches) openDetail(); },
    "aria-label": `${asked || row.instruction}. ${row.judged ? `found by ${hits} of ${count(ranks.length, "system")} in the top ${browser.k}` : "not judged"}`,
  },
  h("span", {class: "small" + (row.image === -1 ? " blank" : ""), "data-image": row.image}),
  h("span", {class: "words"}, h("bdi", {class: asked ? "asked" : "asked instruction", dir: "auto"}, asked || row.instruction || "(no question)"),
    h("bdi", {class: "soft", dir: "auto"}, row.answers.slice(0, 3).filter(Boolean).join(" · ") || row.id)),
  h("span", {class: "strip", "aria-hidden": "true"}, row.judged ? source.present.map(each =>
    h("i", {class: foundBy(row, each) ? "hit" : row.ranks[each] ? "deep" : "", title: `${report.systems[source.systems[each]]}: ${row.ranks[each] || "not found"}`})) : ""));
  node.style.transform = `translateY(${place * ROW}px)`;
  return node;
}

function fillPictures() {
  for (const box of document.querySelectorAll("#rows .small[data-image]")) {
    const image = Number(box.dataset.image);
    box.removeAttribute("data-image");
    if (image === -1) continue;
    if (image < 0) { box.classList.add("blank"); continue; }
    const img = h("img", {alt: ""});
    box.append(img);
    thumbnail(browser.source.folder, image).then(uri => { img.src = uri; }, () => img.remove());
  }
}

function reveal() {
  const list = $("#list"), top = browser.at * ROW;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
}

// Selects a row; its address becomes the page's.
function go(place, quiet) {
  if (!browser.rows.length) return;
  browser.at = Math.max(0, Math.min(browser.rows.length - 1, place));
  reveal();
  drawRows(false);
  for (const node of $("#rows").children) node.setAttribute("aria-selected", String(Number(node.dataset.place) === browser.at));
  $("#list").setAttribute("aria-activedescendant", `row-${browser.at}`);
  setAddress();
  if (!quiet || !narrow.matches) drawDetail();
}

function setAddress() {
  const address = `#${encodeURIComponent(browser.source.column.key)}/${encodeURIComponent(browser.rows[browser.at].id)}`;
  if (location.hash !== address) history.replaceState(history.state, "", address);
}

// On a narrow screen, list and query take turns; the browser's own way back leads to the list, too.
function openDetail() {
  if (narrow.matches && !$("#browser").classList.contains("opened")) history.pushState({detail: true}, "");
  $("#browser").classList.add("opened");
  $("#detail").focus({preventScroll: true});
  $("#detail").scrollTop = 0;
}
function hideDetail() {
  $("#browser").classList.remove("opened");
  if ($("#list")) { drawRows(false); reveal(); $("#list").focus({preventScroll: true}); }
}
const closeDetail = () => history.state?.detail ? history.back() : hideDetail();
addEventListener("popstate", event => { if (!event.state?.detail && $("#browser").classList.contains("opened")) { hideDetail(); setAddress(); } });

const rankWords = (source, place, row) => row.ranks[place] ? `${row.ranks[place]}` : "–";
function chips(row) {
  const source = browser.source;
  return h("div", {class: "chips", role: "group", "aria-label": "Rank of the first right passage by system; press to see a ranking"},
    source.present.map((place, key) => {
      const name = report.systems[source.systems[place]], rank = row.ranks[place];
      return h("button", {
        type: "button", "aria-pressed": String(shownSystems().includes(place)), "data-place": place,
        class: foundBy(row, place) ? "hit" : "", title: key < 9 ? `Key ${key + 1}` : null,
        "aria-label": `${name}: ${rank ? `first right passage at rank ${rank}` : `none in its first ${number.format(source.meta.depths[place])}`}`,
        onclick: () => showSystem(place),
      }, h("bdi", {}, name), h("b", {}, rankWords(source, place, row)));
    }));
}
function shownSystems() {
  const known = browser.shown.filter(place => browser.source.present.includes(place));
  const more = browser.source.present.filter(place => !known.includes(place));
  return [...known, ...more].slice(0, narrow.matches ? 1 : 2);
}
function showSystem(place) {
  const shown = shownSystems();
  if (!shown.includes(place)) browser.shown = narrow.matches ? [place] : [shown[1] ?? shown[0], place];
  else if (narrow.matches) browser.shown = [place];
  drawDetail().then(() => $(`.chips [data-place="${place}"]`)?.focus({preventScroll: true}));
}

function passageNode(row, passage, hit) {
  const body = h("p", {class: "text", dir: "auto"}, marked(passage.text, row.answers), passage.length ? h("span", {class: "soft"}, ` … (${number.format(passage.length)} characters in all)`) : null);
  const more = h("button", {class: "more", type: "button", hidden: true, "aria-expanded": "false", onclick: () => {
    const open = body.classList.toggle("open");
    more.textContent = open ? "less" : "more";
    more.setAttribute("aria-expanded", String(open));
  }}, "more");
  const node = h("li", {class: hit && hit.mark & 1 ? "passage right" : "passage"},
    h("div", {class: "head"}, hit && h("span", {class: "rank"}, hit.rank),
      h("span", {class: "names"}, h("bdi", {class: "title", dir: "auto"}, passage.title || passage.id), passage.title && h("bdi", {class: "id"}, passage.id)),
      hit && hit.mark & 1 ? h("span", {class: "badge right"}, "right") : null,
      hit && hit.mark & 2 ? h("span", {class: "badge answer"}, "answer") : null,
      hit && h("span", {class: "value", title: "score"}, Number(hit.score.toPrecision(4)))),
    h("div", {class: "body"}, picture(browser.source.folder, passage.image, "Image of the passage", "of-passage"), h("div", {}, body, more)));
  requestAnimationFrame(() => {
    if (body.scrollHeight <= body.clientHeight + 2) return;
    more.hidden = false;
    const answer = $("mark", body);
    if (answer && answer.getBoundingClientRect().bottom > body.getBoundingClientRect().bottom + 1) more.click();
  });
  return node;
}

async function drawDetail() {
  const source = browser.source, row = browser.rows[browser.at], detail = $("#detail");
  const turn = drawDetail.turn = (drawDetail.turn ?? 0) + 1;
  let ranking, columns, right;
  try {
    ranking = await source.ranking(row);
    const filled = hits => Promise.all(hits.map(async hit => [hit, await source.passage(hit.passage)]));
    columns = await Promise.all(shownSystems().map(async place => [place, await filled(ranking.of(place))]));
    right = await Promise.all(ranking.right.map(passage => source.passage(passage)));
  } catch (error) {
    if (turn === drawDetail.turn) detail.replaceChildren(h("p", {class: "warning"}, error.message));
    return;
  }
  if (turn !== drawDetail.turn) return; // another query was chosen meanwhile
  const asked = row.question.trim();
  const image = picture(source.folder, row.image, "Image of the query", "of-query");
  fill(detail,
    h("div", {class: "steps"},
      h("button", {type: "button", class: "quiet back", onclick: closeDetail}, "‹ List"),
      h("button", {type: "button", class: "quiet", "aria-label": "Previous query", disabled: browser.at === 0, onclick: () => step(-1)}, "‹"),
      h("button", {type: "button", class: "quiet", "aria-label": "Next query", disabled: browser.at === browser.rows.length - 1, onclick: () => step(1)}, "›"),
      h("span", {class: "soft"}, `${number.format(browser.at + 1)} of ${number.format(browser.rows.length)}`),
      h("bdi", {class: "id"}, row.id)),
    h("div", {class: image ? "query with-image" : "query"}, image,
      h("div", {},
        row.instruction && h("p", {class: "soft", dir: "auto"}, row.instruction),
        h("h2", {dir: "auto"}, asked || h("span", {class: "soft"}, "No question: the image alone is asked about")),
        row.answers.length ? h("ul", {class: "answers", "aria-label": "Answers"}, row.answers.slice(0, 24).map(answer => h("li", {dir: "auto"}, answer || "(blank)")),
          row.answers.length > 24 && h("li", {class: "soft"}, `${row.answers.length - 24} more`)) : null,
        Object.keys(row.filters).length ? h("p", {class: "soft facts"}, source.meta.filters.map(filter => [filter.name, filter.values[row.filters[filter.name]]])
          .filter(([, value]) => value !== "(none)").map(pair => pair.join(": ")).join(" · ")) : null)),
    row.judged ? null : h("p", {class: "warning"}, "This query is not judged: it has neither right passages nor answers."),
    right.length ? h("details", {class: "positives"}, h("summary", {}, `Right ${right.length === 1 ? "passage" : "passages"} (${right.length === 5 ? "the first 5" : right.length})`),
      h("ol", {class: "passages"}, right.map(passage => passageNode(row, passage, null)))) : null,
    h("h3", {class: "label"}, "Rank of the first ", row.judged === 2 ? "passage with an answer" : "right passage"),
    chips(row),
    h("div", {class: `columns of-${columns.length}`}, columns.map(([place, hits]) => h("section", {"aria-label": report.systems[source.systems[place]]},
      h("h3", {}, dot(source.systems[place]), h("bdi", {}, report.systems[source.systems[place]])),
      hits.length ? h("ol", {class: "passages"}, hits.map(([hit, passage]) => passageNode(row, passage, hit))) : h("p", {class: "soft"}, "It found nothing.")))));
}

function step(by) { const before = document.activeElement?.getAttribute?.("aria-label"); go(browser.at + by, false); if (before) drawDetail().then(() => $(`#detail [aria-label="${CSS.escape(before)}"]`)?.focus({preventScroll: true})); $("#detail").scrollTop = 0; }

function makeBrowser() {
  const source = browser.source, column = source.column;
  const withData = report.columns.filter(each => each.browser.folder !== undefined);
  const systems = source.present.map(place => [place, report.systems[source.systems[place]]]);
  const changed = () => applyFilters(browser.rows[browser.at]);
  const ab = h("span", {class: "pair", hidden: browser.find !== "ab"},
    select("A", systems, browser.a, value => { browser.a = Number(value); changed(); }),
    select("B", systems, browser.b, value => { browser.b = Number(value); changed(); }));
  const ks = [1, 5, 10, 20, 50, 100, 500].filter(k => k <= Math.max(10, ...source.meta.depths.map(depth => depth ?? 0)));
  const search = h("input", {type: "search", id: "search", placeholder: "Search", "aria-label": "Search questions, answers and ids", autocomplete: "off", spellcheck: "false",
    oninput: event => { clearTimeout(search.timer); search.timer = setTimeout(() => { browser.words = event.target.value; changed(); }, 120); },
    onkeydown: event => { if (event.key === "Enter" || event.key === "ArrowDown") { event.preventDefault(); $("#list").focus(); if (browser.at < 0) go(0, true); } }});
  const everywhere = h("label", {class: "check"}, h("input", {type: "checkbox", onchange: async event => {
    if (!event.target.checked) return;
    event.target.disabled = true;
    await source.everything(share => { everywhere.lastChild.textContent = `reading passages: ${Math.round(share * 100)} %`; });
    source.whole = true;
    everywhere.lastChild.textContent = "passages are searched, too";
    if (browser.source === source) changed();
  }}), h("span", {}, source.whole ? "passages are searched, too" : "search passages, too"));
  everywhere.firstChild.checked = everywhere.firstChild.disabled = Boolean(source.whole);
  const filters = source.meta.filters.map(filter => select(filter.name,
    [["", "any"], ...filter.values.map((value, place) => [place, value])], browser.filters[filter.name] ?? "", value => { browser.filters[filter.name] = value; changed(); }));
  const list = h("div", {id: "list", class: source.rows.every(row => row.image === -1) ? "plain" : "", role: "listbox", tabindex: "0", "aria-label": "Queries"}, h("div", {id: "spacer"}), h("div", {id: "rows", role: "presentation"}));
  list.addEventListener("scroll", () => requestAnimationFrame(() => drawRows(false)), {passive: true});
  const left = column.browser;
  const said = [...left.faults,
    left.queries_left_out && `${count(left.queries_left_out, "query", "queries")} after these left out, to keep the report small.`,
    left.images_left_out && `${count(left.images_left_out, "image")} left out, to keep the report small.`,
    left.images_missing && `${count(left.images_missing, "image")} missing where this report was made.`].filter(Boolean);
  fill($("#browser"),
    h("div", {class: "side"},
      h("div", {class: "tools"},
        withData.length > 1 && select("Split", withData.map(each => [each.key, each.label]), column.key, key => { location.hash = `#${encodeURIComponent(key)}/`; }, {id: "source"}),
        h("div", {class: "search"}, search),
        h("details", {class: "filters", open: !narrow.matches}, h("summary", {}, "Filters"),
          h("div", {class: "grid-of-two"},
            select("Show", FINDS.filter(([key]) => key !== "ab" || systems.length > 1), browser.find, value => { browser.find = value; ab.hidden = value !== "ab"; changed(); }, {id: "find"}), ab,
            select("in the top", ks.map(k => [k, k]), browser.k, value => { browser.k = Number(value); changed(); drawDetailIfAny(); }, {id: "k"}),
            filters, everywhere)),
        h("p", {id: "found", class: "soft", role: "status"}),
        h("p", {class: "strip key soft", "aria-hidden": "true"}, h("i", {class: "hit"}), h("span", {id: "key-hit"}), h("i", {class: "deep"}), "deeper", h("i", {}), "not found; by system"),
        said.map(words => h("p", {class: "soft small-note"}, words))),
      list),
    h("article", {id: "detail", tabindex: "-1", "aria-label": "Query"}));
}
const drawDetailIfAny = () => { if (browser.at >= 0) drawDetail(); };

async function showBrowser(column, id) {
  if (column.browser.folder === undefined) {
    $("#browser").replaceChildren(h("p", {class: "warning lone"}, column.browser.fault));
    browser.source = null;
    return;
  }
  if (browser.source?.column !== column) {
    $("#browser").replaceChildren(h("p", {class: "soft lone", role: "status"}, "Reading the queries …"));
    let source;
    try { source = await openSource(column); }
    catch (error) { $("#browser").replaceChildren(h("p", {class: "warning lone"}, error.message)); return; }
    Object.assign(browser, {source, rows: [], at: -1, shown: source.present.slice(0, 2), filters: {}, words: "", find: "all", a: source.present[0] ?? 0, b: source.present[1] ?? 0});
    makeBrowser();
    const row = source.byId.get(id);
    applyFilters(row);
    if (row) { go(browser.at, false); if (narrow.matches) openDetail(); }
    else if (id) $("#found").textContent += `; none has the id ${id}`;
    if (!row || !narrow.matches) $("#list").focus({preventScroll: true});
  } else if (id && browser.rows[browser.at]?.id !== id) {
    let place = browser.rows.findIndex(row => row.id === id);
    if (place < 0 && browser.source.byId.has(id)) { // it is filtered away: an address comes first
      Object.assign(browser, {filters: {}, words: "", find: "all"});
      makeBrowser();
      applyFilters(browser.source.byId.get(id));
      place = browser.at;
    }
    if (place >= 0) go(place, false);
  }
}

/* ---- addresses and keys ---- */

const decoded = words => { try { return decodeURIComponent(words); } catch { return words; } };
function route() {
  const [key, ...rest] = location.hash.slice(1).split("/");
  const column = report.columns.find(each => each.key === decoded(key));
  const browsing = Boolean(column) && location.hash.includes("/");
  document.body.classList.toggle("browsing", browsing);
  $("#browser").hidden = !browsing;
  $("#report").hidden = browsing;
  for (const link of document.querySelectorAll("nav a")) {
    const here = browsing ? link.dataset.part === "queries" : link.dataset.part === (key || "scores");
    here ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current");
  }
  if (browsing) showBrowser(column, decoded(rest.join("/")));
  else if (key && /^[a-z]+$/.test(key)) document.getElementById(key)?.scrollIntoView();
  else if (!key) scrollTo(0, 0);
}

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName), dialog = $("#help");
  if (dialog.open) return;
  if (event.key === "Escape") {
    if (typing) event.target.blur();
    if ($("#browser").classList.contains("opened")) closeDetail();
    else if (document.body.classList.contains("browsing")) typing ? $("#list")?.focus() : location.hash = "#";
    return;
  }
  if (typing) return;
  if (event.key === "?") { event.preventDefault(); dialog.showModal(); return; }
  if (!document.body.classList.contains("browsing") || !browser.source) return;
  const inList = event.target.id === "list" || event.target === document.body || event.target.id === "detail";
  const page = Math.max(1, Math.floor(($("#list").clientHeight || ROW) / ROW) - 1);
  const moves = {j: 1, k: -1};
  if (inList && event.target.id !== "detail") Object.assign(moves, {ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity});
  if (event.key in moves) { event.preventDefault(); go(browser.at + moves[event.key], false); $("#detail").scrollTop = 0; }
  else if (event.key === "/") { event.preventDefault(); if ($("#browser").classList.contains("opened")) hideDetail(); $("#search").focus(); $("#search").select(); }
  else if (event.key === "Enter" && inList && browser.at >= 0) { event.preventDefault(); drawDetail(); openDetail(); }
  else if (/^[1-9]$/.test(event.key)) { const place = browser.source.present[Number(event.key) - 1]; if (place !== undefined && browser.at >= 0) showSystem(place); }
});
$("#help-button").addEventListener("click", () => $("#help").showModal());
narrow.addEventListener("change", () => { if ($("#plot-area")) drawPlots(); if (browser.source && browser.at >= 0) drawDetail(); });
addEventListener("resize", () => { if (browser.source && $("#list")) drawRows(false); });
addEventListener("hashchange", route);

const first = report.columns.find(column => column.browser.folder !== undefined) ?? report.columns[0];
$("nav a[data-part=queries]").href = `#${encodeURIComponent(first.key)}/`;
makeReport();
route();
