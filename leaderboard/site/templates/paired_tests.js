"use strict";
// The paired statistics of two systems that `m2kr compare` gives, number for number: it draws what NumPy's
// default_rng(0) draws.

// PCG64 (O'Neill 2014) as NumPy seeds it with 0; numbers of 128 bits are four of 32, the lowest first.
function generator() {
  let [a, b, c, d] = [0xa69561e3, 0x09585eb7, 0x5996452d, 0x1aa1b534], kept = null;
  const [i, j, k, l] = [0x447873a9, 0x588133bc, 0x3af71a82, 0x418ddadb];
  const [p, q, r, s] = [0x9fccf645, 0x4385df64, 0x1fc65da4, 0x2360ed05];
  const low = (x, y) => Math.imul(x, y) >>> 0;
  const high = (x, y) => Math.floor((x * (y >>> 16) + Math.floor(x * (y & 0xffff) / 65536)) / 65536);
  const carry = sum => Math.floor(sum / 4294967296);
  return function next() {  // 32 random bits
    if (kept !== null) { const half = kept; kept = null; return half; }
    const w = low(a, p) + i;
    const x = high(a, p) + low(a, q) + low(b, p) + j + carry(w);
    const y = high(a, q) + high(b, p) + low(a, r) + low(b, q) + low(c, p) + k + carry(x);
    const z = high(a, r) + high(b, q) + high(c, p) + low(a, s) + low(b, r) + low(c, q) + low(d, p) + l + carry(y);
    [a, b, c, d] = [w >>> 0, x >>> 0, y >>> 0, z >>> 0];
    let lower = (a ^ c) >>> 0, upper = (b ^ d) >>> 0;
    const turn = d >>> 26, by = turn & 31;
    if (turn > 31) [lower, upper] = [upper, lower];
    if (by) [lower, upper] = [(lower >>> by | upper << 32 - by) >>> 0, (upper >>> by | lower << 32 - by) >>> 0];
    kept = upper;
    return lower;
  };
}

const sum = values => values.reduce((total, value) => total + value, 0);
const round12 = value => Math.sign(value) * Math.round(Math.abs(value) * 1e12) / 1e12 + 0;

// Two-sided p of the t test (Student 1908): the regularised incomplete beta function I(freedom / 2, 1/2).
function studentP(difference, error, freedom) {
  if (Number.isNaN(error)) return NaN;
  if (!error || error <= 1e-15 * Math.abs(difference)) return Number(Math.abs(difference) < 1e-12);
  const t = difference / error, a = freedom / 2, b = .5, away = t * t / (freedom + t * t), x = 1 - away;
  if (!(away > 0 && away < 1)) return Number(away <= 0);
  const front = gammaRatio(a) / Math.sqrt(Math.PI) * Math.exp(a * Math.log1p(-away) + b * Math.log(away));
  const p = x > (a + 1) / (a + b + 2) ? 1 - front / b * fraction(b, a, away) : front / a * fraction(a, b, x);
  return Math.min(1, Math.max(0, p));
}
// gamma(a + 1/2) / gamma(a), by the asymptotic series of its logarithm.
function gammaRatio(a) {
  if (a < 20) return gammaRatio(a + 1) * a / (a + .5);
  const inverse = 1 / (a * a);
  return Math.exp(Math.log(a) / 2
    - (1 / 8 - inverse * (1 / 192 - inverse * (1 / 640 - inverse * (17 / 14336 - inverse * 31 / 18432)))) / a);
}
// The continued fraction of DLMF 8.17.22, by Lentz's method.
function fraction(a, b, x) {
  let value = 1, c = 1e300, d = 1;
  for (let step = 1; step < 100000; step++) {
    const m = Math.floor(step / 2);
    const term = step % 2
      ? -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
      : m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
    d = 1 / (1 + term * d || 1e-300);
    c = 1 + term / c || 1e-300;
    value *= c * d;
    if (Math.abs(c * d - 1) < 1e-15) break;
  }
  return value;
}

