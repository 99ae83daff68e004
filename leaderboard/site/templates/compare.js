"use strict";
// Two systems query by query. Texts from outside are set as text, never as markup; the files of data call `m2kr`.

const $ = selector => document.querySelector(selector);
const form = $("[data-pair]"), lists = Object.fromEntries([...form.querySelectorAll("select")].map(list => [list.name, list]));
const narrow = matchMedia("(max-width: 640px)");
const PAGE = 50, SHOWN = {differing: "all that differ", a: "A is better", b: "B is better", equal: "equal"};
const count = n => n.toLocaleString("en");
// Three places as Python rounds them: of two equally near, which only sixteenths have, the even one.
const places = value => (Math.abs(value * 16 % 2) === 1 ? 2 * Math.round(value * 500) / 1000 : value).toFixed(3);
const shown = value => value === null ? "–" : places(value).replace(/^(-?)0\./, "$1.").replace("-", "−");
const signed = value => (value > 0 && places(value) !== "0.000" ? "+" : "") + shown(value).replace("−.000", ".000");
const chance = p => Number.isNaN(p) ? "–" : p < .0001 ? "< .0001" : p.toFixed(4).replace(/^0/, "");

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
const h = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

const files = new Map();
window.m2kr = (name, value) => files.get(name)?.done(value);
function load(name) {
  if (!files.has(name)) {
    const file = {};
    file.value = new Promise((done, fail) => {
      const script = h("script", {src: `data/${name}.js`, charset: "utf-8"});
      file.done = done;
      script.onload = () => { script.remove(); fail(new Error(`data/${name}.js has nothing of this name in it.`)); };
      script.onerror = () => { script.remove(); files.delete(name); fail(new Error(`data/${name}.js, which belongs beside this page, can’t be read.`)); };
      document.head.append(script);
    });
    files.set(name, file);
  }
  return files.get(name).value;
}

// The scores that query_scores.packed_scores packed; null where undefined.
function unpacked({values, places}, n) {
  const bits = 32 - Math.clz32(values.length - 1), bytes = atob(places);
  let held = 0, left = 0, at = 0;
  return Array.from({length: n}, () => {
    for (; left < bits; left += 8) held = (held << 8 | bytes.charCodeAt(at++)) & 0xffffff;
    left -= bits;
    return values[held >>> left & (1 << bits) - 1];
  });
}

let compared = null, turn = 0;

function offer(list, options, asked, otherwise) {
  list.replaceChildren(...options.map(([value, words]) => h("option", {value}, words)));
  list.value = options.some(([value]) => value === asked) ? asked : otherwise;
}

// Shows what the address asks for; whatever it has wrong becomes what is usual.
async function show() {
  const mine = ++turn;
  try {
    const asked = [...lists.board.options].some(({value}) => value === address.get("board"));
    lists.board.value = asked ? address.get("board") : lists.board.options[0].value;
    const key = lists.board.value, board = await load(`q.${key}`);
    if (mine !== turn) return;
    const systems = board.systems.map(system => [system.key, `${system.title} (${system.version})`]);
    offer(lists.a, systems, address.get("a"), systems.find(([one]) => one !== address.get("b"))[0]);
    offer(lists.b, systems, address.get("b"), systems.find(([one]) => one !== lists.a.value)[0]);
    offer(lists.metric, board.metrics.map(({name, heading}) => [name, heading]), address.get("metric"), board.metrics[0].name);
    form.hidden = false;
    const [a, b] = [lists.a, lists.b].map(list => board.systems.find(system => system.key === list.value));
    const metric = board.metrics.find(({name}) => name === lists.metric.value);
    const names = [key, a.key, b.key, metric.name].join(" ");
    if (compared?.names !== names) {
      const scores = await Promise.all([a, b].map(system => load(`q.${key}.${system.key}`)));
      if (mine !== turn) return;
      compare(names, key, board, metric, [a, b], scores.map(of => of[metric.name]));
    }
    address.set({board: key, a: a.key, b: b.key, metric: metric.name});
    drawQueries();
  } catch (error) {
    if (mine === turn) fail(error.message);
  }
}

function fail(words) {
  compared = null;
  $("[data-state]").textContent = words;
  $("[data-compared]").hidden = true;
}

