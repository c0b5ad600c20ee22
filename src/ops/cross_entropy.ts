/**
 * CrossEntropyLoss, the layer that vocabulary parallelism cuts by classes.
 *
 * Inputs `logits [n,c,…]`, `labels [n,…]`, optional `weights [c]`; attributes `ignore_index` (-100), `reduction` (`mean`,
 * `sum`, `none`), `label_smoothing` ε, `z_loss` ζ and `class_dim` (1, as ONNX has it). With m = max x, S = Σ e^(x−m), t = x_y − m, u = Σ w(x−m), V classes:
 *
 * ```text
 * loss = (1−ε) w_y (ln S − t) + ε/V (Σw · ln S − u) + ζ (ln S + m)²
 * ```
 * and 0 for ignored labels. `mean` divides by Σ w_y, the last term by the number of labels that count; a mean over none is
 * NaN, as in PyTorch. Cut by classes this takes two all-reduces of a few numbers a row: m, then S, t and u together.
 */
import type { Dim } from "../core/dim.ts";
import type { DType } from "../core/dtype.ts";
import { dtypeInfo } from "../core/dtype.ts";
import { float, floatOf, int, intOf, ints as intsAttribute, string, stringOf } from "../graph/attributes.ts";
import { isWhole, type Layout } from "../graph/layout.ts";
import type { LocalEmitter, LocalizeContext, OpDef, TypedContext } from "./def.ts";
import { at } from "./factors.ts";
import { sampleFactors } from "./loss.ts";
import { emitLocalIndices, emitZeros } from "./selected_rows.ts";

/** The lowest finite f32: the maximum over no classes. */
const LOWEST = -3.4028234663852886e38;

export const CROSS_ENTROPY_LOSS: OpDef = {
  op: "CrossEntropyLoss",
  domain: "shardwise",
  since: 1,
  inputs: ["logits", "labels", "weights"],
  module: true,
  infer: ({ inputs, attributes }) => {
    const none = stringOf(attributes, "reduction") === "none";
    return [{ dtype: inputs[0]?.dtype, shape: none ? inputs[1]?.shape : [] }];
  },
  factors: (context) => {
    const axis = classDimOf(context);
    const classes = context.inputs[0]?.shape?.[axis];
    if (typeof classes !== "number") return { factors: sampleFactors(context, axis) };
    const inputs = context.inputs.map((_, i) => (i === 0 ? at(axis) : null));
    return {
      factors: [...sampleFactors(context, axis), { name: "c", size: classes, inputs, outputs: [null], internal: true }],
    };
  },
  localize: (context) => [new LossEmitter(context).emitAll()],
  examples: [
    { inputs: [{ dtype: "f32", shape: [4, 7] }, { dtype: "i64", shape: [4] }], ranges: { 1: [0, 7] } },
    {
      inputs: [{ dtype: "f32", shape: [4, 7] }, { dtype: "i64", shape: [4] }, { dtype: "f32", shape: [7] }],
      ranges: { 1: [0, 7] },
      attributes: { ignore_index: int(3), label_smoothing: float(0.1), z_loss: float(1e-4), reduction: string("sum") },
    },
    {
      inputs: [{ dtype: "f32", shape: [2, 5, 3] }, { dtype: "i64", shape: [2, 3] }],
      ranges: { 1: [0, 5] },
      attributes: { reduction: string("none") },
    },
    {
      inputs: [{ dtype: "f32", shape: [2, 3, 5] }, { dtype: "i64", shape: [2, 3] }, { dtype: "f32", shape: [5] }],
      ranges: { 1: [0, 5] },
      attributes: { class_dim: int(2), label_smoothing: float(0.1), reduction: string("none") },
    },
  ],
};

/** The dim of the classes. */
function classDimOf({ attributes }: Pick<TypedContext, "attributes">): number {
  return intOf(attributes, "class_dim") ?? 1;
}

/** Emits the loss of one rank; all intermediate tensors are `[n,1,…]`: the labels' shape, and 1 in the place of the classes. */
class LossEmitter {
  readonly #context: LocalizeContext;
  readonly #emit: LocalEmitter;
  /** dtype of the arithmetic: at least f32. */
  readonly #dtype: DType;
  /** Of the classes, where they are cut. */
  readonly #layout: Layout | undefined;
  readonly #classes: number;
  /** Their dim. */
  readonly #axis: number;

