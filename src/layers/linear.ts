/** Linear, whole on every rank. */
import type { DType } from "../core/dtype.ts";
import { int } from "../graph/attributes.ts";
import type { Value } from "../graph/graph.ts";
import { linearInitializer } from "./initializers.ts";
import { Module } from "./module.ts";
import type { Parameter } from "./parameter.ts";
import type { Trace } from "./trace.ts";

/** What linear layers are declared by. */
export interface LinearOptions {
  /** Size of the last dim of the input. */
  readonly inFeatures: number;
  /** Size of the last dim of the result. */
  readonly outFeatures: number;
  /** Whether a bias is added; true by default. */
  readonly bias?: boolean;
  /** Of the parameters; `f32` by default. */
  readonly dtype?: DType;
  /** A parameter of another module to use as weight, `[outFeatures, inFeatures]`: an output head tied to the embedding. */
  readonly weight?: Parameter;
}

/** The attributes of a call whose weight is `[out, in]`, as PyTorch has it. */
export const OUT_IN = { transB: int(1) } as const;

/** Parameters and their declaration, which all linear layers share. */
export abstract class LinearModule extends Module {
  /** Size of the last dim of the input. */
  readonly inFeatures: number;
  /** Size of the last dim of the result. */
  readonly outFeatures: number;
  /** `[outFeatures, inFeatures]`. */
  readonly weight: Parameter;
  /** `[outFeatures]`. */
  readonly bias: Parameter | undefined;

  /** Declares the parameters. */
  constructor(options: LinearOptions) {
    super();
    const { inFeatures, outFeatures, dtype } = options;
    this.inFeatures = inFeatures;
    this.outFeatures = outFeatures;
    const initializer = linearInitializer(inFeatures);
    this.weight = this.parameter(
      "weight",
      options.weight ?? { shape: [outFeatures, inFeatures], initializer, dtype },
    );
    this.bias = options.bias === false
      ? undefined
      : this.parameter("bias", { shape: [outFeatures], initializer, dtype });
  }
}

/**
 * `y = x Wᵀ + b`: `x [*, inFeatures]`, `W [outFeatures, inFeatures]`, `y [*, outFeatures]`. Every rank holds all of `W`.
 *
 * @example
 * ```ts
 * import { Linear } from "./linear.ts";
 *
 * const linear = new Linear({ inFeatures: 7, outFeatures: 5 });
 * linear.initialize({ seed: 1 });
 * const graph = linear.trace({ x: { dtype: "f32", shape: [4, 7] } }, { ranks: 2 });
 * if (graph.nodes.some((node) => node.kind === "collective")) throw new Error("nothing is communicated");
 * ```
 */
export class Linear extends LinearModule {
  /** `x [*, inFeatures]` to `[*, outFeatures]`. */
  override forward(trace: Trace, x: Value): Value {
    const inputs = [x, trace.parameter(this.weight), this.bias && trace.parameter(this.bias)];
    return trace.call("Linear", inputs, { domain: "shardwise", attributes: OUT_IN });
  }
}