function compare(names, key, board, metric, systems, packed) {
  if (packed.includes(undefined)) return fail("One of them has no scores by this metric.");
  const [first, second] = packed.map(of => unpacked(of, board.queries.length));
  const all = board.queries.map((id, place) => ({id, a: first[place], b: second[place]}));
  const rows = all.filter(({a, b}) => a !== null && b !== null);
  if (!rows.length) return fail("No query has a score of both.");
  for (const row of rows) {
    row.difference = row.a - row.b;
    row.group = row.difference > 1e-12 ? "a" : row.difference < -1e-12 ? "b" : "equal";
  }
  rows.sort((x, y) => Math.abs(y.difference) - Math.abs(x.difference));  // the order of the data among equal ones
  const kept = all.filter(row => row.group);
  const tests = pairedTests(kept.map(({a}) => a), kept.map(({b}) => b));
  compared = {names, key, metric, systems, rows, tests};
  $("[data-state]").textContent = "";
  $("[data-compared]").hidden = false;
  drawScores(rows.length < all.length ? all.length - rows.length : 0);
  drawHistogram();
}

function drawScores(undefinedOnes) {
  const {key, metric, systems, tests} = compared;
  const share = n => h("td", {class: "n"}, h("b", {}, count(n)), " ", h("small", {}, "queries"));
  const score = (value, interval) => h("td", {class: "n"}, h("b", {}, value), " ", h("small", {}, interval));
  const name = (system, place) => h("th", {scope: "row"}, h("b", {class: `side ${place ? "b" : "a"}`}, place ? "B" : "A"), " ",
    h("a", {href: system.page}, system.title), h("small", {}, system.version));
  $("[data-metric]").replaceChildren(h("abbr", {title: metric.doc}, metric.heading));
  $("[data-scores]").replaceChildren(
    ...systems.map((system, place) => h("tr", {}, name(system, place), score(...system.scores[metric.name]), share(place ? tests.losses : tests.wins))),
    h("tr", {}, h("th", {scope: "row"}, "A − B"), score(signed(tests.difference), `[${signed(tests.low)} ${signed(tests.high)}]`),
      h("td", {class: "n"}, h("b", {}, count(tests.n - tests.wins - tests.losses)), " ", h("small", {}, "equal"))));
  $("[data-board]").href = `boards/${key}.html`;
  const better = systems[tests.difference > 0 ? 0 : 1].title;
  $("[data-finding]").replaceChildren(...tests.p < .05
    ? [h("b", {}, better), " is better, by a test at the level .05: were they equally good, so large a difference would come up in fewer than 5 of 100 cases."]
    : ["These queries can’t tell the two apart. That doesn’t show that they are equal."]);
  const facts = [
    ["Randomisation test", `p ${/</.test(chance(tests.p)) ? "" : "= "}${chance(tests.p)}`, tests.exact ? "exact, over all assignments" : `from ${count(tests.draws)} drawn assignments`],
    ["Paired t test", Number.isNaN(tests.pT) ? "–" : `p ${/</.test(chance(tests.pT)) ? "" : "= "}${chance(tests.pT)}`, "two-sided"],
    ["Queries", count(tests.n), undefinedOnes ? `${count(undefinedOnes)} more aren’t defined for both` : ""],
  ];
  $("[data-tests]").replaceChildren(...facts.map(([term, value, more]) =>
    h("div", {}, h("dt", {}, term), h("dd", {}, value, " ", h("small", {}, more)))));
}

function drawHistogram() {
  const {rows, tests} = compared, differing = rows.filter(({group}) => group !== "equal");
  const place = $("[data-histogram]");
  if (!differing.length) return place.replaceChildren(h("p", {class: "soft"}, "No query differs."));
  const most = Math.abs(differing[0].difference), side = narrow.matches ? 5 : 10, bins = Array(2 * side).fill(0);
  for (const {difference, group} of differing) {
    const size = Math.min(side - 1, Math.ceil(Math.abs(difference) / most * side - 1e-9) - 1);
    bins[group === "a" ? side + size : side - 1 - size]++;
  }
  const highest = Math.max(...bins), wide = 30, height = 150, left = 8, top = 18;
  const edge = bin => shown(Math.abs(bin - side) / side * most);
  const bars = bins.map((n, bin) => {
    if (!n) return "";
    const tall = Math.max(1, n / highest * height), x = left + bin * wide;
    const [from, to] = bin < side ? [bin + 1, bin] : [bin, bin + 1];
    return svg("g", {},
      svg("rect", {class: bin < side ? "b" : "a", x: x + 1, y: top + height - tall, width: wide - 2, height: tall}),
      svg("text", {x: x + wide / 2, y: top + height - tall - 4, "text-anchor": "middle", class: "tick"}, String(n)),
      svg("title", {}, `${count(n)} queries: ${bin < side ? "B" : "A"} is better by ${edge(from)} to ${edge(to)}`));
  });
  const middle = left + side * wide, words = (x, anchor, text) => svg("text", {x, y: top + height + 18, "text-anchor": anchor, class: "tick"}, text);
  place.replaceChildren(h("figure", {class: "histogram"},
    svg("svg", {viewBox: `0 0 ${2 * left + 2 * side * wide} ${top + height + 26}`, role: "img",
      "aria-label": `Histogram of differences: A is better on ${count(tests.wins)} queries, B on ${count(tests.losses)}`}, ...bars,
      svg("path", {class: "axis", d: `M${left} ${top + height + .5}H${left + 2 * side * wide}M${middle} ${top}V${top + height + 5}`}),
      words(left, "start", `B better by ${edge(0)}`), words(middle, "middle", "0"), words(left + 2 * side * wide, "end", `A better by ${edge(2 * side)}`)),
    h("figcaption", {class: "soft"}, `${count(tests.n - differing.length)} queries with equal scores aren’t drawn.`)));
}