  constructor(context: LocalizeContext) {
    const logits = context.inputTensors[0]!;
    this.#context = context;
    this.#emit = context.emit;
    this.#dtype = logits.type.dtype === "f64" ? "f64" : "f32";
    this.#axis = classDimOf(context);
    this.#classes = logits.type.shape![this.#axis] as number;
    const { placement } = logits;
    const cut = placement.kind === "S" && placement.dim === this.#axis && !isWhole(placement.layout);
    this.#layout = cut ? placement.layout : undefined;
  }

  emitAll(): string {
    const { attributes, names } = this.#context;
    const labels = this.#labels();
    const smoothing = floatOf(attributes, "label_smoothing") ?? 0, z = floatOf(attributes, "z_loss") ?? 0;
    const { maximum, sum, target, weighted } = this.#statistics(labels, smoothing > 0);
    const logSum = this.#op("Log", sum);
    let rows = this.#op("Sub", logSum, target);
    const weights = names[2] ? this.#cast(names[2]) : undefined;
    const rowWeights = weights && this.#emit.op("Gather", [weights, labels.safe], { axis: int(0) });
    if (rowWeights) rows = this.#op("Mul", rows, rowWeights);
    if (smoothing > 0) {
      const total = weights ? this.#reduceSum(weights, undefined, 0) : this.#number(this.#classes);
      const spread = this.#op("Sub", this.#op("Mul", total, logSum), weighted!);
      const uniform = this.#op("Mul", spread, this.#number(smoothing / this.#classes));
      rows = this.#op("Add", this.#op("Mul", rows, this.#number(1 - smoothing)), uniform);
    }
    rows = this.#valid(labels.valid, rows);
    const square = (x: string) => this.#op("Mul", x, x);
    const penalty = z > 0
      ? this.#valid(labels.valid, this.#op("Mul", square(this.#op("Add", logSum, maximum)), this.#number(z)))
      : undefined;
    return this.#back(this.#reduce(rows, penalty, { valid: labels.valid, rowWeights }));
  }

