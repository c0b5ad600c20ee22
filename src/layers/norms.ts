/** LayerNorm and RMSNorm. They need the features whole on a rank, and hold as many parameters as there are features. */
import type { DType } from "../core/dtype.ts";
import { float, int } from "../graph/attributes.ts";
import type { Value } from "../graph/graph.ts";
import { initialData, ONES, ZEROS } from "./initializers.ts";
import { Module } from "./module.ts";
import type { Parameter } from "./parameter.ts";
import type { Trace } from "./trace.ts";

/** What a LayerNorm is declared by. */
export interface LayerNormOptions {
  /** Size of the last dim. */
  readonly features: number;
  /** Added to the variance; 1e-5 by default. */
  readonly eps?: number;
  /** Whether there are a weight and a bias; true by default. */
  readonly affine?: boolean;
  /** Whether there is a bias beside the weight; true by default. */
  readonly bias?: boolean;
  /** Of the parameters; `f32` by default. */
  readonly dtype?: DType;
}

/** `(x − mean) / √(variance + eps) · weight + bias` over the last dim, the variance that of all `features` elements. */
export class LayerNorm extends Module {
  /** Added to the variance. */
  readonly eps: number;
  /** `[features]`. */
  readonly weight: Parameter | undefined;
  /** `[features]`. */
  readonly bias: Parameter | undefined;
  readonly #features: number;
  readonly #dtype: DType;

  /** Declares the parameters. */
  constructor(options: LayerNormOptions) {
    super();
    const { features, dtype = "f32", affine = true } = options;
    this.#features = features;
    this.#dtype = dtype;
    this.eps = options.eps ?? 1e-5;
    if (affine) this.weight = this.parameter("weight", { shape: [features], initializer: ONES, dtype });
    if (affine && options.bias !== false) {
      this.bias = this.parameter("bias", { shape: [features], initializer: ZEROS, dtype });
    }
  }

  /** `x [*, features]`, made whole in the last dim, to the same shape. */
  override forward(trace: Trace, x: Value): Value {
    // ONNX's scale is not optional.
    const scale = this.weight ? trace.parameter(this.weight) : trace.constant(
      "ones",
      initialData(ONES, { name: "ones", seed: 0, dtype: this.#dtype, shape: [this.#features] }),
    );
    return trace.call("LayerNormalization", [x, scale, ...(this.bias ? [trace.parameter(this.bias)] : [])], {
      attributes: { axis: int(-1), epsilon: float(this.eps) },
    });
  }
}

/** What an RMSNorm is declared by. */
export interface RMSNormOptions {
  /** Size of the last dim. */
  readonly features: number;
  /** Added to the mean square; 1e-6 by default, as Llama has it. */
  readonly eps?: number;
  /** Of the weight; `f32` by default. */
  readonly dtype?: DType;
}

/** `x / √(mean x² + eps) · weight` over the last dim. Source: Zhang and Sennrich, arXiv 1910.07467. */
export class RMSNorm extends Module {
  /** Added to the mean square. */
  readonly eps: number;
  /** `[features]`. */
  readonly weight: Parameter;

  /** Declares the weight. */
  constructor({ features, eps = 1e-6, dtype }: RMSNormOptions) {
    super();
    this.eps = eps;
    this.weight = this.parameter("weight", { shape: [features], initializer: ONES, dtype });
  }

  /** `x [*, features]`, made whole in the last dim, to the same shape. */
  override forward(trace: Trace, x: Value): Value {
    return trace.call("SimplifiedLayerNormalization", [x, trace.parameter(this.weight)], {
      attributes: { axis: int(-1), epsilon: float(this.eps) },
    });
  }
}
