// The page of readers' answers: arms by scorer, and what was answered to each question. page.js comes before it.

const NOUN = ["question", "questions"];
const state = {column: 0, scorer: null, off: new Set()};
const short = arm => arm.kind === "retrieved" ? `@${arm.k}` : arm.kind === "none" ? "none" : arm.kind;
const scorerOf = column => column.scorers.includes(state.scorer) ? state.scorer : column.scorers[0];
const region = (label, content) => h("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": label}, content);

/* ---- the scores ---- */

// A mean with its letters and interval; or, where answers were not judged, what it lies between.
function scoreCell(cell, bold) {
  if (!cell || (cell.value === null && cell.least === null)) return h("td", {class: "n none"}, "–");
  if (cell.value === null) return h("td", {class: "n none"}, `${score(cell.least)} to ${score(cell.most)}`, h("small", {}, `${number.format(cell.not_judged)} not judged`));
  return h("td", {class: bold ? "n best" : "n"}, h("b", {}, score(cell.value)), cell.letters && h("sup", {}, cell.letters),
    h("small", {}, `${score(cell.low)} – ${score(cell.high)}`));
}

const amount = value => value === null || value === undefined ? "–" : value === 0 ? "0" : value >= 1000 ? number.format(Math.round(value)) : String(Number(value.toPrecision(3)));
const USAGE = [["input_tokens", "Tokens in"], ["output_tokens", "Tokens out"], ["seconds", "Seconds"], ["dollars", "Dollars"]];

function armsTable(column, table, part, whole) {
  const scorers = Object.keys(part.cells), bounds = table.answer_in_passages;
  const bounded = whole && Object.keys(bounds).length > 0;
  const usage = whole ? USAGE.filter(([name]) => part.arms.some(label => table.usage[label]?.[name])) : [];
  const kinds = Object.fromEntries(table.arms.map(arm => [arm.label, arm.kind]));
  const tops = scorers.map(name => best(part.arms.filter(label => kinds[label] !== "oracle").map(label => part.cells[name][label].value)));
  return region("Scores by arm", h("table", {class: scorers.length + usage.length > 5 ? "scores many arms" : "scores arms"},
    h("thead", {}, h("tr", {}, h("th", {scope: "col"}, "Answered with"),
      scorers.map(name => h("th", {scope: "col", class: "n"}, h("bdi", {}, name))),
      bounded && h("th", {scope: "col", class: "n"}, "Answer in", h("small", {}, "passages")),
      usage.map(([, words]) => h("th", {scope: "col", class: "n"}, words, h("small", {}, "a question"))))),
    h("tbody", {}, part.arms.map(label => h("tr", {}, h("th", {scope: "row"}, label),
      scorers.map((name, place) => scoreCell(part.cells[name][label], kinds[label] !== "oracle" && part.cells[name][label].value === tops[place])),
      bounded && h("td", {class: "n"}, label in bounds ? score(bounds[label]) : h("span", {class: "none"}, "–")),
      usage.map(([name]) => h("td", {class: "n"}, amount(table.usage[label]?.[name]))))))));
}

