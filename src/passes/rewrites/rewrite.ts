/**
 * The contract of a rewrite: a pattern that exporters write, and the one op that it is.
 *
 * A rule looks at every place that has the pattern's anchor. It answers with the nodes that stand for it, or with the reason
 * why it leaves the place alone; both go into the report. What a rule replaces must give equal results for every input that the
 * model takes, not only for those that a generation loop feeds.
 */
import type { Call, Graph, Node, Stage, Value } from "../../graph/graph.ts";
import { eliminateDeadCode } from "../eliminate_dead_code.ts";
import { Matcher } from "./matcher.ts";

/** What a rule did at one place. */
export interface RewriteNote {
  /** Name of the rule. */
  readonly rule: string;
  /** Name of the node at which the pattern ends. */
  readonly node: string;
  /** Why the place was left alone; undefined where it was rewritten. */
  readonly reason?: string;
}

/** What stands for a match. */
export interface Replacement {
  /** In order. They take the place of the anchor. */
  readonly nodes: readonly Node[];
  /** Types of values that are new. */
  readonly values: readonly Value[];
  /** Names of nodes that go, beside the anchor: those whose outputs the new nodes write. Others go when nothing reads them. */
  readonly removes?: readonly string[];
}

/** A rule's answer: nodes, the reason for none, or undefined where the anchor is not even the beginning of the pattern. */
export type Answer = Replacement | string | undefined;

/** A rule. */
export interface Rewrite {
  /** For reports, and for people who turn rules off. */
  readonly name: string;
  /** What it does, in one line. */
  readonly summary: string;
  /** Looks at one call. */
  readonly at: (node: Call, matcher: Matcher, names: FreshNames) => Answer;
}

/** Gives names that no value or node of the graph has. */
export class FreshNames {
  readonly #graph: Graph;
  /** Made when the first name is asked for: most rules find nothing in most graphs. */
  #taken: Set<string> | undefined;
  /** Values that matches of one rule share, by what they are. */
  readonly shared = new Map<string, string>();

  constructor(graph: Graph) {
    this.#graph = graph;
  }

  /** `stem`, or `stem_2`, `stem_3`, … */
  of(stem: string): string {
    const taken = this.#taken ??= new Set([...this.#graph.values.keys(), ...this.#graph.nodes.map((n) => n.name)]);
    let name = stem;
    for (let i = 2; taken.has(name); i++) name = `${stem}_${i}`;
    taken.add(name);
    return name;
  }
}

/** What a rule made of a graph, ready for the next one, and what it did where. */
export function applyRewrite<S extends Stage>(
  matcher: Matcher<S>,
  rule: Rewrite,
): { readonly matcher: Matcher<S>; readonly notes: readonly RewriteNote[] } {
  const { graph } = matcher, names = new FreshNames(graph);
  const notes: RewriteNote[] = [];
  const removed = new Set<string>(), made: Value[] = [];
  const replaced = new Map<string, readonly Node[]>();
  for (const node of graph.nodes) {
    if (node.kind !== "call_function" || removed.has(node.name)) continue;
    const answer = rule.at(node, matcher, names);
    if (answer === undefined) continue;
    if (typeof answer === "string") {
      notes.push({ rule: rule.name, node: node.name, reason: answer });
      continue;
    }
    notes.push({ rule: rule.name, node: node.name });
    replaced.set(node.name, answer.nodes);
    for (const name of answer.removes ?? []) removed.add(name);
    made.push(...answer.values);
  }
  if (replaced.size === 0) return { matcher, notes };
  const values = new Map(graph.values);
  for (const value of made) values.set(value.name, value);
  const nodes = graph.nodes.flatMap((n) => replaced.get(n.name) ?? (removed.has(n.name) ? [] : [n]));
  const written = new Set(nodes.flatMap((n) => n.outputs));
  for (const name of values.keys()) if (!written.has(name)) values.delete(name);
  const opsets = new Map(graph.opsets);
  for (const node of nodes) {
    if ((node.kind === "call_function" || node.kind === "call_module") && !opsets.has(node.domain)) {
      opsets.set(node.domain, 1);
    }
  }
  return { matcher: new Matcher(eliminateDeadCode({ ...graph, nodes, values, opsets })), notes };
}
