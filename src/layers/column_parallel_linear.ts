/** Linear whose output features are cut: the first half of Megatron's pair. */
import { REPLICATE } from "../graph/placement.ts";
import type { Value } from "../graph/graph.ts";
import { LinearModule, type LinearOptions, OUT_IN } from "./linear.ts";
import type { Trace } from "./trace.ts";

/** What a column-parallel layer is declared by. */
export interface ColumnParallelLinearOptions extends LinearOptions {
  /** Whether an all-gather makes the result whole on every rank; true by default. False leaves each rank its features. */
  readonly gatherOutput?: boolean;
}

/**
 * `y = x Wᵀ + b` with the output features cut over the ranks.
 *
 * With `A = Wᵀ = [A_1, …, A_p]`, cut along its columns (so `W`, as stored, along dim 0), and `b = [b_1, …, b_p]`:
 *
 * ```text
 * [y_1, …, y_p] = [x A_1 + b_1, …, x A_p + b_p]
 * ```
 *
 * `x [*, inFeatures]` is whole on every rank. `gatherOutput` concatenates the `y_i`; without it nothing is communicated,
 * and an elementwise function and a {@linkcode RowParallelLinear} may follow. Shards are balanced: rank r of p has
 * ⌊n/p⌋ features, or one more where `r < n mod p`; there may be more ranks than features.
 *
 * Source: Shoeybi et al., "Megatron-LM: Training Multi-Billion Parameter Language Models Using Model Parallelism",
 * arXiv 1909.08053, section 3; Megatron-LM's `ColumnParallelLinear`.
 *
 * @example
 * ```ts
 * import { ColumnParallelLinear } from "./column_parallel_linear.ts";
 *
 * const layer = new ColumnParallelLinear({ inFeatures: 7, outFeatures: 5, gatherOutput: true });
 * layer.initialize({ seed: 1 });
 * const graph = layer.trace({ x: { dtype: "f32", shape: [4, 7] } }, { ranks: 2 });
 * const kinds = graph.nodes.flatMap((node) => (node.kind === "collective" ? [node.collective] : []));
 * if (kinds.join() !== "all_gather") throw new Error(`expected one all_gather, found ${kinds}`);
 * ```
 */
export class ColumnParallelLinear extends LinearModule {
  /** Whether the result is made whole. */
  readonly gatherOutput: boolean;

  /** Declares the parameters. */
  constructor(options: ColumnParallelLinearOptions) {
    super(options);
    this.gatherOutput = options.gatherOutput ?? true;
  }

  /** `x [*, inFeatures]`, made whole if it is cut, to `[*, outFeatures]`. */
  override forward(trace: Trace, x: Value): Value {
    const rows = trace.cut(0, this.outFeatures);
    const inputs = [
      trace.redistribute(x, REPLICATE),
      trace.parameter(this.weight, rows),
      this.bias && trace.parameter(this.bias, rows),
    ];
    const y = trace.call("ColumnParallelLinear", inputs, { domain: "shardwise", attributes: OUT_IN });
    return this.gatherOutput ? trace.redistribute(y, REPLICATE) : y;
  }
}