// The randomisation test's exact p; null if there are too many outcomes.
function exactP(differences) {
  const largest = differences.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  if (!largest) return 1;
  const relative = differences.map(value => round12(value / largest)), counts = new Map();
  for (const size of relative.map(Math.abs)) if (size) counts.set(size, (counts.get(size) ?? 0) + 1);
  const sizes = [...counts].sort(([a], [b]) => a - b);
  if (sum(sizes.map(([, count]) => Math.log2(count + 1))) > 16) return null;
  let outcomes = [[0, 1]];
  for (const [size, count] of sizes) {
    const logs = [0];
    for (let step = 1; step <= count; step++) logs.push(logs.at(-1) + Math.log((count - step + 1) / step));
    const chances = logs.map(log => Math.exp(log - count * Math.LN2));
    outcomes = outcomes.flatMap(([total, share]) =>
      chances.map((chance, flipped) => [total + size * (count - 2 * flipped), share * chance]));
  }
  const least = Math.abs(sum(relative)) - 1e-9;
  const p = sum(outcomes.filter(([total]) => Math.abs(total) >= least).map(([, share]) => share));
  return Math.min(1, Math.max(2.2250738585072014e-308, p));
}

// Its p by drawn assignments: a bit for each query, eight to a byte, whose sums are looked up.
function drawnP(differences, noise, draws) {
  const n = differences.length, bytes = Math.ceil(n / 8), sums = new Float64Array(bytes * 256);
  for (let byte = 0; byte < bytes; byte++)
    for (let bits = 1; bits < 256; bits++) {
      const lowest = 31 - Math.clz32(bits & -bits);
      sums[byte * 256 + bits] = sums[byte * 256 + (bits & bits - 1)] + (differences[byte * 8 + 7 - lowest] ?? 0);
    }
  const observed = sum(differences), least = Math.abs(observed) - 1e-10 * noise, next = generator();
  const step = Math.max(1, Math.floor((1 << 22) / n));
  let reached = 0;
  for (let start = 0; start < draws; start += step) {
    let word = 0, left = 0;  // each matrix of draws begins with new ones
    for (let row = Math.min(step, draws - start); row; row--) {
      let flipped = 0;
      for (let byte = 0; byte < bytes; byte++) {
        if (!left) { word = next(); left = 4; }
        flipped += sums[byte * 256 + (word & 255)];
        word >>>= 8;
        left--;
      }
      reached += Math.abs(observed - 2 * flipped) >= least;
    }
  }
  return (1 + reached) / (1 + draws);
}

// Ends of the mean difference's 95 % bootstrap interval.
function bootstrap(differences) {
  const n = differences.length, values = Float64Array.from(differences), next = generator();
  const rejected = n > 1 ? (4294967296 - n) % n : 0;
  const means = Float64Array.from({length: 1000}, () => {
    let total = 0;
    for (let drawn = 0; drawn < n; drawn++) {
      let product;
      do product = n > 1 ? next() * n : 0; while (product % 4294967296 < rejected);
      total += values[Math.floor(product / 4294967296)];
    }
    return total / n;
  }).sort();
  const quantile = share => {
    const place = share * (means.length - 1), below = Math.floor(place), part = place - below;
    return round12(means[below] + part * (means[below + 1] - means[below]));
  };
  return [quantile(.025), quantile(.975)];
}

// What is said of the scores of two systems on the same queries; none is undefined, and there is one at least.
function pairedTests(first, second) {
  const n = first.length, differences = first.map((value, place) => value - second[place]);
  const mean = sum(differences) / n;
  const variance = n > 1 ? sum(differences.map(value => (value - mean) ** 2)) / (n - 1) / n : NaN;
  const exact = exactP(differences), draws = 10000;
  const [low, high] = bootstrap(differences);
  return {
    n, low, high, draws,
    difference: round12(sum(first) / n - sum(second) / n),
    exact: exact !== null,
    p: exact ?? drawnP(differences, sum(first.map(Math.abs)) + sum(second.map(Math.abs)), draws),
    pT: studentP(mean, Math.sqrt(variance), n - 1),
    wins: differences.filter(value => value > 1e-12).length,
    losses: differences.filter(value => value < -1e-12).length,
  };
}
