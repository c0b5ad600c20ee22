/** Cross entropy: with whole logits on every rank, and with logits cut by classes. */
import { ShapeError } from "../core/errors.ts";
import { dtypeInfo } from "../core/dtype.ts";
import type { HostTensor } from "../core/host_tensor.ts";
import { fromNumbers } from "../core/host_tensor.ts";
import { float, int, string } from "../graph/attributes.ts";
import { inlineData } from "../graph/builder.ts";
import type { Attributes, TensorData, Value } from "../graph/graph.ts";
import { REPLICATE } from "../graph/placement.ts";
import { Module } from "./module.ts";
import type { Trace } from "./trace.ts";

/** What losses are declared by: the arguments of `torch.nn.functional.cross_entropy`, and z-loss. */
export interface CrossEntropyOptions {
  /** Labels that do not count; -100 by default. */
  readonly ignoreIndex?: number;
  /** ε: the share of each target that is spread over all classes; 0 by default. */
  readonly labelSmoothing?: number;
  /** `w [c]`: what each class counts; all 1 by default. */
  readonly classWeights?: readonly number[] | HostTensor;
  /** ζ: what the squared logarithm of the softmax's denominator counts; 0 by default. Source: PaLM, arXiv 2204.02311. */
  readonly zLoss?: number;
  /** `mean` by default. */
  readonly reduction?: "mean" | "sum" | "none";
  /** The dim of the classes: the last by default; 1 as ONNX has it. */
  readonly classDim?: -1 | 1;
  /** Whether logits at a position predict the label of the next: causal language models. Labels are `[batch, sequence]`. */
  readonly shift?: boolean;
}

/** What both losses share: the formula, and labels. */
export abstract class LossModule extends Module {
  readonly #options: CrossEntropyOptions;

  /** Nothing is computed before {@linkcode Module.trace}. */
  constructor(options: CrossEntropyOptions = {}) {
    super();
    this.#options = options;
  }

  /** The loss called `op`, of logits that are placed as it wants them. */
  protected loss(trace: Trace, op: string, operands: { readonly logits: Value; readonly labels: Value }): Value {
    const { shift = false, reduction = "mean" } = this.#options;
    // At least f32 in and out: the loss of half-precision logits is no half-precision number.
    const logits = widened(trace, operands.logits);
    const labels = shift ? this.#nextLabels(trace, operands.labels) : operands.labels;
    const weights = this.#weights();
    const inputs = [logits, labels, ...(weights ? [trace.constant("class_weights", weights)] : [])];
    const loss = trace.call(op, inputs, {
      domain: "shardwise",
      attributes: this.#attributes(this.classDim(logits).dim),
    });
    if (!shift || reduction !== "none") return loss;
    // The last position predicts nothing.
    return trace.call("Slice", [loss, trace.ints([0]), trace.ints([-1]), trace.ints([1])]);
  }

  /** The dim of the classes in `logits`. */
  protected classDim(logits: Value): { readonly dim: number; readonly size: number } {
    const shape = logits.type.shape;
    const dim = (this.#options.classDim ?? -1) === 1 ? 1 : (shape?.length ?? 0) - 1;
    const size = shape?.[dim];
    if (typeof size === "number") return { dim, size };
    throw new ShapeError(`Cannot take the loss of "${logits.name}": its number of classes is not known`);
  }

  #attributes(classDim: number): Attributes {
    const { ignoreIndex = -100, labelSmoothing = 0, zLoss = 0, reduction = "mean" } = this.#options;
    return {
      class_dim: int(classDim),
      ignore_index: int(ignoreIndex),
      label_smoothing: float(labelSmoothing),
      z_loss: float(zLoss),
      reduction: string(reduction),
    };
  }

  #weights(): TensorData | undefined {
    const { classWeights } = this.#options;
    if (classWeights === undefined) return undefined;
    const { dtype, shape, data } = "dtype" in classWeights
      ? classWeights
      : fromNumbers("f32", [classWeights.length], classWeights);
    return inlineData(dtype, shape, data);
  }

  /** The labels one position earlier and an ignored one at the end: cheaper than logits without their last position. */
  #nextLabels(trace: Trace, labels: Value): Value {
    const { shape, dtype } = labels.type;
    const batch = shape?.[0];
    if (shape?.length !== 2 || batch === undefined || !dtype) {
      throw new ShapeError(`Cannot shift labels "${labels.name}" of ${shape?.length ?? "unknown"} dims: expected 2`);
    }
    const end = trace.ints([Number.MAX_SAFE_INTEGER]);
    const later = trace.call("Slice", [labels, trace.ints([1]), end, trace.ints([1])]);
    const { data } = fromNumbers(dtype, [1, 1], [this.#options.ignoreIndex ?? -100]);
    const ignored = trace.constant("ignored_label", inlineData(dtype, [1, 1], data));
    const first = trace.call("Slice", [labels, trace.ints([0]), trace.ints([1]), trace.ints([1])]);
    // One column in the labels' batch size, whatever that is.
    const column = trace.call("Expand", [ignored, trace.call("Shape", [first])]);
    return trace.call("Concat", [later, column], { attributes: { axis: int(1) } });
  }
}

