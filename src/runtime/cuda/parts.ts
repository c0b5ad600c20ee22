/**
 * A graph of which a GPU runs a part, as parts: programs of the GPU, sessions of the host, and control flow between them.
 *
 * A node's level is even where the GPU runs it and odd where the host does, and at least that of what it reads: nodes of one level are one
 * part, so that there are as few changes between GPU and host as the graph allows. Collectives keep their order, which is that of all ranks,
 * whatever each of them runs on its host.
 */
import { symbolsOf } from "../../core/dim.ts";
import { type Call, type Collective, type Graph, isCall, producers, readsOf, valueOf } from "../../graph/graph.ts";
import { isControl, isKnown } from "./host_nodes.ts";

/** Nodes that run together. */
export interface Part {
  readonly on: "device" | "host" | "control";
  readonly nodes: readonly (Call | Collective)[];
  /** The nodes as a graph: what others make are its inputs, what others read its results; constants that it reads are in it. */
  readonly graph: Graph<"local">;
  /** The symbols that sizes of its values depend on. */
  readonly symbols: ReadonlySet<string>;
}

/** How a graph is taken apart. */
export interface PartsOptions {
  /** Nodes that the host runs. */
  readonly host: ReadonlySet<string>;
  /** Nodes that have run already. */
  readonly done?: ReadonlySet<string>;
}

const NONE: ReadonlySet<string> = new Set();

/** The parts in the order in which they run. */
export function partsOf(graph: Graph<"local">, { host, done = NONE }: PartsOptions): Part[] {
  const makers = producers(graph),
    levels = new Map<string, number>(),
    byLevel = new Map<number, (Call | Collective)[]>();
  let lastCollective = 0;
  for (const node of graph.nodes) {
    if (!isCall(node) && node.kind !== "collective") continue;
    if (done.has(node.name) || (isCall(node) && isKnown(graph, node))) continue;
    const parity = host.has(node.name) ? 1 : 0, reads = readsOf(node).map((n) => levels.get(makers.get(n)?.name ?? ""));
    let level = Math.max(parity, ...reads.map((l) => l ?? 0), isCall(node) ? 0 : lastCollective);
    if (level % 2 !== parity) level++;
    if (!isCall(node)) lastCollective = level;
    levels.set(node.name, level);
    byLevel.set(level, [...byLevel.get(level) ?? [], node]);
  }
  const groups = [...byLevel].sort(([a], [b]) => a - b).flatMap(([level, nodes]) => grouped(level, nodes));
  return groups.map(({ on, nodes }) => ({ on, nodes, graph: graphOf(graph, nodes), symbols: symbolsIn(graph, nodes) }));
}

/** Nodes of one level; control flow stands by itself. */
function grouped(level: number, nodes: readonly (Call | Collective)[]): Pick<Part, "on" | "nodes">[] {
  if (level % 2 === 0) return [{ on: "device", nodes }];
  const out: { on: "host" | "control"; nodes: (Call | Collective)[] }[] = [];
  for (const node of nodes) {
    const on = isCall(node) && isControl(node) ? "control" : "host", last = out.at(-1);
    if (on === "host" && last?.on === "host") last.nodes.push(node);
    else out.push({ on, nodes: [node] });
  }
  return out;
}

function graphOf(graph: Graph<"local">, nodes: readonly (Call | Collective)[]): Graph<"local"> {
  const own = new Set(nodes), made = new Set(nodes.flatMap((n) => n.outputs));
  const reads = [...new Set(nodes.flatMap(readsOf))].filter((n) => !made.has(n)), makers = producers(graph);
  const constants = reads.map((n) => makers.get(n)).filter((n) => n?.kind === "get_attr");
  const inputs = reads.filter((n) => makers.get(n)?.kind !== "get_attr");
  const readElsewhere = new Set(graph.nodes.flatMap((n) => (own.has(n as Call) ? [] : readsOf(n))));
  const results = [...made].filter((n) => n !== "" && readElsewhere.has(n));
  return {
    ...graph,
    nodes: [
      ...inputs.map((name) => ({ kind: "placeholder", name, outputs: [name] } as const)),
      ...constants,
      ...nodes,
      { kind: "output", name: "output", inputs: results, outputs: [], names: results },
    ],
    carried: [],
  };
}

function symbolsIn(graph: Graph<"local">, nodes: readonly (Call | Collective)[]): Set<string> {
  const out = new Set<string>();
  for (const name of new Set(nodes.flatMap((n) => [...readsOf(n), ...n.outputs]))) {
    if (name === "") continue;
    const { type, ints } = valueOf(graph, name);
    for (const d of [...type.shape ?? [], ...ints?.elements ?? []]) symbolsOf(d, out);
  }
  for (const node of nodes) {
    if (node.kind === "collective" && node.shard) symbolsOf(node.shard.layout.outer, out);
  }
  return out;
}