  /** The labels' shape with 1 in the place of the classes. */
  #column(labels: readonly Dim[]): Dim[] {
    return [...labels.slice(0, this.#axis), 1, ...labels.slice(this.#axis)];
  }

  /** Labels as `[n,1,…]`: which of them count, and 0 where they do not. */
  #labels(): { valid: string; safe: string; dtype: DType } {
    const { attributes, inputTensors, names, emit } = this.#context;
    const dtype = inputTensors[1]!.type.dtype!;
    const shape = inputTensors[1]!.localShape!;
    const column = emit.op("Reshape", [names[1]!, emit.sizes(this.#column(shape))]);
    const ignored = emit.op("Equal", [column, emit.scalar(dtype, intOf(attributes, "ignore_index") ?? -100)]);
    const safe = emit.op("Where", [ignored, emit.scalar(dtype, 0), column]);
    return { valid: emit.op("Not", [ignored]), safe, dtype };
  }

  /** Maximum, Σ e^(x−m), x_y − m and, where wanted, Σ w(x−m), over all classes. */
  #statistics(labels: { safe: string; dtype: DType }, wantsWeighted: boolean) {
    const { inputTensors, names, rank } = this.#context;
    const shape = this.#column(inputTensors[1]!.localShape!);
    const ranges = this.#layout?.parts[rank];
    const isEmpty = ranges?.length === 0;
    const logits = this.#cast(names[0]!);
    const zeros = isEmpty ? emitZeros(this.#emit, this.#dtype, shape) : "";
    const highest = isEmpty ? this.#op("Add", zeros, this.#number(LOWEST)) : this.#reduceMax(logits);
    const maximum = this.#layout ? this.#emit.collective("all_reduce", highest, { reduction: "max" }) : highest;
    let parts: string[];
    if (isEmpty) parts = wantsWeighted ? [zeros, zeros, zeros] : [zeros, zeros];
    else {
      const centred = this.#op("Sub", logits, maximum);
      const place = ranges && emitLocalIndices(this.#emit, labels.safe, { dtype: labels.dtype, ranges });
      const picked = this.#emit.op("GatherElements", [centred, place?.index ?? labels.safe], { axis: int(this.#axis) });
      parts = [
        this.#reduceSum(this.#op("Exp", centred), this.#axis, 1),
        place ? this.#valid(place.held, picked) : picked,
      ];
      if (wantsWeighted) parts.push(this.#reduceSum(this.#weigh(centred, shape.length), this.#axis, 1));
    }
    if (this.#layout) parts = this.#addUp(parts);
    const [sum, target, weighted] = parts;
    return { maximum, sum: sum!, target: target!, weighted };
  }

  /** One all-reduce for several columns. */
  #addUp(parts: readonly string[]): string[] {
    const joined = this.#emit.op("Concat", parts, { axis: int(this.#axis) });
    const total = this.#emit.collective("all_reduce", joined, { reduction: "sum" });
    const ones = parts.map(() => 1), outputs = parts.length;
    return this.#context.onnxOpset >= 13
      ? this.#emit.ops("Split", [total, this.#emit.sizes(ones)], { axis: int(this.#axis) }, { outputs })
      : this.#emit.ops("Split", [total], { axis: int(this.#axis), split: intsAttribute(ones) }, { outputs });
  }

  /** `x [n,c,…]` times the class weights that the rank's classes have. */
  #weigh(x: string, ndim: number): string {
    const { names, rank } = this.#context;
    if (!names[2]) return x;
    let weights = this.#cast(names[2]);
    const ranges = this.#layout?.parts[rank];
    if (ranges) {
      const emit = this.#emit;
      const pieces = ranges.map(([a, b]) => emit.op("Slice", [weights, emit.sizes([a]), emit.sizes([b])]));
      weights = pieces.length === 1 ? pieces[0]! : emit.op("Concat", pieces, { axis: int(0) });
    }
    const column = this.#emit.sizes(Array.from({ length: ndim }, (_, dim) => (dim === this.#axis ? -1 : 1)));
    return this.#op("Mul", x, this.#emit.op("Reshape", [weights, column]));
  }

  #reduce(rows: string, penalty: string | undefined, by: { valid: string; rowWeights: string | undefined }): string {
    const reduction = stringOf(this.#context.attributes, "reduction") ?? "mean";
    const add = (a: string, b: string | undefined) => (b === undefined ? a : this.#op("Add", a, b));
    if (reduction === "none") {
      const shape = this.#context.inputTensors[1]!.localShape!;
      return this.#emit.op("Reshape", [add(rows, penalty), this.#emit.sizes(shape)]);
    }
    const total = (x: string) => this.#reduceSum(x, undefined, 0);
    if (reduction === "sum") return total(add(rows, penalty));
    const counts = this.#cast(by.valid, true);
    const weight = total(by.rowWeights ? this.#valid(by.valid, by.rowWeights) : counts);
    const mean = this.#op("Div", total(rows), weight);
    return penalty === undefined ? mean : add(mean, this.#op("Div", total(penalty), total(counts)));
  }

  #valid(condition: string, x: string): string {
    return this.#emit.op("Where", [condition, x, this.#number(0)]);
  }

  /** To the dtype of the arithmetic. */
  #cast(x: string, always = false): string {
    const isSame = this.#context.inputs[0]!.dtype === this.#dtype;
    return isSame && !always ? x : this.#emit.op("Cast", [x], { to: int(dtypeInfo(this.#dtype).onnx) });
  }

  /** To the dtype of the logits. */
  #back(x: string): string {
    const dtype = this.#context.inputs[0]!.dtype!;
    return dtype === this.#dtype ? x : this.#emit.op("Cast", [x], { to: int(dtypeInfo(dtype).onnx) });
  }

  #op(op: string, ...inputs: string[]): string {
    return this.#emit.op(op, inputs);
  }

  #number(value: number): string {
    return this.#emit.scalar(this.#dtype, value);
  }

  #reduceMax(x: string): string {
    const isAttribute = this.#context.onnxOpset < 18;
    return isAttribute
      ? this.#emit.op("ReduceMax", [x], { axes: intsAttribute([this.#axis]), keepdims: int(1) })
      : this.#emit.op("ReduceMax", [x, this.#emit.sizes([this.#axis])], { keepdims: int(1) });
  }

  #reduceSum(x: string, axis: number | undefined, keep: number): string {
    const keepdims = int(keep);
    if (axis === undefined) return this.#emit.op("ReduceSum", [x], { keepdims });
    return this.#context.onnxOpset < 13
      ? this.#emit.op("ReduceSum", [x], { axes: intsAttribute([axis]), keepdims })
      : this.#emit.op("ReduceSum", [x, this.#emit.sizes([axis])], { keepdims });
  }
}
