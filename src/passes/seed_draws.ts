/**
 * Gives every op that draws random numbers a seed, where the model names none, so that all ranks draw the same.
 *
 * ```text
 * %z = RandomNormalLike(%mean)      ->      %z = RandomNormalLike(%mean) {seed=11482733}
 * ```
 * Without one, ONNX Runtime takes the time: each rank would go on with numbers of its own, and nothing would tell. The seed
 * follows from the node's name. A model draws the same whenever it is loaded, at any number of ranks, and something new at
 * every step.
 */
import { type Attribute, type Call, type Graph, isCall, type Node } from "../graph/graph.ts";
import { opDef } from "../ops/table.ts";

/** Whole numbers up to here are exact in the float that most of the attributes are. */
const SEEDS = 2 ** 24;

/** The graph with a seed on all that draws, subgraphs included. */
export function seedDraws(graph: Graph<"global">): Graph<"global"> {
  let changed = false;
  const nodes = graph.nodes.map((node): Node => {
    if (!isCall(node)) return node;
    const seeded = seedNested(withSeed(node));
    changed ||= seeded !== node;
    return seeded;
  });
  return changed ? { ...graph, nodes } : graph;
}

function withSeed(node: Call): Call {
  const kind = opDef(node)?.draws?.(node);
  if (kind === undefined || node.attributes["seed"] !== undefined) return node;
  return { ...node, attributes: { ...node.attributes, seed: { kind, value: seedOf(node.name) } } };
}

function seedNested(node: Call): Call {
  let changed = false;
  const attributes = Object.entries(node.attributes).map(([name, a]): [string, Attribute] => {
    if (a.kind !== "graph") return [name, a];
    const value = seedDraws(a.value);
    changed ||= value !== a.value;
    return [name, { kind: "graph", value }];
  });
  return changed ? { ...node, attributes: Object.fromEntries(attributes) } : node;
}

/** FNV-1a of the name. */
function seedOf(name: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < name.length; i++) hash = Math.imul(hash ^ name.charCodeAt(i), 0x01000193);
  return (hash >>> 0) % SEEDS;
}
