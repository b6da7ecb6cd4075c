// The arithmetic of explanations, done again here: taking a sentence out asks nobody.

// The score of what is kept: the table's kept cells over the lengths that the grams' kept cells give.
// `keepFirst` and `keepSecond` are lists of booleans. null: nothing with a direction is left.
export function scoreOf({ table, first, second }, keepFirst, keepSecond) {
  const left = kept(first.gram, keepFirst, keepFirst);
  const right = kept(second.gram, keepSecond, keepSecond);
  if (Math.min(left, right) < 1e-10) return null;
  return kept(table, keepFirst, keepSecond) / Math.sqrt(left * right);
}

function kept(cells, rows, columns) {
  let sum = 0;
  for (let i = 0; i < rows.length; i++) {
    if (!rows[i]) continue;
    for (let j = 0; j < columns.length; j++) if (columns[j]) sum += cells[i][j];
  }
  return sum;
}

// Values scaled by the largest absolute one, to -1..1.
export function scaled(values) {
  const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-12);
  return values.map((value) => value / largest);
}

// What each source adds, as shares of the whole: [["input", 0.5], ...], in the order of the vector.
export function bySource(segments, value) {
  const sums = new Map();
  for (const segment of segments) sums.set(segment.source, (sums.get(segment.source) ?? 0) + value(segment));
  const total = [...sums.values()].reduce((sum, one) => sum + one, 0);
  return [...sums].map(([source, sum]) => [source, Math.abs(total) < 1e-6 ? null : sum / total]);
}
