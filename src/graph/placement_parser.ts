/** Reads placements and layouts in the form of their keys: `R`, `P(sum)`, `S(1;90:0-45|45-90)`. */
import { parseDim } from "../core/dim.ts";
import { type Layout, layout } from "./layout.ts";
import { type Placement, REPLICATE } from "./placement.ts";

/** The layout whose key is `key` (`[outer*]size:0-2+4-6|2-4`); undefined if it is none. */
export function parseLayout(key: string): Layout | undefined {
  const m = /^(?:(.*)\*)?(\d+):([\d|+-]*)$/.exec(key);
  if (!m) return undefined;
  const parts = m[3]!.split("|").map((
    part,
  ) => (part === "" ? [] : part.split("+").map((range) => /^(\d+)-(\d+)$/.exec(range))));
  if (parts.some((part) => part.includes(null))) return undefined;
  return layout(
    Number(m[2]),
    parts.map((part) => part.map((range) => [Number(range![1]), Number(range![2])] as const)),
    m[1] === undefined ? 1 : parseDim(m[1]),
  );
}

/** The placement whose `placementKey` is `key`; undefined if it is none. */
export function parsePlacement(key: string): Placement | undefined {
  if (key === "R") return REPLICATE;
  const partial = /^P\((sum|max|min)\)$/.exec(key);
  if (partial) return { kind: "P", reduction: partial[1] as "sum" | "max" | "min" };
  const shard = /^S\((\d+);(.*)\)$/.exec(key);
  const cut = shard && parseLayout(shard[2]!);
  return cut ? { kind: "S", dim: Number(shard[1]), layout: cut } : undefined;
}