// Each arm's difference from no retrieval, and from the oracle, as a line around 0.
function differences(column, table, part) {
  const scorer = scorerOf(column), names = Object.fromEntries(table.arms.map(arm => [arm.label, short(arm)]));
  const kinds = Object.fromEntries(table.arms.map(arm => [arm.label, arm.kind]));
  const pairs = [...part.pairs[scorer] ?? []].sort((a, b) => (kinds[a.b] === "oracle") - (kinds[b.b] === "oracle"));
  const shown = pairs.map(pair => kinds[pair.a] === "oracle" && kinds[pair.b] !== "none"
    ? {...pair, a: pair.b, b: pair.a, difference: -pair.difference, low: -pair.high, high: -pair.low, wins: pair.losses, losses: pair.wins} : pair)
    .filter(pair => kinds[pair.b] !== "retrieved" && !(kinds[pair.a] === "none" && kinds[pair.b] === "oracle"))
    .sort((a, b) => (kinds[a.b] === "oracle") - (kinds[b.b] === "oracle"));
  if (!shown.length) return null;
  const end = Math.max(.05, ...shown.flatMap(pair => [Math.abs(pair.low), Math.abs(pair.high)]));
  const place = value => `${50 + 50 * value / end}%`;
  const signed = value => (value > 0 ? "+" : "") + score(value);
  return h("details", {class: "pairs", open: true}, h("summary", {}, "Differences by ", h("bdi", {}, scorer)),
    region("Differences", h("table", {class: "scores arms"},
      h("thead", {}, h("tr", {}, h("th", {scope: "col"}, "First − second"), h("th", {scope: "col", class: "n"}, "Difference", h("small", {}, "95 %")), h("th", {scope: "col", class: "track-head"}, h("span", {class: "unseen"}, "interval")),
        h("th", {scope: "col", class: "n"}, "p", h("small", {}, "Holm")), h("th", {scope: "col", class: "n"}, "Better", h("small", {}, "questions")), h("th", {scope: "col", class: "n"}, "As good"), h("th", {scope: "col", class: "n"}, "Worse"))),
      h("tbody", {}, shown.map(pair => {
        const track = h("div", {class: "track around", "aria-hidden": "true"}, h("i", {class: "zero"}), h("i", {class: "whisker"}), h("i", {class: "point"}));
        track.children[1].style.left = place(pair.low);
        track.children[1].style.width = `${50 * (pair.high - pair.low) / end}%`;
        track.children[2].style.left = place(pair.difference);
        return h("tr", {}, h("th", {scope: "row"}, `${names[pair.a]} − ${names[pair.b]}`),
          h("td", {class: pair.p_holm < .05 ? "n best" : "n"}, h("b", {}, signed(pair.difference)), h("small", {}, `${signed(pair.low)} – ${signed(pair.high)}`)),
          h("td", {class: "track-cell"}, track),
          h("td", {class: "n"}, pair.p_holm < .0001 ? "<.0001" : pair.p_holm.toFixed(4).replace(/^0/, "")),
          h("td", {class: "n"}, number.format(pair.wins)), h("td", {class: "n"}, number.format(pair.ties)), h("td", {class: "n"}, number.format(pair.losses)));
      })))));
}

function figuresTable(table) {
  return Object.entries(table.figures).map(([scorer, figures]) => [
    h("h4", {}, h("bdi", {}, scorer), h("small", {}, "figures that are no plain mean")),
    region("Figures", h("table", {class: "scores arms"},
      h("thead", {}, h("tr", {}, h("th", {scope: "col"}, "Answered with"), Object.keys(figures).map(name => h("th", {scope: "col", class: "n"}, h("bdi", {}, name.replaceAll("_", " ")))))),
      h("tbody", {}, table.arms.map(arm => h("tr", {}, h("th", {scope: "row"}, arm.label), Object.values(figures).map(of => {
        const one = of[arm.label];
        if (!one || one.value === null) return h("td", {class: "n none"}, "–");
        return h("td", {class: "n"}, h("b", {}, score(one.value)), one.low !== null && h("small", {}, `${score(one.low)} – ${score(one.high)}`));
      }))))))]);
}

function gridTable(column) {
  const grid = column.grid;
  return grid && [h("h3", {}, "Readers by retrievers", h("small", {}, `${grid.metric}; ${count(grid.questions, ...NOUN)}, the same for all`)),
    region("Readers by retrievers", h("table", {class: "scores arms"},
      h("thead", {}, h("tr", {}, h("th", {scope: "col"}, "Reader"), grid.columns.map(name => h("th", {scope: "col", class: "n"}, h("bdi", {}, name))))),
      h("tbody", {}, grid.readers.map((reader, row) => h("tr", {}, h("th", {scope: "row"}, h("bdi", {}, reader)), grid.cells[row].map(cell => scoreCell(cell, false)))))))];
}

