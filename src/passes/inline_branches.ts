/**
 * Puts the branch of an If in its place where a constant decides.
 *
 * ```text
 * %c = get_attr : bool[] = 0     %y = If(%c | %x) {then_branch={…}, else_branch={…}}      ->      the nodes of else_branch
 * ```
 * Exporters leave such Ifs where a model asked about its own sizes; folding shapes has answered. What runs inside an If is replicated,
 * without one it is planned like the rest.
 */
import type { Attribute, Call, Graph, Node, Output, Value } from "../graph/graph.ts";
import { isCall, opKey, outputOf, valueOf } from "../graph/graph.ts";
import { renameCaptures } from "../graph/subgraphs.ts";
import { eliminateDeadCode } from "./eliminate_dead_code.ts";

/** The graph without Ifs that constants decide; the same object where there are none. */
export function inlineBranches(graph: Graph<"global">): Graph<"global"> {
  const known = new Map(graph.nodes.flatMap((n) => (n.kind === "get_attr" ? [[n.outputs[0], n.data] as const] : [])));
  const decided = (node: Node): boolean | undefined => {
    if (!isCall(node) || opKey(node) !== "If") return undefined;
    const data = known.get(node.inputs[0]!);
    return data && data.bytes()[0] !== 0;
  };
  if (!graph.nodes.some((n) => decided(n) !== undefined)) return graph;
  const inliner = new Inliner(graph);
  for (const node of graph.nodes) {
    const value = decided(node);
    if (value === undefined) inliner.node(node, graph);
    else inliner.branch(node as Call, value ? "then_branch" : "else_branch");
  }
  const inlined: Graph<"global"> = { ...graph, nodes: inliner.nodes, values: inliner.values };
  // A branch may hold Ifs of its own.
  return inlineBranches({ ...eliminateDeadCode(inlined), carried: graph.carried });
}

/** Builds a graph in which branches of Ifs stand in the place of the Ifs, under names that are free there. */
export class Inliner {
  /** What has been appended, and its values. */
  readonly nodes: Node[] = [];
  readonly values = new Map<string, Value>();
  readonly #renamed = new Map<string, string>();
  readonly #taken: Set<string>;
  readonly #nodeNames: Set<string>;

  constructor(graph: Graph<"global">) {
    this.#taken = new Set(graph.values.keys());
    this.#nodeNames = new Set(graph.nodes.map((n) => n.name));
  }

  /** Appends a node of `graph`, with reads of what an If gave renamed. */
  node(node: Node, graph: Graph<"global">): void {
    for (const name of node.outputs) if (name !== "") this.values.set(name, valueOf(graph, name));
    this.nodes.push(renameReads(node, this.#renamed));
  }

  /** Appends the nodes of one branch of `node`; its results take the place of the If's. */
  branch(node: Call, which: "then_branch" | "else_branch"): void {
    const attribute: Attribute | undefined = node.attributes[which];
    if (attribute?.kind !== "graph") throw new Error(`If "${node.name}" has no ${which}`);
    const { value: branch } = attribute;
    const inner = new Map(this.#renamed);
    for (const own of branch.nodes) for (const name of own.outputs) if (name !== "") inner.set(name, this.#fresh(name));
    for (const own of branch.nodes) {
      if (own.kind === "output") continue;
      for (const name of own.outputs) {
        if (name === "") continue;
        const renamed = inner.get(name)!;
        this.values.set(renamed, { ...valueOf(branch, name), name: renamed });
      }
      const named = { ...renameReads(own, inner), name: this.#freshNode(own.name) };
      this.nodes.push({ ...named, outputs: own.outputs.map((name) => inner.get(name) ?? name) } as Node);
    }
    outputOf(branch).inputs.forEach((name, i) => {
      const result = node.outputs[i];
      if (result) this.#renamed.set(result, inner.get(name) ?? name);
    });
  }

  #fresh(name: string): string {
    return free(name, this.#taken);
  }

  #freshNode(name: string): string {
    return free(name, this.#nodeNames);
  }
}

/** `name`, or with a number behind it; takes it. */
function free(name: string, taken: Set<string>): string {
  let found = name;
  for (let i = 2; taken.has(found); i++) found = `${name}_${i}`;
  taken.add(found);
  return found;
}

function renameReads(node: Node, names: ReadonlyMap<string, string>): Node {
  const rename = (name: string) => names.get(name) ?? name;
  if (node.kind === "output") return { ...node, inputs: node.inputs.map(rename) } satisfies Output;
  if (!isCall(node)) return node;
  return renameCaptures({ ...node, inputs: node.inputs.map(rename) }, names);
}
