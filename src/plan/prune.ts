/**
 * Leaves out strategies that cannot be part of a plan worth having, so that the search stays small.
 *
 * A shard is worth something when it spares a rank a part of a weight: cutting head_dim, or a batch that happens to be
 * constant, does not. So is one of a large tensor that a product gives as partial sums, by whatever dim: what follows up to the
 * next layer, norms and residual sums, is then shared out too, for a reduce-scatter and an all-gather in place of an
 * all-reduce (sequence parallelism). A deferred sum is worth something when it meets another one in an addition, which saves a
 * collective. Graphs without weights are left as they are.
 */
import type { Layout } from "../graph/layout.ts";
import { type Cell, join, rootOf } from "./cells.ts";
import type { CallShape, PlannedCall } from "./places.ts";
import type { Candidate } from "./strategies.ts";

/** A call with its strategies. Equal lists of candidates are the same object. */
export interface Choices {
  readonly call: PlannedCall;
  readonly candidates: readonly Candidate[];
}

/**
 * The strategies that are kept for each call, the replicated one always. Equal lists are the same object. `isLarge` says of a value
 * whether sharing out what is done with it may save more than a collective costs.
 */
export function pruneStrategies(
  all: readonly Choices[],
  isLarge: (value: string) => boolean = () => false,
): (readonly Candidate[])[] {
  const facts = new Map<readonly Candidate[], Facts[]>();
  const rows = all.map(({ call, candidates }): Row => {
    let list = facts.get(candidates);
    if (!list) facts.set(candidates, list = candidates.map((c) => factsOf(call.shape, c)));
    return { call, candidates, facts: list };
  });
  const deferred = usefulSums(rows), sharded = usefulShards(rows, isLarge);
  const known = new Map<readonly Candidate[], Map<string, readonly Candidate[]>>();
  return rows.map(({ candidates }, id) => {
    const keep = candidates.map((_, i) => deferred[id]![i]! && sharded[id]![i]!);
    const key = keep.map(Number).join("");
    let lists = known.get(candidates);
    if (!lists) known.set(candidates, lists = new Map());
    let list = lists.get(key);
    if (!list) lists.set(key, list = candidates.filter((_, i) => keep[i]));
    return list;
  });
}

/** What matters here of a strategy, the same for all equal calls. Tensors are inputs, then outputs. */
interface Facts {
  readonly linear: boolean;
  /** Inputs that are partial and no constants. */
  readonly partialInputs: readonly number[];
  readonly sumOutputs: readonly number[];
  readonly shards: readonly { readonly tensor: number; readonly dim: number; readonly layout: Layout }[];
  /** Whether the strategy spares a rank a part of a weight by itself. */
  readonly worthwhile: boolean;
}

interface Row extends Choices {
  readonly facts: readonly Facts[];
}

function factsOf({ inputs, constant, def }: CallShape, c: Candidate): Facts {
  const heavy = def?.flops !== undefined && c.inputs.some((p, i) => p.kind === "S" && constant[i]);
  return {
    linear: c.factors.length === 0 && c.outputs.some((p) => p.kind === "P"),
    partialInputs: c.inputs.flatMap((p, i) => (p.kind === "P" && !constant[i] ? [i] : [])),
    sumOutputs: c.outputs.flatMap((p, i) => (p.kind === "P" && p.reduction === "sum" ? [inputs + i] : [])),
    shards: [...c.inputs, ...c.outputs].flatMap((p, tensor) =>
      p.kind === "S" ? [{ tensor, dim: p.dim, layout: p.layout }] : []
    ),
    worthwhile: heavy || c.factors.some((f) => f.selected || f.internal),
  };
}

/** By call and strategy, whether it is none that passes sums on, or leads to an addition of sums of different origin. */
function usefulSums(rows: readonly Row[]): boolean[][] {
  const origins = new Map<string, readonly number[]>();
  rows.forEach(({ call: { names }, candidates, facts }, id) => {
    facts.forEach(({ partialInputs, sumOutputs }, i) => {
      if (sumOutputs.length === 0) return;
      const own = candidates[i]!.factors.length > 0
        ? [id]
        : [...new Set(partialInputs.map((t) => names[t]!))].flatMap((v) => [...origins.get(v) ?? []]);
      for (const t of sumOutputs) {
        // A few origins are as good as many.
        origins.set(names[t]!, [...new Set([...origins.get(names[t]!) ?? [], ...own].slice(0, 4))]);
      }
    });
  });
  const useful = new Set<string>();
  const keep = rows.map(({ facts }) => facts.map((f) => !f.linear));
  for (let id = rows.length - 1; id >= 0; id--) {
    const { call: { names, node, shape }, facts } = rows[id]!;
    facts.forEach(({ linear, partialInputs }, i) => {
      if (!linear) return;
      const from = [...new Set(partialInputs.map((t) => names[t]!))];
      const sources = from.map((v) => origins.get(v) ?? []);
      // Both halves of a rotation come from one product: nothing is saved by adding them before the sum.
      const meets = sources.some((a, k) => sources.slice(0, k).some((b) => !a.some((x) => b.includes(x))));
      if (!meets && !node.outputs.some((o) => useful.has(o))) return;
      if (shape.def?.flops || sources.some((s) => s.length === 0)) return;
      keep[id]![i] = true;
      from.forEach((v) => useful.add(v));
    });
  }
  return keep;
}

/** A shard of a value, in a set with those that strategies connect. */
interface ShardCell extends Cell<ShardCell> {
  useful: boolean;
  /** Whether sums may be scattered so: what is no product may follow. */
  scattered: boolean;
}

/** By call and strategy, whether it has no shards, or such as are, by way of any strategies, those of a weight. */
function usefulShards(rows: readonly Row[], isLarge: (value: string) => boolean): boolean[][] {
  const cells = new Map<string, Map<Layout, ShardCell>[]>();
  const cellOf = (value: string, dim: number, layout: Layout): ShardCell => {
    let dims = cells.get(value);
    if (!dims) cells.set(value, dims = []);
    const layouts = dims[dim] ??= new Map();
    let cell = layouts.get(layout);
    if (!cell) layouts.set(layout, cell = { up: undefined, useful: false, scattered: false });
    return cell;
  };
  const marks: ShardCell[] = [];
  const firsts = rows.map(({ call: { names }, facts }) =>
    facts.map(({ shards, worthwhile }) => {
      let first: ShardCell | undefined;
      for (const { tensor, dim, layout } of shards) {
        const cell = cellOf(names[tensor]!, dim, layout);
        if (first) join(cell, first);
        else first = cell;
      }
      if (first && worthwhile) marks.push(first);
      return first;
    })
  );
  for (const cell of marks) rootOf(cell).useful = true;
  for (const { call: { names }, facts } of rows) {
    for (const { linear, worthwhile, sumOutputs } of facts) {
      if (linear || !worthwhile) continue;
      for (const value of sumOutputs.map((t) => names[t]!).filter(isLarge)) {
        for (const layouts of cells.get(value) ?? []) {
          for (const cell of layouts?.values() ?? []) rootOf(cell).scattered = true;
        }
      }
    }
  }
  return firsts.map((list, id) => {
    // A product of rows that are shared out would keep its weight whole on every rank.
    const { def, rule } = rows[id]!.call.shape;
    const isProduct = def?.flops !== undefined && rule.factors.some((f) => f.reduce === "sum");
    return list.map((first) =>
      marks.length === 0 || !first || rootOf(first).useful || (!isProduct && rootOf(first).scattered)
    );
  });
}