function tables(column) {
  return [gridTable(column), column.tables.map(table => h("section", {class: "result"},
    column.tables.length > 1 && h("h3", {}, h("bdi", {}, table.label)),
    table.parts.map((part, place) => [h("h4", {}, part.title), armsTable(column, table, part, !place),
      !part.is_mean && differences(column, table, part)]),
    figuresTable(table)))];
}

/* ---- score against K ---- */

function againstK(column) {
  const scorer = scorerOf(column);
  const series = column.tables.map((table, result) => {
    const cells = table.parts[0]?.cells[scorer] ?? {}, whole = label => cells[label] ?? table.parts[1]?.cells[scorer]?.[label];
    const of = kind => table.arms.filter(arm => arm.kind === kind).map(arm => [arm, whole(arm.label)]).filter(([, cell]) => cell && cell.value !== null);
    return {result, label: table.label, reader: table.reader, retriever: table.retriever, points: of("retrieved").map(([arm, cell]) => [arm.k, cell]), none: of("none")[0]?.[1], oracle: of("oracle")[0]?.[1],
      bounds: table.arms.filter(arm => arm.label in table.answer_in_passages).map(arm => [arm.k, table.answer_in_passages[arm.label]])};
  }).filter(one => one.points.length && !state.off.has(one.result));
  if (!series.length) return null;
  const ks = [...new Set(series.flatMap(one => one.points.map(([k]) => k)))].sort((a, b) => a - b);
  const several = column.tables.length > 1, oneReader = new Set(column.tables.map(table => table.reader)).size === 1;
  const width = narrow.matches ? 360 : 680, height = 350, left = 34, right = width - (several && !narrow.matches ? 220 : 160), top = 14, bottom = 306;
  const x = k => ks.length < 2 ? (left + right) / 2 : left + 14 + (right - left - 28) * Math.log(k / ks[0]) / Math.log(ks.at(-1) / ks[0]);
  const all = series.flatMap(one => [...one.points.map(([, cell]) => cell.high), one.none?.value, one.oracle?.value, ...one.bounds.map(([, value]) => value)]).filter(value => value !== undefined);
  const end = niceEnd(Math.max(...all)), y = value => bottom - (bottom - top) * value / end;
  const items = [], drawn = [], levels = new Set();
  const named = one => oneReader && column.tables.filter(table => table.retriever === one.retriever).length === 1 ? one.retriever : one.label;
  const path = points => points.map(([k, value], place) => `${place ? "L" : "M"}${x(k).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  const level = (one, value, words, dash) => {
    if (value === undefined || levels.has(`${words} ${value}`)) return;
    levels.add(`${words} ${value}`); // which results of one reader share
    drawn.push(svg("g", {class: `line c${one.result % 12}`}, svg("path", {d: `M${left} ${y(value)}H${right}`, "stroke-dasharray": dash, class: "level"}), svg("title", {}, words)));
    items.push({system: one.result, name: words, x: right, y: y(value)});
  };
  for (const one of series) {
    const upper = one.points.map(([k, cell]) => [k, cell.high]), lower = one.points.map(([k, cell]) => [k, cell.low]).reverse();
    drawn.push(svg("g", {class: `line c${one.result % 12}`},
      ks.length > 1 && svg("path", {class: "band", d: `${path(upper)}${path(lower).replace("M", "L")}Z`}),
      svg("path", {d: path(one.points.map(([k, cell]) => [k, cell.value])), "stroke-dasharray": DASHES[Math.floor(one.result / 4) % 3]}),
      one.points.map(([k, cell]) => [svg("line", {class: "whisk", x1: x(k), x2: x(k), y1: y(cell.low), y2: y(cell.high)}), mark(one.result, x(k), y(cell.value))]), svg("title", {}, one.label)));
    items.push({system: one.result, name: several ? named(one) : "retrieved", x: x(one.points.at(-1)[0]) + 6, y: y(one.points.at(-1)[1].value)});
    level(one, one.none?.value, several && !oneReader ? `${one.reader}, no retrieval` : "no retrieval", "2 4");
    level(one, one.oracle?.value, several && !oneReader ? `${one.reader}, oracle` : "oracle", "8 4");
    if (one.bounds.length) {
      drawn.push(svg("g", {class: "bound"}, svg("path", {d: path(one.bounds)}), one.bounds.map(([k, value]) => svg("circle", {cx: x(k), cy: y(value), r: 2.5})), svg("title", {}, "answer in passages")));
      if (!several) items.push({system: "-", name: "answer in passages", x: x(one.bounds.at(-1)[0]) + 4, y: y(one.bounds.at(-1)[1])});
    }
  }
  return figure("Score against K", [h("bdi", {}, scorer), "; whiskers: 95 % intervals; K: passages that the reader was given", series.some(one => one.bounds.length) ? "; grey dots: how often an accepted answer is in them." : "."],
    [drawing(width, height, "Score by the number of passages",
      [0, .25, .5, .75, 1].map(share => share * end).map(value => [svg("line", {class: "grid", x1: left, x2: right, y1: y(value), y2: y(value)}), text(left - 8, y(value) + 4, tick(value), {"text-anchor": "end", class: "tick"})]),
      ks.map(k => text(x(k), bottom + 20, k, {"text-anchor": "middle", class: "tick"})), text((left + right) / 2, bottom + 38, "K", {"text-anchor": "middle", class: "tick"}),
      drawn, labels(items, right + 18, top, bottom, several && !narrow.matches ? 26 : 18)),
    several && h("ul", {class: "legend"}, column.tables.map((table, result) => h("li", {}, h("button", {type: "button", "aria-pressed": String(!state.off.has(result)), "data-system": result,
      onclick: () => { state.off.has(result) ? state.off.delete(result) : state.off.add(result); drawPlots(result); }}, svg("svg", {viewBox: "0 0 14 14", "aria-hidden": "true"}, mark(result, 7, 7)), h("bdi", {}, table.label)))))]);
}

function drawPlots(focused) {
  const plot = againstK(report.columns[state.column]);
  $("#plot-area").replaceChildren(...plot ? [plot] : [h("p", {class: "soft"}, "There is no score by K to draw.")]);
  if (focused !== undefined) $(`.legend [data-system="${focused}"]`)?.focus();
}

/* ---- groups and notes ---- */

function groupTables(column) {
  const scorer = scorerOf(column);
  return column.tables.flatMap(table => Object.entries(table.breakdown).map(([name, values]) => {
    const all = Object.keys(values), kept = [...all].sort((a, b) => values[b].n - values[a].n).slice(0, 40);
    const shown = all.filter(value => kept.includes(value));
    return h("div", {class: "group"}, h("h3", {}, name.replaceAll("_", " "), h("small", {}, h("bdi", {}, scorer), column.tables.length > 1 ? [", ", h("bdi", {}, table.label)] : "")),
      region(`Scores by ${name}`, h("table", {class: "scores heat arms"},
        h("thead", {}, h("tr", {}, h("th", {scope: "col"}, "Answered with"), shown.map(value => h("th", {scope: "col", class: "n"}, h("bdi", {}, value), h("small", {}, count(values[value].n, ...NOUN)))))),
        h("tbody", {}, table.arms.map(arm => h("tr", {}, h("th", {scope: "row"}, arm.label), shown.map(value => {
          const one = values[value].scores[scorer]?.[arm.label] ?? null, cell = h("td", {class: "n"}, one === null ? "–" : score(one));
          if (one !== null) cell.style.setProperty("--share", `${Math.round(one * 26)}%`);
          return cell;
        }))))) ),
      kept.length < all.length && h("p", {class: "soft"}, `${count(all.length - kept.length, "smaller value")} left out; the result's table has them.`));
  }));
}

