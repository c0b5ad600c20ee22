/** Linear whose input features are cut: the second half of Megatron's pair. */
import { ShapeError } from "../core/errors.ts";
import type { Value } from "../graph/graph.ts";
import { printPlacement, REPLICATE } from "../graph/placement.ts";
import { LinearModule, type LinearOptions, OUT_IN } from "./linear.ts";
import { samePlacement } from "./propagate.ts";
import { placementOf, type Trace } from "./trace.ts";

/** What a row-parallel layer is declared by. */
export interface RowParallelLinearOptions extends LinearOptions {
  /**
   * Whether the input is cut already, as a {@linkcode ColumnParallelLinear} leaves it; false by default: each rank then
   * takes its features out of the whole input, without communication.
   */
  readonly inputIsParallel?: boolean;
}

/**
 * `y = x Wᵀ + b` with the input features cut over the ranks.
 *
 * With `x = [x_1, …, x_p]` and `A = Wᵀ` cut along its rows, `A = [A_1; …; A_p]` (so `W`, as stored, along dim 1):
 *
 * ```text
 * y = x_1 A_1 + … + x_p A_p + b
 * ```
 *
 * An all-reduce adds the products up; the bias, whole, is added once. The result is whole on every rank.
 *
 * Source: Shoeybi et al., arXiv 1909.08053, section 3; Megatron-LM's `RowParallelLinear`.
 *
 * @example
 * ```ts
 * import { RowParallelLinear } from "./row_parallel_linear.ts";
 *
 * const layer = new RowParallelLinear({ inFeatures: 7, outFeatures: 5 });
 * layer.initialize({ seed: 1 });
 * const graph = layer.trace({ x: { dtype: "f32", shape: [4, 7] } }, { ranks: 2 });
 * const kinds = graph.nodes.flatMap((node) => (node.kind === "collective" ? [node.collective] : []));
 * if (kinds.join() !== "slice,all_reduce") throw new Error(`expected slice and all_reduce, found ${kinds}`);
 * ```
 */
export class RowParallelLinear extends LinearModule {
  /** Whether the input must be cut already. */
  readonly inputIsParallel: boolean;

  /** Declares the parameters. */
  constructor(options: RowParallelLinearOptions) {
    super(options);
    this.inputIsParallel = options.inputIsParallel ?? false;
  }

  /** `x [*, inFeatures]` to `[*, outFeatures]`, whole. @throws {ShapeError} If `inputIsParallel`, but the input is whole, or cut in another way than the weight. */
  override forward(trace: Trace, x: Value): Value {
    const dims = x.type.shape?.length;
    if (dims === undefined) {
      throw new ShapeError(`Cannot apply RowParallelLinear to "${x.name}": its shape is not known`);
    }
    const wanted = trace.cut(dims - 1, this.inFeatures);
    if (this.inputIsParallel && !samePlacement(placementOf(x), wanted)) {
      throw new ShapeError(
        `Cannot apply RowParallelLinear to "${x.name}" with inputIsParallel: it is placed ` +
          `${printPlacement(placementOf(x))}, and must be ${printPlacement(wanted)}`,
        { hint: "pass inputIsParallel: false, or gatherOutput: false to the layer before" },
      );
    }
    const inputs = [
      trace.redistribute(x, wanted),
      trace.parameter(this.weight, trace.cut(1, this.inFeatures)),
      this.bias && trace.parameter(this.bias, trace.once()),
    ];
    const y = trace.call("RowParallelLinear", inputs, { domain: "shardwise", attributes: OUT_IN });
    return trace.redistribute(y, REPLICATE);
  }
}
