/**
 * The first step of a model whose later steps are another graph: encoder-decoders, and decoders that come in two files.
 *
 * Both graphs run on the same ranks, one after the other. The states that the first begins must end where the later steps
 * have them, and weights that both read should be cut alike, so that a rank holds them once.
 */
import { carriedByName } from "../formats/carried_names.ts";
import { type Graph, outputOf, type TensorData, valueOf } from "../graph/graph.ts";
import { type Placement, REPLICATE } from "../graph/placement.ts";
import type { Plan } from "../plan/plan.ts";
import { type PlanOptions, search } from "../plan/search.ts";

/** The graphs of two files as first step and later steps: what they carry, by the names of states. */
export function joinSteps(
  first: Graph<"global">,
  next: Graph<"global">,
): { readonly first: Graph<"global">; readonly next: Graph<"global"> } {
  const states = next.nodes.flatMap((n) => n.kind === "placeholder" ? [n.outputs[0]] : []);
  const begun = carriedByName(states, outputOf(first).names);
  const moving = new Set(next.carried.map((c) => c.input));
  const kept = begun.flatMap(({ input }) => moving.has(input) ? [] : [{ input }]);
  return { first: { ...first, carried: begun }, next: { ...next, carried: [...next.carried, ...kept] } };
}

/**
 * The plan of the (clean) graph `first`, given the later steps as they are sharded.
 *
 * @throws {PlanError} If the overrides cannot be met.
 */
export function planFirstStep(first: Graph<"global">, next: Graph<"sharded">, options: PlanOptions): Plan {
  return search(first, firstStepOptions(first, next, options));
}

/** `options` with what the later steps have decided for the (clean) graph `first`. */
export function firstStepOptions(first: Graph<"global">, next: Graph<"sharded">, options: PlanOptions): PlanOptions {
  const states = new Map(
    next.carried.map(({ input }) => [input, valueOf(next, input).placement ?? REPLICATE] as const),
  );
  const placements = new Map<TensorData, Placement[]>();
  for (const node of next.nodes) {
    if (node.kind !== "get_attr") continue;
    const list = placements.get(node.data) ?? [];
    list.push(valueOf(next, node.outputs[0]).placement ?? REPLICATE);
    placements.set(node.data, list);
  }
  const held = new Map(first.nodes.flatMap((n) => {
    const list = n.kind === "get_attr" ? placements.get(n.data) : undefined;
    return list ? [[n.outputs[0]!, list] as const] : [];
  }));
  return { ...options, states, held };
}
