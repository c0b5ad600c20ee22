/**
 * A graph for each way in which its Ifs may decide, for who asks something of all of them.
 *
 * ```text
 * %y = If(%c | %x) {then_branch={…}, else_branch={…}}   ->   two graphs, each with the nodes of one branch, and %c as a result
 * ```
 */
import { type Call, type Graph, isCall, opKey, outputOf } from "../graph/graph.ts";
import { Inliner } from "./inline_branches.ts";

/** More Ifs are too many to try all ways. */
const MOST_IFS = 4;

/** A graph without Ifs. */
export interface BranchVariant {
  readonly graph: Graph<"global">;
  /** Names of the results that are the conditions of its Ifs. */
  readonly conditions: readonly string[];
}

/** All variants of `graph`, which is its own where it has no If; undefined where there are too many. */
export function branchVariants(graph: Graph<"global">): readonly BranchVariant[] | undefined {
  const done: BranchVariant[] = [];
  const pending: BranchVariant[] = [{ graph, conditions: [] }];
  for (let next = pending.pop(); next; next = pending.pop()) {
    const found = next.graph.nodes.find((n): n is Call => isCall(n) && opKey(n) === "If");
    if (!found) done.push(next);
    else if (next.conditions.length === MOST_IFS) return undefined;
    else for (const which of ["then_branch", "else_branch"] as const) pending.push(variant(next, found, which));
  }
  return done;
}

function variant(
  { graph, conditions }: BranchVariant,
  decided: Call,
  which: "then_branch" | "else_branch",
): BranchVariant {
  const inliner = new Inliner(graph), condition = `if ${conditions.length}`;
  for (const node of graph.nodes) {
    if (node === decided) inliner.branch(decided, which);
    else inliner.node(node, graph);
  }
  const output = outputOf({ ...graph, nodes: inliner.nodes });
  const more = {
    ...output,
    inputs: [...output.inputs, decided.inputs[0]!],
    names: [...output.names, condition],
  };
  return {
    graph: { ...graph, nodes: [...inliner.nodes.slice(0, -1), more], values: inliner.values },
    conditions: [...conditions, condition],
  };
}