function drawReport() {
  const column = report.columns[state.column];
  $("#table-area").replaceChildren();
  build($("#table-area"), {}, tables(column));
  drawPlots();
  const groups = groupTables(column);
  $("#group-area").replaceChildren(...groups.length ? groups : [h("p", {class: "soft"}, "The questions of this split are of one kind.")]);
}

function makeReport() {
  const columns = report.columns, scorers = [...new Set(columns.flatMap(column => column.scorers))];
  state.scorer = scorers[0];
  const facts = column => [h("bdi", {}, column.label), `: ${count(column.questions, ...NOUN)}, edition `, h("bdi", {}, column.edition), column.partial ? ", partial" : ""];
  build($("#report"), {}, [
    h("p", {class: "lead"}, report.columns.length === 1 && columns[0].tables.length === 1 ? [h("bdi", {}, columns[0].tables[0].label), " on "] : "", columns.map((column, place) => [place ? " · " : "", facts(column)]), h("span", {class: "soft"}, ` m2kr ${report.version}`)),
    columns.some(column => column.partial) && h("p", {class: "warning"}, "Some of the data are a part of their source: their scores compare with nothing else."),
    h("div", {class: "toolbar"},
      scorers.length > 1 && select("Scorer of differences, plots and groups", scorers.map(name => [name, name]), state.scorer, value => { state.scorer = value; drawReport(); }, {id: "scorer"}),
      columns.length > 1 && select("Split", columns.map((column, place) => [place, column.label]), state.column, value => { state.column = Number(value); drawReport(); }, {id: "split"})),
    h("section", {id: "scores", "aria-label": "Scores"}, h("div", {id: "table-area"}),
      h("p", {class: "soft under"}, "Small: 95 % bootstrap interval over questions. Arms of a column that share a letter can’t be told apart: paired randomisation tests, Holm’s correction for all pairs, 5 %. Differences in colour are beyond chance.")),
    h("section", {id: "plots"}, h("h2", {}, "Plots"), h("div", {id: "plot-area", class: "alone"})),
    h("section", {id: "groups"}, h("h2", {}, "Groups"), h("div", {id: "group-area"})),
    h("section", {id: "notes"}, h("h2", {}, "Notes"), h("ul", {class: "notes"}, report.notes.map(note => h("li", {}, h("bdi", {}, note)))))]);
  drawReport();
}