function chosen() {
  const asked = address.get("show"), group = asked in SHOWN ? asked : "differing";
  return {group, rows: compared.rows.filter(row => group === "differing" ? row.group !== "equal" : row.group === group)};
}

function drawQueries() {
  if (!compared) return;
  const {group, rows} = chosen(), {tests} = compared, last = Math.max(1, Math.ceil(rows.length / PAGE));
  const page = Math.min(last, Math.max(1, Math.floor(Number(address.get("page"))) || 1)), start = (page - 1) * PAGE;
  const sizes = {differing: tests.wins + tests.losses, a: tests.wins, b: tests.losses, equal: tests.n - tests.wins - tests.losses};
  offer($("[data-show]"), Object.entries(SHOWN).map(([value, words]) => [value, `${words} (${count(sizes[value])})`]), group, group);
  const cell = words => h("td", {class: "n"}, words);
  $("[data-queries]").replaceChildren(...rows.slice(start, start + PAGE).map(({id, a, b, difference}) =>
    h("tr", {}, h("th", {scope: "row"}, h("code", {}, id)), cell(shown(a)), cell(shown(b)), cell(signed(difference)))));
  $("[data-range]").textContent = rows.length ? `${count(start + 1)}–${count(Math.min(rows.length, start + PAGE))} of ${count(rows.length)}` : "none";
  for (const [button, there] of [[$("[data-back]"), page - 1], [$("[data-on]"), page + 1]]) {
    const left = document.activeElement === button && (there < 1 || there > last);
    button.disabled = there < 1 || there > last;
    button.value = there;
    if (left) $("[data-show]").focus();  // a button that is switched off has no focus to go on from
  }
}

// A text that a spreadsheet takes for a formula gets a ', as in the downloads that Python writes.
function csvCell(value) {
  if (typeof value === "number") return String(value);
  const words = value.split(/\s+/).filter(Boolean).join(" "), line = (/^[=+\-@]/.test(words) ? "'" : "") + words;
  return /[",]/.test(line) ? `"${line.replaceAll('"', '""')}"` : line;
}

function download() {
  const {key, metric, systems} = compared;
  const head = ["query", ...systems.map(system => `${system.key} ${system.version}`), "difference"];
  const rows = chosen().rows.map(({id, a, b, difference}) => [id, a, b, difference]);
  const blob = new Blob([[head, ...rows].map(row => row.map(csvCell).join(",") + "\n").join("")], {type: "text/csv"});
  const link = h("a", {href: URL.createObjectURL(blob), download: `${key}.${systems[0].key}.${systems[1].key}.${metric.name}.csv`});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function ask(values) {
  address.set({board: lists.board.value, a: lists.a.value, b: lists.b.value, metric: lists.metric.value, show: "", page: "", ...values});
  show();
}
form.addEventListener("submit", event => event.preventDefault());
form.addEventListener("change", () => ask({}));
$("[data-swap]").addEventListener("click", () => ask({a: lists.b.value, b: lists.a.value}));
$("[data-show]").addEventListener("change", event => ask({show: event.target.value === "differing" ? "" : event.target.value}));
for (const button of [$("[data-back]"), $("[data-on]")])
  button.addEventListener("click", () => ask({show: address.get("show"), page: button.value > 1 ? button.value : ""}));
narrow.addEventListener("change", () => compared && drawHistogram());
$("[data-download]").addEventListener("click", download);
address.follow(show);
