/**
 * Leaves out strategies that cannot be part of a plan worth having, so that the search stays small.
 *
 * A shard is worth something when it spares a rank a part of a weight: cutting head_dim, or a batch that happens to be
 * constant, does not. A deferred sum is worth something when it meets another one in an addition, which saves a
 * collective. Graphs without weights are left as they are.
 */
import { placementKey } from "../graph/placement.ts";
import type { PlannedCall } from "./places.ts";
import type { Candidate } from "./strategies.ts";

/** A call with its strategies. */
export interface Choices {
  readonly call: PlannedCall;
  readonly candidates: readonly Candidate[];
}

/** The strategies that are kept for each call, the replicated one always. */
export function pruneStrategies(
  all: readonly Choices[],
  isConstant: (value: string) => boolean,
): (readonly Candidate[])[] {
  const deferred = usefulSums(all, isConstant);
  const sharded = usefulShards(all, isConstant);
  return all.map((choices) => choices.candidates.filter((c) => deferred(choices, c) && sharded(choices, c)));
}

/** Which linear strategies lead to an addition of sums of different origin. */
function usefulSums(all: readonly Choices[], isConstant: (value: string) => boolean) {
  const origins = new Map<string, ReadonlySet<number>>();
  all.forEach(({ call, candidates }, id) => {
    for (const c of candidates) {
      const from = partials(call, c, isConstant);
      const own = c.factors.length > 0 ? [id] : from.flatMap((v) => [...origins.get(v) ?? []]);
      c.outputs.forEach((p, o) => {
        if (p.kind !== "P" || p.reduction !== "sum") return;
        const name = call.node.outputs[o]!;
        // A few origins are as good as many.
        origins.set(name, new Set([...origins.get(name) ?? [], ...own].slice(0, 4)));
      });
    }
  });
  const useful = new Set<string>(), kept = new Set<Candidate>();
  for (const { call, candidates } of all.toReversed()) {
    for (const c of candidates) {
      if (!isLinear(c)) continue;
      const from = partials(call, c, isConstant);
      const sources = from.map((v) => origins.get(v) ?? new Set<number>());
      // Both halves of a rotation come from one product: nothing is saved by adding them before the sum.
      const meets = sources.some((a, i) => sources.slice(0, i).some((b) => ![...a].some((x) => b.has(x))));
      if (!meets && !call.node.outputs.some((o) => useful.has(o))) continue;
      if (call.def?.flops || sources.some((s) => s.size === 0)) continue;
      kept.add(c);
      from.forEach((v) => useful.add(v));
    }
  }
  return (_: Choices, c: Candidate) => !isLinear(c) || kept.has(c);
}

/** Which shards are, by way of any strategies, those of a weight. */
function usefulShards(all: readonly Choices[], isConstant: (value: string) => boolean) {
  const parent = new Map<string, string>();
  const find = (x: string): string => {
    let root = x;
    while (parent.get(root) !== undefined && parent.get(root) !== root) root = parent.get(root)!;
    parent.set(x, root);
    return root;
  };
  const marks: string[] = [];
  for (const { call, candidates } of all) {
    for (const c of candidates) {
      const keys = shardKeys(call, c);
      for (const k of keys) parent.set(find(k), find(keys[0]!));
      const heavy = call.def?.flops !== undefined &&
        c.inputs.some((p, i) => p.kind === "S" && isConstant(call.node.inputs[i]!));
      if (keys.length > 0 && (heavy || c.factors.some((f) => f.selected || f.internal))) marks.push(keys[0]!);
    }
  }
  const useful = new Set(marks.map(find));
  return ({ call }: Choices, c: Candidate) => {
    const keys = shardKeys(call, c);
    return useful.size === 0 || keys.length === 0 || useful.has(find(keys[0]!));
  };
}

/** The shards of a strategy. Constants are cut anew by each reader, so they connect nothing. */
function shardKeys(call: PlannedCall, c: Candidate): string[] {
  const names = [...call.node.inputs, ...call.node.outputs];
  return [...c.inputs, ...c.outputs].flatMap((p, i) => (p.kind === "S" ? [`${names[i]}\n${placementKey(p)}`] : []));
}

function isLinear(c: Candidate): boolean {
  return c.factors.length === 0 && c.outputs.some((p) => p.kind === "P");
}

/** The inputs that are partial and no constants. */
function partials(call: PlannedCall, c: Candidate, isConstant: (value: string) => boolean): string[] {
  const names = call.node.inputs.filter((_, i) => c.inputs[i]!.kind === "P");
  return [...new Set(names.filter((name) => !isConstant(name)))];
}