/* ---- questions, answers and passages ---- */

class Source extends Texts {
  async open() {
    this.meta = await load(`${this.folder}/meta`);
    this.arms = this.column.arms;
    this.present = this.arms.map((_, place) => place);
    this.scorers = this.column.scorers;
    const blocks = Math.ceil(this.meta.count / this.meta.listed);
    const lists = await Promise.all(Array.from({length: blocks}, (_, block) => load(`${this.folder}/list-${block}`)));
    lists.forEach(list => list.id.forEach((id, place) => this.rows.push({
      id, number: this.rows.length, question: list.question[place], answers: list.answers[place], image: list.image[place], said: list.said[place],
      filters: Object.fromEntries(Object.entries(list.filters).map(([name, values]) => [name, values[place]])),
      which: list.which.map(of => of[place]), scores: list.scores.map(of => of.map(one => one[place])), rules: list.rules.map(of => of.map(one => one[place])),
    })));
    this.byId = new Map(this.rows.map(row => [row.id, row]));
    return this;
  }
  holding() { return null; }
  // What the block of a row's passages says of it.
  async more(row) {
    const hits = await load(`${this.folder}/hits-${Math.floor(row.number / this.meta.ranked)}`), place = row.number % this.meta.ranked;
    return {passages: arm => hits.passages[arm][place], read: arm => hits.read[arm][place], numbers: arm => hits.numbers[arm][place],
      details: arm => hits.details[arm][place], holding: new Set(hits.holding[place]), right: new Set(hits.right[place])};
  }
}

const scorerPlace = () => Math.max(0, browser.source.scorers.indexOf(browser.scorer));
// undefined: not asked; null: not judged.
const scored = (row, arm) => arm === undefined || row.which[arm] < 0 ? undefined : row.scores[scorerPlace()][arm] ?? null;
const right = value => typeof value === "number" && value >= .5;
const verdictKind = value => value === undefined ? "absent" : value === null ? "unknown" : value >= 1 ? "hit" : value > 0 ? "deep" : "miss";
const VERDICTS = {absent: "not asked", unknown: "not judged", hit: "right", deep: "partly right", miss: "wrong"};

