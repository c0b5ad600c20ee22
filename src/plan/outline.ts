/** A plan in a few lines: what became of which layers, with repeated blocks folded into one name. */
import type { CollectiveReport, LayerReport, PlanReport } from "./explain.ts";
import type { LayerKind } from "./layer_kind.ts";
import { printBytes } from "./units.ts";

const KINDS: readonly (readonly [LayerKind, string])[] = [
  ["column", "column-parallel"],
  ["row", "row-parallel"],
  ["vocab", "vocab-parallel"],
  ["data", "split by input"],
  ["partial", "added once"],
  ["replicated", "replicated"],
];
/** More names than this on a line are counted. */
const MOST_NAMES = 8;

/** The outline's lines: one a kind of layer, one for collectives, one for weights. */
export function planOutline(report: PlanReport): string[] {
  const rows: (readonly [string, string])[] = [];
  const seen = new Set<string>();
  for (const [kind, label] of KINDS) {
    // A bias is its layer's; the largest weight, which comes first in this order, says what became of the layer.
    const names = report.layers.filter((l) => l.kind === kind).map(nameOf).filter((name) => !seen.has(name));
    names.forEach((name) => seen.add(name));
    const folded = foldNames([...new Set(names)]);
    if (folded.length === 0) continue;
    const more = folded.length > MOST_NAMES ? `, ${folded.length - MOST_NAMES} more` : "";
    rows.push([label, folded.slice(0, MOST_NAMES).join(", ") + more]);
  }
  if (report.undescribed) {
    rows.push(["run whole", `${report.undescribed.join(", ")}: ops that have no description`]);
  }
  rows.push(["collectives", collectivesLine(report.collectives)]);
  const { weightBytes } = report.cost;
  const share = report.weightBytes > 0 ? ` (${Math.round(100 * weightBytes / report.weightBytes)} %)` : "";
  rows.push(["weights", `${printBytes(weightBytes)} a rank of ${printBytes(report.weightBytes)}${share}`]);
  const width = Math.max(...rows.map(([label]) => label.length)) + 2;
  return rows.map(([label, text]) => label.padEnd(width) + text);
}

/** Folds names that differ in their first number: `h.0.attn`, `h.1.attn`, `h.2.attn` become `h.0-2.attn`; order is kept. */
export function foldNames(names: readonly string[]): string[] {
  return foldRows(names.map((name) => [name])).map(([name]) => name!);
}

/** Folds rows of which only the name in the first cell differs, as {@linkcode foldNames} does; each stands where its first was. */
export function foldRows(rows: readonly (readonly string[])[]): string[][] {
  const groups = new Map<string, { readonly stem: string; readonly cells: readonly string[]; numbers: number[] }>();
  for (const [name = "", ...cells] of rows) {
    const number = /\d+/.exec(name);
    const stem = number ? `${name.slice(0, number.index)}\0${name.slice(number.index + number[0].length)}` : name;
    const key = [stem, ...cells].join("\n");
    let group = groups.get(key);
    if (!group) groups.set(key, group = { stem, cells, numbers: [] });
    if (number) group.numbers.push(Number(number[0]));
  }
  return [...groups.values()].map(({ stem, cells, numbers }) => [stem.replace("\0", ranges(numbers)), ...cells]);
}

function nameOf({ scope, name }: LayerReport): string {
  return scope === undefined || scope === "" ? name : scope;
}

/** `0-3,7` for 0, 1, 2, 3, 7; `0-78/2` for every second. */
function ranges(numbers: readonly number[]): string {
  const sorted = [...new Set(numbers)].sort((a, b) => a - b);
  const parts: string[] = [];
  for (let i = 0; i < sorted.length;) {
    const step = sorted[i + 1]! - sorted[i]!;
    let j = i;
    while (sorted[j + 1]! - sorted[j]! === step) j++;
    // Two that are apart are no range.
    if (step > 1 && j === i + 1) j = i;
    parts.push(i === j ? `${sorted[i]}` : `${sorted[i]}-${sorted[j]}${step === 1 ? "" : `/${step}`}`);
    i = j + 1;
  }
  return parts.join(",");
}

function collectivesLine(collectives: readonly CollectiveReport[]): string {
  if (collectives.length === 0) return "none";
  const counts = new Map<string, number>();
  for (const { kind } of collectives) counts.set(kind, (counts.get(kind) ?? 0) + 1);
  const bytes = collectives.reduce((n, c) => n + c.bytesPerToken, 0);
  return `${[...counts].map(([kind, n]) => `${n} ${kind}`).join(", ")} a step; ${printBytes(bytes)} a token`;
}
