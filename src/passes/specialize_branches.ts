/**
 * Takes a graph that a boolean input decides apart: one graph for each of its values.
 *
 * ```text
 * %y = If(%use_cache | %x, %past) {then_branch={…}, else_branch={…}}
 *   true   ->   the nodes of then_branch, in the place of the If
 *   false  ->   the nodes of else_branch; %past, which only the other branch reads, is no input any more
 * ```
 * Exporters merge a decoder's first step and its later ones like that (Optimum's `optimum::if`), with the weights in the outer
 * graph. Ops inside `If` run replicated; taken apart, both graphs are planned like any other, and share the constants.
 *
 * What is carried from step to step follows: a state whose result does not depend on any input stays as it is (the keys of
 * the encoder's output, for which the branch gives a dummy), and one that the graph no longer reads begins in it.
 */
import type { Attribute, Call, Carried, Graph, Node, Output, Value } from "../graph/graph.ts";
import { isCall, opKey, outputOf, readsOf, valueOf } from "../graph/graph.ts";
import { renameCaptures } from "../graph/subgraphs.ts";
import { eliminateDeadCode } from "./eliminate_dead_code.ts";

/** A graph taken apart. */
export interface Branches {
  /** The input that decides; no graph has it. */
  readonly input: string;
  /** For a first step and the steps after it (the one that reads the states is `next`); undefined where there is no such pair. */
  readonly steps: { readonly first: Graph<"global">; readonly next: Graph<"global"> } | undefined;
  /** By the value of the input. */
  readonly whenTrue: Graph<"global">;
  readonly whenFalse: Graph<"global">;
}

/** The branches of `graph`, or undefined if no boolean input decides an If of it. */
export function specializeBranches(graph: Graph<"global">): Branches | undefined {
  const input = decidingInput(graph);
  if (input === undefined) return undefined;
  const whenTrue = specialize(graph, input, true), whenFalse = specialize(graph, input, false);
  const begins = (g: Graph) => g.carried.length > 0 && g.carried.every((c) => !g.values.has(c.input));
  const steps = begins(whenFalse)
    ? { first: whenFalse, next: whenTrue }
    : begins(whenTrue)
    ? { first: whenTrue, next: whenFalse }
    : undefined;
  return { input, steps, whenTrue, whenFalse };
}

/** A boolean of one element that nothing but conditions of Ifs reads. */
function decidingInput(graph: Graph<"global">): string | undefined {
  return graph.nodes.find((node) => {
    if (node.kind !== "placeholder") return false;
    const [name] = node.outputs;
    const { dtype, shape } = valueOf(graph, name).type;
    if (dtype !== "bool" || shape === undefined || shape.some((d) => d !== 1)) return false;
    const readers = graph.nodes.filter((n) => readsOf(n).includes(name));
    return readers.length > 0 && readers.every((n) => conditionOf(n) === name && !(n as Call).captures?.includes(name));
  })?.outputs[0];
}

function conditionOf(node: Node): string | undefined {
  return isCall(node) && opKey(node) === "If" ? node.inputs[0] : undefined;
}

/** `graph` where the boolean `input` is `value`. */
function specialize(graph: Graph<"global">, input: string, value: boolean): Graph<"global"> {
  const inliner = new Inliner(graph);
  for (const node of graph.nodes) {
    if (node.kind === "placeholder" && node.outputs[0] === input) continue;
    if (conditionOf(node) !== input) inliner.node(node, graph);
    else inliner.branch(node as Call, value ? "then_branch" : "else_branch");
  }
  const inlined: Graph<"global"> = { ...graph, nodes: inliner.nodes, values: inliner.values };
  return withoutUnread({ ...eliminateDeadCode(inlined), carried: inlined.carried });
}

/** Puts the nodes of branches into the outer graph, under names that are free there. */
class Inliner {
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

/** The graph without inputs that nothing reads, and with its states as they are now. */
function withoutUnread(graph: Graph<"global">): Graph<"global"> {
  const read = new Set(graph.nodes.flatMap(readsOf));
  const nodes = graph.nodes.filter((n) => n.kind !== "placeholder" || read.has(n.outputs[0]));
  const values = new Map(graph.values);
  for (const node of graph.nodes) {
    if (node.kind === "placeholder" && !read.has(node.outputs[0])) values.delete(node.outputs[0]);
  }
  const fromInputs = new Set<string>();
  for (const node of nodes) {
    if (node.kind === "placeholder" || readsOf(node).some((name) => fromInputs.has(name))) {
      for (const name of node.outputs) fromInputs.add(name);
    }
  }
  const { inputs } = outputOf(graph);
  const carried = graph.carried.flatMap(({ input, output }): Carried[] => {
    if (output !== undefined && fromInputs.has(inputs[output]!)) return [{ input, output }];
    return values.has(input) ? [{ input }] : [];
  });
  return { ...graph, nodes, values, carried };
}