function fresh(source) {
  const retrieved = source.arms.map((arm, place) => [arm, place]).filter(([arm]) => arm.kind === "retrieved");
  const usual = retrieved.find(([arm]) => arm.k === 5) ?? retrieved.at(-1) ?? [null, 0];
  return {scorer: scorerOf(source.column), a: usual[1], shown: [usual[1]]};
}
const partner = kind => { const arms = browser.source.arms, of = arms[browser.a].reader; const place = arms.findIndex(arm => arm.kind === kind && arm.reader === of); return place < 0 ? undefined : place; };
const drawKey = () => {};
const FINDS = [
  ["all", "all questions"], ["helped", "helped by retrieval"], ["hurt", "hurt by retrieval"], ["oracle", "oracle wrong"],
  ["right", "all right"], ["wrong", "all wrong"], ["unknown", "with an answer not judged"],
];
function isShown(row) {
  if (browser.find === "all") return true;
  const values = row.which.map((_, arm) => scored(row, arm)).filter(value => value !== undefined);
  if (browser.find === "unknown") return values.includes(null);
  if (browser.find === "right") return values.every(right);
  if (browser.find === "wrong") return values.every(value => value !== null && !right(value));
  if (browser.find === "oracle") { const value = scored(row, partner("oracle")); return typeof value === "number" && !right(value); }
  const before = scored(row, partner("none")), after = scored(row, browser.a);
  return typeof before === "number" && typeof after === "number" && (browser.find === "helped" ? after > before : after < before);
}

function rowNode(place) {
  const row = browser.rows[place], asked = row.question.trim();
  const kinds = row.which.map((_, arm) => verdictKind(scored(row, arm)));
  const node = h("div", {
    class: "row", role: "option", id: `row-${place}`, "data-place": place, "aria-selected": String(place === browser.at),
    "aria-setsize": browser.rows.length, "aria-posinset": place + 1, onclick: () => { go(place, false); if (narrow.matches) openDetail(); },
    "aria-label": `${asked || "no question"}. ${count(kinds.filter(kind => kind === "hit").length, "answer")} of ${kinds.length} right`,
  },
  h("span", {class: "small" + (row.image === -1 ? " blank" : ""), "data-image": row.image}),
  h("span", {class: "words"}, h("bdi", {class: asked ? "asked" : "asked instruction", dir: "auto"}, asked || "(the image alone)"),
    h("bdi", {class: "soft", dir: "auto"}, row.answers.slice(0, 3).join(" · ") || row.id)),
  h("span", {class: "strip", "aria-hidden": "true"}, kinds.map((kind, arm) => h("i", {class: kind, title: `${browser.source.arms[arm].label}: ${VERDICTS[kind]}`}))));
  node.style.transform = `translateY(${place * ROW}px)`;
  node.lastChild.style.gridTemplateColumns = `repeat(${kinds.length % 5 && kinds.length <= 6 ? kinds.length : 5},8px)`;
  return node;
}

// Accepted answers marked, and what was said where it stands outside of them.
function markedBoth(body, answers, said) {
  const parts = [], wanted = said.trim().length > 1 ? [said.trim()] : [];
  let end = 0;
  const plain = stretch => { let at = 0; for (const [start, stop] of spans(stretch, wanted)) { parts.push(stretch.slice(at, start), h("mark", {class: "said"}, stretch.slice(start, stop))); at = stop; } parts.push(stretch.slice(at)); };
  for (const [start, stop] of spans(body, answers)) { plain(body.slice(end, start)); parts.push(h("mark", {}, body.slice(start, stop))); end = stop; }
  plain(body.slice(end));
  return parts;
}

