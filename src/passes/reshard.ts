/** Insertion of reshards: from a graph and its plan to a graph in which every change of placement is a node. */
import { PlanError } from "../core/errors.ts";
import { GraphBuilder } from "../graph/builder.ts";
import { type Collective, type Graph, isCall, type Node, type Value, valueOf } from "../graph/graph.ts";
import { type Placement, placementKey, printPlacement, REPLICATE } from "../graph/placement.ts";
import { renameCaptures } from "../graph/subgraphs.ts";
import type { Plan } from "../plan/plan.ts";
import { redistributeSteps } from "../plan/redistribute.ts";

/** One collective of a reshard, and the placement that it gives. */
type ReshardStep = Omit<Collective, "kind" | "name" | "inputs" | "outputs"> & { readonly to: Placement };

/** The collectives that turn `from` into `to`: none where they are equal, at most two. */
export function reshardSteps(from: Placement, to: Placement): ReshardStep[] {
  const steps = redistributeSteps(from, to);
  if (steps.length === 0 && placementKey(from) !== placementKey(to)) {
    throw new PlanError(`Cannot reshard from ${printPlacement(from)} to ${printPlacement(to)}`);
  }
  return steps.map(({ kind, from: source, to: next }) => {
    const cut = next.kind === "S" ? next : kind === "all_gather" && source.kind === "S" ? source : undefined;
    const partial = source.kind === "P" ? source : next.kind === "P" ? next : undefined;
    return {
      collective: kind,
      ...(partial ? { reduction: partial.reduction } : {}),
      ...(cut ? { shard: { dim: cut.dim, layout: cut.layout } } : {}),
      ...(kind === "slice" && source.kind === "S" ? { from: source.layout } : {}),
      to: next,
    };
  });
}

/**
 * `annotated` → `sharded`: a collective wherever a node wants a placement that its input does not have. One reshard
 * serves all later nodes. Constants are never resharded: every placement in which one is used becomes a `get_attr` of
 * its own, so that a rank loads just the slices that it needs.
 */
export function insertReshards(graph: Graph<"annotated">, plan: Plan): Graph<"sharded"> {
  const builder = new GraphBuilder("sharded", graph.name, graph.opsets);
  const constants = new Map(graph.nodes.flatMap((n) => (n.kind === "get_attr" ? [[n.outputs[0], n] as const] : [])));
  /** Per value, the names under which its placements exist. */
  const materialised = new Map<string, Map<string, string>>();
  const reshards = Map.groupBy(plan.reshards, (r) => r.before);

  function produce(value: Value): Value {
    const placement = value.placement ?? REPLICATE;
    materialised.set(value.name, new Map([[placementKey(placement), value.name]]));
    return { ...value, placement };
  }

  function reshard(name: string, from: Placement, to: Placement): string {
    const places = materialised.get(name)!;
    let at = places.get(placementKey(from));
    if (at === undefined) throw new PlanError(`Cannot reshard "${name}": it is nowhere ${printPlacement(from)}`);
    for (const { to: next, ...details } of reshardSteps(from, to)) {
      const known = places.get(placementKey(next));
      const output: string = known ?? builder.freshValue(`${name}.${details.collective}`);
      if (known === undefined) {
        builder.collective({ ...details, inputs: [at], outputs: [output] }, {
          ...valueOf(graph, name),
          name: output,
          placement: next,
        });
        places.set(placementKey(next), output);
      }
      at = output;
    }
    return at;
  }

  /** The name under which `name` exists in `placement`, at a node that is called `node`. */
  function read(name: string, placement: Placement, node: string): string {
    if (name === "") return "";
    const constant = constants.get(name);
    if (constant) {
      const places = materialised.get(name) ?? new Map<string, string>();
      materialised.set(name, places);
      const key = placementKey(placement);
      let at = places.get(key);
      if (at === undefined) {
        at = placement.kind === "R" ? name : builder.freshValue(`${name}.${placement.kind === "S" ? "shard" : "part"}`);
        builder.getAttr(at, constant.data, { ...valueOf(graph, name), placement });
        places.set(key, at);
      }
      return at;
    }
    const at = materialised.get(name)?.get(placementKey(placement));
    if (at === undefined) {
      const found = [...materialised.get(name)?.keys() ?? []].join(", ");
      throw new PlanError(
        `Cannot read "${name}" as ${printPlacement(placement)} in "${node}": the plan has it only as ${found}`,
      );
    }
    return at;
  }

  for (const node of graph.nodes) {
    for (const { value, from, to } of reshards.get(node.name) ?? []) reshard(value, from, to);
    if (node.kind === "output") {
      const inputs = node.inputs.map((name, i) => {
        const carried = graph.carried.find((c) => c.output === i);
        const begins = carried !== undefined && !graph.values.has(carried.input);
        const placement = begins ? plan.placements.get(carried.input) : carried && valueOf(graph, name).placement;
        return read(name, placement ?? REPLICATE, node.name);
      });
      return builder.finish({ inputs, names: node.names }, graph.carried);
    }
    append(node);
  }
  throw new PlanError(`Cannot shard graph "${graph.name}": it has no output node`);

  function append(node: Exclude<Node, { kind: "output" }>): void {
    if (node.kind === "get_attr") return;
    const values = node.outputs.filter((o) => o !== "").map((o) => produce(valueOf(graph, o)));
    if (!isCall(node)) return builder.append(node, values);
    const strategy = plan.strategies.get(node.name);
    const inputs = node.inputs.map((name, i) => read(name, strategy?.inputs[i] ?? REPLICATE, node.name));
    const renamed = new Map((node.captures ?? []).map((name) => [name, read(name, REPLICATE, node.name)]));
    builder.append(renameCaptures({ ...node, inputs }, renamed), values);
  }
}
