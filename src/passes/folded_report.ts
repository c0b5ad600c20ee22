/**
 * The report of a plan for a model of many equal blocks, without planning most of them, or even cleaning: a few are planned, and
 * what they say is said for all. Where that is not proved, nothing is reported.
 */
import { dtypeInfo } from "../core/dtype.ts";
import { type Graph, isCall } from "../graph/graph.ts";
import { type CollectiveReport, explainSolved, type LayerReport, type PlanReport } from "../plan/explain.ts";
import { type FoldedPlan, isFoldable, KEPT_BLOCKS, solveFolded } from "../plan/fold.ts";
import type { PlanOptions } from "../plan/problem.ts";
import { foldBlocks, type Repeats } from "../plan/repeats.ts";
import { MAX_STATES } from "../plan/search.ts";
import type { CleanBlocks } from "./clean_model.ts";

/** The report of a clean graph, of which a few blocks are searched; undefined where it has to be searched as a whole. */
export function foldedReport(graph: Graph<"global">, options: PlanOptions): PlanReport | undefined {
  if (!isFoldable(options)) return undefined;
  const scopes = new Map(graph.nodes.flatMap((n) => (isCall(n) ? [[n.name, n.scope] as const] : [])));
  for (const kept of KEPT_BLOCKS) {
    const repeats = foldBlocks(graph, kept);
    const report = repeats && reportOf({ repeats, scopeOf: (name) => scopes.get(name) }, options);
    if (report) return report;
  }
  return undefined;
}

/** The same of a model of which only those blocks were cleaned. */
export function reportOf(
  { repeats, scopeOf }: Pick<CleanBlocks, "repeats" | "scopeOf">,
  options: PlanOptions,
): PlanReport | undefined {
  if (!isFoldable(options)) return undefined;
  const clean = repeats.graph;
  const folded = solveFolded(clean, repeats, options, MAX_STATES);
  const order = folded && orderOf(clean, repeats, folded.more);
  if (!folded || !order) return undefined;
  const small = explainSolved(clean, folded.solved);
  const layers = small.layers.flatMap((layer) => unfoldLayer(layer, { folded, repeats, scopeOf }));
  const collectives = small.collectives.flatMap((c) => {
    const values = folded.beside(c.before, c.value);
    return folded.unfoldNode(c.before).map((before, i) => ({ ...c, before, value: values[i]! }));
  });
  const bytes = clean.nodes.flatMap((n) =>
    n.kind === "get_attr"
      ? [
        folded.unfoldValue(n.outputs[0]).length * n.data.shape.reduce((a, b) => a * b, 1) *
        dtypeInfo(n.data.dtype).bits / 8,
      ]
      : []
  );
  return {
    ...small,
    layers: layers.toSorted((a, b) => order(a.name) - order(b.name)),
    collectives: collectives.toSorted((a, b) => order(a.before) - order(b.before)),
    cost: folded.cost,
    weightBytes: bytes.reduce((a, b) => a + b, 0),
  };
}

interface Unfolding {
  readonly folded: FoldedPlan;
  readonly repeats: Repeats;
  readonly scopeOf: CleanBlocks["scopeOf"];
}

function unfoldLayer(layer: LayerReport, { folded, repeats, scopeOf }: Unfolding): LayerReport[] {
  const weights = layer.weights.map((w) => folded.beside(layer.name, w.name));
  const collectives = (list: readonly CollectiveReport[]) =>
    list.map((c) => ({ c, values: folded.beside(layer.name, c.value), before: nodesBeside(layer.name, c.before) }));
  const before = collectives(layer.before), after = collectives(layer.after);
  const at = (list: typeof before, i: number) =>
    list.map(({ c, values, before }) => ({ ...c, value: values[i]!, before: before[i]! }));
  return folded.unfoldNode(layer.name).map((name, i) => {
    const { scope: _, ...rest } = layer, scope = scopeOf(name);
    return {
      ...rest,
      name,
      ...(scope === undefined ? {} : { scope }),
      weights: layer.weights.map((w, k) => ({ ...w, name: weights[k]![i]! })),
      before: at(before, i),
      after: at(after, i),
    };
  });

  function nodesBeside(of: string, node: string): string[] {
    const place = repeats.nodes.get(node), anchor = repeats.nodes.get(of);
    const all = folded.unfoldNode(of);
    if (!place || !anchor) return all.map(() => node);
    const shift = place.block - anchor.block;
    return all.map((full) => repeats.names[place.id]![repeats.nodes.get(full)!.block + shift] ?? node);
  }
}

/** Where a node of the whole graph stands in its clean form; undefined where blocks are not cleaned into equal pieces. */
function orderOf(
  clean: Graph<"global">,
  { nodes, names }: Repeats,
  more: number,
): ((name: string) => number) | undefined {
  const index = new Map(clean.nodes.map((n, i) => [n.name, i]));
  const strides = new Set<number>();
  let first = Infinity;
  for (const [name, i] of index) {
    const place = nodes.get(name);
    if (!place) continue;
    first = Math.min(first, i);
    const next = index.get(names[place.id]![place.block + 1] ?? "");
    if (next !== undefined) strides.add(next - i);
  }
  const [stride, ...others] = strides;
  if (stride === undefined || others.length > 0) return undefined;
  return (name) => {
    const place = nodes.get(name);
    if (place) return index.get(names[place.id]![0]!)! + place.block * stride;
    const i = index.get(name)!;
    return i < first ? i : i + more * stride;
  };
}
