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
import type { Call, Carried, Graph, Node } from "../graph/graph.ts";
import { isCall, opKey, outputOf, readsOf, valueOf } from "../graph/graph.ts";
import { eliminateDeadCode } from "./eliminate_dead_code.ts";
import { Inliner } from "./inline_branches.ts";

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
