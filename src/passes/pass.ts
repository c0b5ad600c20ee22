/** The contract of a pass: a graph in, another graph out. */
import type { Graph } from "../graph/graph.ts";
import type { ParallelExecutionCtx } from "./context.ts";

/**
 * A pass from graphs of one stage to graphs of another. It never changes the graph that it is given.
 *
 * `apply` is a property, not a method: properties are checked strictly, so that passes in the wrong order do not compile.
 */
export interface Pass<In extends Graph = Graph<"global">, Out extends Graph = In> {
  /** For reports: `lift_layers`. */
  readonly name: string;
  /** The new graph; `graph` stays as it is. */
  readonly apply: (graph: In, ctx: ParallelExecutionCtx) => Out;
}

/** A pass from a function. */
export function pass<In extends Graph, Out extends Graph>(
  name: string,
  apply: (graph: In, ctx: ParallelExecutionCtx) => Out,
): Pass<In, Out> {
  return { name, apply };
}