const answerOf = (row, arm) => row.which[arm] < 0 ? null : row.said[row.which[arm]];
function verdictNodes(row, arm, everything) {
  const source = browser.source;
  return source.scorers.map((name, place) => {
    const value = row.which[arm] < 0 ? undefined : row.scores[place][arm] ?? null, kind = verdictKind(value);
    const rule = source.meta.rules[row.rules[place][arm]] ?? "";
    const words = value === undefined ? "not asked" : value === null ? "not judged" : value === 1 ? "right" : value === 0 ? "wrong" : score(value);
    return h("span", {class: `verdict ${kind}`}, everything || source.scorers.length > 1 ? h("bdi", {class: "of"}, name) : null, h("b", {}, words), rule && h("bdi", {class: "rule"}, rule));
  });
}

function cards(row, more) {
  const source = browser.source;
  return h("div", {class: "cards", role: "group", "aria-label": "Answers; press one to see its passages"}, source.arms.map((arm, place) => {
    const said = answerOf(row, place), read = said === null ? -1 : more.read(place);
    return h("button", {type: "button", class: `card ${verdictKind(scored(row, place))}`, "aria-pressed": String(browser.shown[0] === place), "data-place": place, title: place < 9 ? `Key ${place + 1}` : null, onclick: () => showSystem(place)},
      h("span", {class: "arm"}, h("bdi", {}, arm.label), read >= 0 && h("small", {}, `read from passage ${read + 1}`)),
      h("bdi", {class: said ? "said" : "said none", dir: "auto"}, said === null ? "not asked" : said || "(no answer)"),
      h("span", {class: "verdicts"}, said === null ? null : verdictNodes(row, place, false)));
  }));
}

async function armPanel(row, more) {
  const source = browser.source, place = browser.shown[0] ?? 0, arm = source.arms[place], said = answerOf(row, place);
  if (said === null) return h("section", {class: "panel"}, h("h3", {}, h("bdi", {}, arm.label)), h("p", {class: "soft"}, "It was not asked this question" + (arm.kind === "oracle" ? ": there is no right passage." : ".")));
  const given = more.passages(place), read = more.read(place), [surety, tokensIn, tokensOut, seconds, dollars] = more.numbers(place);
  const texts = await Promise.all(given.map(passage => passage < 0 ? null : source.passage(passage)));
  const took = [surety !== null && `answer’s score ${amount(surety)}`, (tokensIn || tokensOut) && `${amount(tokensIn)} tokens in, ${amount(tokensOut)} out`, seconds !== null && `${amount(seconds)} s`, dollars && `$${amount(dollars)}`].filter(Boolean);
  const [detail, ...judged] = more.details(place);
  const rest = [["The reader", detail], ...judged.map((words, n) => [source.scorers[n], words])].filter(([, words]) => words);
  return h("section", {class: "panel", "aria-label": `Passages of ${arm.label}`},
    h("h3", {}, h("bdi", {}, arm.label)),
    said.length > 90 && h("p", {class: "full", dir: "auto"}, said),
    h("p", {class: "verdicts"}, verdictNodes(row, place, true)),
    took.length > 0 && h("p", {class: "soft facts"}, took.join(" · ")),
    rest.length > 0 && h("details", {class: "rest"}, h("summary", {}, "More of the record"), rest.map(([name, words]) => [h("h4", {}, h("bdi", {}, name)), h("pre", {dir: "auto"}, words)])),
    given.length ? h("ol", {class: "passages"}, given.map((passage, rank) => {
      if (passage < 0) return h("li", {class: "passage soft"}, `Passage ${rank + 1} is not in this split any more.`);
      const badges = [rank === read && ["read", "read from here"], more.right.has(passage) && ["right", "right"], more.holding.has(passage) && ["answer", "answer"]].filter(Boolean);
      const node = passageNode(texts[rank], markedBoth(texts[rank].text, row.answers, said), {rank: rank + 1, badges, right: more.right.has(passage)});
      if (rank === read) node.classList.add("source");
      return node;
    })) : h("p", {class: "soft"}, "It was given no passage."));
}

