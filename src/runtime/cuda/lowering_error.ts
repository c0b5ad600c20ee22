/** What a GPU does not run: found when a node is lowered at the sizes of a step. */
import { GraphError } from "../../core/errors.ts";

/** A node that has no kernels for a form or size of it. The host can run it. */
export class LoweringError extends GraphError {
  /** The names of the nodes that were lowered together. */
  readonly nodes: readonly string[];

  /** `cause` says why. */
  constructor(cause: GraphError, nodes: readonly string[]) {
    super(cause.message, { cause, ...(cause.hint ? { hint: cause.hint } : {}) });
    this.nodes = nodes;
  }
}