/**
 * Cross entropy of whole logits: `logits [*, c]`, integer `labels [*]`.
 *
 * With m = max x, S = Σ e^(x−m), label y, weights w (else 1), ε, ζ and V classes, per row that counts:
 *
 * ```text
 * loss = (1−ε) w_y (ln S + m − x_y) + ε/V Σ_c w_c (ln S + m − x_c) + ζ (ln S + m)²
 * ```
 *
 * `mean` divides the first two terms by Σ w_y and the last by the number of rows that count (none: NaN, as in PyTorch);
 * `none` gives 0 for rows that do not count. Half-precision logits are widened to f32 first, and the loss is f32.
 */
export class CrossEntropyLoss extends LossModule {
  /** `logits [*, c]` (or `[n, c, *]`), `labels [*]`; whole. */
  override forward(trace: Trace, logits: Value, labels: Value): Value {
    return this.loss(trace, "CrossEntropyLoss", { logits: trace.redistribute(logits, REPLICATE), labels });
  }
}

/**
 * {@linkcode CrossEntropyLoss} of logits that are cut by classes, which are never gathered.
 *
 * With the classes' ranges `[a_r, b_r)`, rank r computes its maximum, and after one all-reduce of those the sums
 *
 * ```text
 * S_r = Σ_{c in r} e^(x_c − m)     t_r = x_y − m if y in [a_r, b_r), else 0     u_r = Σ_{c in r} w_c (x_c − m), if ε > 0
 * ```
 *
 * which a second all-reduce adds up, in one buffer: two collectives of a few numbers a row, instead of the logits. Logits
 * that are whole are cut first, without communication. Shards are balanced; a rank may hold no class.
 *
 * Source: Megatron-LM's `vocab_parallel_cross_entropy`, but smoothing as in PyTorch: ε/V over all classes.
 *
 * @example Logits of a column-parallel head, which stay cut
 * ```ts
 * import { ColumnParallelLinear } from "./column_parallel_linear.ts";
 * import { VocabParallelCrossEntropyLoss } from "./cross_entropy_loss.ts";
 * import { Module } from "./module.ts";
 * import type { Trace } from "./trace.ts";
 * import type { Value } from "../graph/graph.ts";
 *
 * class Head extends Module {
 *   readonly head = this.child("head", new ColumnParallelLinear({ inFeatures: 6, outFeatures: 13, gatherOutput: false }));
 *   readonly loss = this.child("loss", new VocabParallelCrossEntropyLoss({ labelSmoothing: 0.1 }));
 *
 *   override forward(trace: Trace, x: Value, labels: Value): Value {
 *     return this.loss.forward(trace, this.head.forward(trace, x), labels);
 *   }
 * }
 *
 * const model = new Head();
 * model.initialize({ seed: 1 });
 * const graph = model.trace({
 *   x: { dtype: "f32", shape: [4, 6] },
 *   labels: { dtype: "i64", shape: [4] },
 * }, { ranks: 2 });
 * if (graph.nodes.some((node) => node.kind === "collective")) throw new Error("logits were gathered");
 * ```
 */
export class VocabParallelCrossEntropyLoss extends LossModule {
  /** `logits [*, c]` (or `[n, c, *]`), cut by classes or whole; `labels [*]`, whole. */
  override forward(trace: Trace, logits: Value, labels: Value): Value {
    const { dim, size } = this.classDim(logits);
    const cut = trace.redistribute(logits, trace.cut(dim, size));
    return this.loss(trace, "VocabParallelCrossEntropyLoss", { logits: cut, labels });
  }
}

function widened(trace: Trace, x: Value): Value {
  const isHalf = x.type.dtype === "f16" || x.type.dtype === "bf16";
  return isHalf ? trace.call("Cast", [x], { attributes: { to: int(dtypeInfo("f32").onnx) } }) : x;
}