async function drawDetail() {
  const source = browser.source, row = browser.rows[browser.at], detail = $("#detail");
  const turn = drawDetail.turn = (drawDetail.turn ?? 0) + 1;
  let more, panel;
  try { more = await source.more(row); panel = await armPanel(row, more); }
  catch (error) {
    if (turn === drawDetail.turn) detail.replaceChildren(h("p", {class: "warning"}, error.message));
    return;
  }
  if (turn !== drawDetail.turn) return; // another question was chosen meanwhile
  const asked = row.question.trim(), image = picture(source.folder, row.image, "Image of the question", "of-query");
  fill(detail,
    h("div", {class: "steps"},
      h("button", {type: "button", class: "quiet back", onclick: closeDetail}, "‹ List"),
      h("button", {type: "button", class: "quiet", "aria-label": "Previous question", disabled: browser.at === 0, onclick: () => step(-1)}, "‹"),
      h("button", {type: "button", class: "quiet", "aria-label": "Next question", disabled: browser.at === browser.rows.length - 1, onclick: () => step(1)}, "›"),
      h("span", {class: "soft"}, `${number.format(browser.at + 1)} of ${number.format(browser.rows.length)}`),
      h("bdi", {class: "id"}, row.id)),
    h("div", {class: image ? "query with-image" : "query"}, image,
      h("div", {},
        h("h2", {dir: "auto"}, asked || h("span", {class: "soft"}, "No question: the image alone is asked about")),
        h("ul", {class: "answers", "aria-label": "Accepted answers"}, row.answers.slice(0, 24).map(answer => h("li", {dir: "auto"}, answer)),
          row.answers.length > 24 && h("li", {class: "soft"}, `${row.answers.length - 24} more`)),
        h("p", {class: "soft facts"}, source.meta.filters.map(filter => [filter.name, filter.values[row.filters[filter.name]]])
          .filter(([, value]) => value !== "(none)").map(pair => pair.join(": ")).join(" · ")))),
    h("h3", {class: "label"}, "Answers"),
    cards(row, more), panel);
}

function showSystem(place) {
  browser.shown = [place];
  drawDetail().then(() => $(`.cards [data-place="${place}"]`)?.focus({preventScroll: true}));
}

function makeBrowser() {
  const source = browser.source, column = source.column;
  const changed = () => applyFilters(browser.rows[browser.at]);
  const redrawn = () => { changed(); if (browser.at >= 0) drawDetail(); };
  const retrieved = source.arms.map((arm, place) => [place, arm]).filter(([, arm]) => arm.kind === "retrieved").map(([place, arm]) => [place, arm.label]);
  fill($("#browser"),
    h("div", {class: "side"},
      h("div", {class: "tools"},
        splitSelect(column), searchBox(changed),
        h("details", {class: "filters", open: !narrow.matches}, h("summary", {}, "Filters"),
          h("div", {class: "grid-of-two"},
            select("Show", FINDS, browser.find, value => { browser.find = value; changed(); }, {id: "find"}),
            retrieved.length > 1 && select("with", retrieved, browser.a, value => { browser.a = Number(value); browser.shown = [browser.a]; redrawn(); }, {id: "with"}),
            source.scorers.length > 1 && select("judged by", source.scorers.map(name => [name, name]), browser.scorer, value => { browser.scorer = value; redrawn(); }, {id: "judge"}),
            filterSelects(source, changed))),
        h("p", {id: "found", class: "soft", role: "status"}),
        h("p", {class: "strip key soft", "aria-hidden": "true"}, h("i", {class: "hit"}), "right", h("i", {class: "deep"}), "partly", h("i", {class: "miss"}), "wrong", h("i", {class: "unknown"}), "not judged"),
        h("p", {class: "soft small-note"}, "A square an arm, in the order of the answers. Helped and hurt: against no retrieval; right: a score of .5 or more."),
        leftOut(column)),
      rowList(source)),
    h("article", {id: "detail", tabindex: "-1", "aria-label": "Question"}));
}

const first = report.columns.find(column => column.browser.folder !== undefined) ?? report.columns[0];
$("nav a[data-part=queries]").href = `#${encodeURIComponent(first.key)}/`;
makeReport();
route();
