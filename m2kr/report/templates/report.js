// The page of a report: systems by split, and what each retrieved. page.js comes before it.

const PRIMARY = "primary";
const metricNames = report.metrics.map(metric => metric.name);
const metricLabel = name => report.metrics.find(metric => metric.name === name)?.label ?? name;

/* ---- the scores ---- */

const state = {metric: PRIMARY, column: 0, off: new Set()};
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
      labels(series.map(one => ({system: one.system, name: report.systems[one.system], x: x(one.points.at(-1)[0]) + 6, y: y(one.points.at(-1)[1])})), right + 18, top, bottom)));
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

class Source extends Texts {
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
  async everything(told) {
    const blocks = Math.ceil(this.meta.count / this.meta.ranked), all = blocks + this.meta.texts.length;
    let done = 0;
    for (let block = 0; block < blocks; block++) { this.hits.set(block, await load(`${this.folder}/hits-${block}`)); told(++done / all); }
    for (let number = 0; number < this.meta.texts.length; number++) { await this.chunk(number); told(++done / all); }
  }
  // Rows whose shown passages hold some words, once all are loaded.
  holding(words) {
    const passages = this.passagesWith(words);
    const rows = new Set();
    if (passages.size) for (const [block, hits] of this.hits) {
      hits.passages.forEach(of => of.forEach((passage, place) => {
        if (passages.has(passage)) rows.add(block * this.meta.ranked + Math.floor(place / this.meta.k));
      }));
    }
    return rows;
  }
}

/* ---- the query browser ---- */

const NOUN = ["query", "queries"];
Object.assign(browser, {a: 0, b: 1, k: 5});
const fresh = source => ({shown: source.present.slice(0, 2), a: source.present[0] ?? 0, b: source.present[1] ?? 0});
const drawKey = () => { $("#key-hit").textContent = `in the top ${browser.k}`; };
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

function retrieved(row, passage, hit) {
  return passageNode(passage, marked(passage.text, row.answers), hit ? {
    rank: hit.rank, value: hit.score, right: hit.mark & 1,
    badges: [hit.mark & 1 && ["right", "right"], hit.mark & 2 && ["answer", "answer"]].filter(Boolean),
  } : {});
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
      h("ol", {class: "passages"}, right.map(passage => retrieved(row, passage, null)))) : null,
    h("h3", {class: "label"}, "Rank of the first ", row.judged === 2 ? "passage with an answer" : "right passage"),
    chips(row),
    h("div", {class: `columns of-${columns.length}`}, columns.map(([place, hits]) => h("section", {"aria-label": report.systems[source.systems[place]]},
      h("h3", {}, dot(source.systems[place]), h("bdi", {}, report.systems[source.systems[place]])),
      hits.length ? h("ol", {class: "passages"}, hits.map(([hit, passage]) => retrieved(row, passage, hit))) : h("p", {class: "soft"}, "It found nothing.")))));
}

function makeBrowser() {
  const source = browser.source, column = source.column;
  const systems = source.present.map(place => [place, report.systems[source.systems[place]]]);
  const changed = () => applyFilters(browser.rows[browser.at]);
  const ab = h("span", {class: "pair", hidden: browser.find !== "ab"},
    select("A", systems, browser.a, value => { browser.a = Number(value); changed(); }),
    select("B", systems, browser.b, value => { browser.b = Number(value); changed(); }));
  const ks = [1, 5, 10, 20, 50, 100, 500].filter(k => k <= Math.max(10, ...source.meta.depths.map(depth => depth ?? 0)));
  const everywhere = h("label", {class: "check"}, h("input", {type: "checkbox", onchange: async event => {
    if (!event.target.checked) return;
    event.target.disabled = true;
    await source.everything(share => { everywhere.lastChild.textContent = `reading passages: ${Math.round(share * 100)} %`; });
    source.whole = true;
    everywhere.lastChild.textContent = "passages are searched, too";
    if (browser.source === source) changed();
  }}), h("span", {}, source.whole ? "passages are searched, too" : "search passages, too"));
  everywhere.firstChild.checked = everywhere.firstChild.disabled = Boolean(source.whole);
  fill($("#browser"),
    h("div", {class: "side"},
      h("div", {class: "tools"},
        splitSelect(column), searchBox(changed),
        h("details", {class: "filters", open: !narrow.matches}, h("summary", {}, "Filters"),
          h("div", {class: "grid-of-two"},
            select("Show", FINDS.filter(([key]) => key !== "ab" || systems.length > 1), browser.find, value => { browser.find = value; ab.hidden = value !== "ab"; changed(); }, {id: "find"}), ab,
            select("in the top", ks.map(k => [k, k]), browser.k, value => { browser.k = Number(value); changed(); drawDetailIfAny(); }, {id: "k"}),
            filterSelects(source, changed), everywhere)),
        h("p", {id: "found", class: "soft", role: "status"}),
        h("p", {class: "strip key soft", "aria-hidden": "true"}, h("i", {class: "hit"}), h("span", {id: "key-hit"}), h("i", {class: "deep"}), "deeper", h("i", {}), "not found; by system"),
        leftOut(column)),
      rowList(source)),
    h("article", {id: "detail", tabindex: "-1", "aria-label": "Query"}));
}
const drawDetailIfAny = () => { if (browser.at >= 0) drawDetail(); };

const first = report.columns.find(column => column.browser.folder !== undefined) ?? report.columns[0];
$("nav a[data-part=queries]").href = `#${encodeURIComponent(first.key)}/`;
makeReport();
route();
