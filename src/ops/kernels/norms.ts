/** Norms on a GPU: rows of the dims that are normalised together. */
import { floatOf, intOf } from "../../graph/attributes.ts";
import { axisOf, count, input, inputOf, output, stridesOf } from "./access.ts";
import type { Access, KernelContext, Lowered, Lowering, Params, Reduction, RowsStep } from "./kernel.ts";
import { perRow, SUM } from "./rows.ts";

interface Norm {
  /** Inputs that are added up before: positions. */
  readonly addends: readonly number[];
  readonly scale: number;
  readonly bias: number;
  /** Mean is taken out first. */
  readonly centred: boolean;
  /** Output that takes the sum of the addends, if it is asked for. */
  readonly sum?: number;
}

/** LayerNormalization and its relatives: rows of the normalised dims. */
function norm(context: KernelContext, kind: Norm): Lowered {
  const { shape } = inputOf(context, 0);
  const axis = axisOf(intOf(context.attributes, "axis") ?? -1, shape.length);
  const outer = shape.slice(0, axis), inner = shape.slice(axis), strides = stridesOf(shape);
  const reads: Access[] = [];
  const read = (index: number): string | undefined => {
    const tensor = context.inputs[index];
    if (!tensor) return undefined;
    const own = stridesOf(tensor.shape), lead = shape.length - tensor.shape.length;
    // Addends may have fewer dims (a bias) or a batch of 1.
    const over = shape.map((_, d) => (d < lead || tensor.shape[d - lead] === 1 ? 0 : own[d - lead]!));
    reads.push({ operand: input(context, index), offset: 0, strides: over });
    return `x${reads.length - 1}`;
  };
  const x = kind.addends.map((i) => read(i)).filter((e) => e !== undefined).join(" + ");
  const scale = read(kind.scale), bias = kind.bias < 0 ? undefined : read(kind.bias);
  const reductions: Reduction[] = kind.centred ? [{ name: "total", ...SUM, value: x }] : [];
  const value = kind.centred ? `(${x} - total / count)` : `(${x})`;
  reductions.push({ name: "squares", ...SUM, value: `${value} * ${value}` });
  const inverse = "f_rsqrt(squares / count + epsilon)";
  const each = (index: number): Access => ({ operand: output(context, index), offset: 0, strides });
  const row = (index: number) => perRow(output(context, index), { outer, inner });
  const normalised = `${value} * ${inverse}${scale ? ` * ${scale}` : ""}${bias ? ` + ${bias}` : ""}`;
  const writes: RowsStep["writes"][number][] = [];
  // A rank without a part of the layer may want nothing but the sum.
  if (context.outputs[0]) writes.push({ access: each(0), expression: normalised, each: true });
  const statistics = kind.centred ? ["total / count", inverse] : [inverse];
  statistics.forEach((expression, i) => {
    if (context.outputs[i + 1]) writes.push({ access: row(i + 1), expression, each: false });
  });
  if (kind.sum !== undefined && context.outputs[kind.sum]) {
    writes.push({ access: each(kind.sum), expression: x, each: true });
  }
  const epsilon = floatOf(context.attributes, "epsilon") ?? (context.node.domain === "com.microsoft" ? 1e-12 : 1e-5);
  const params: Params = { count: { float: count(inner) }, epsilon: { float: epsilon } };
  return { steps: [{ kind: "rows", outer, inner, reads, reductions, writes, params }] };
}

/** Channels in groups, each with all its positions; the scale is that of a group before opset 21, of a channel since. */
function groupNorm(context: KernelContext): Lowered {
  const { shape } = inputOf(context, 0), groups = intOf(context.attributes, "num_groups")!;
  const [batch, channels] = shape as [number, number], each = channels / groups, positions = count(shape.slice(2));
  const perChannel = inputOf(context, 1).shape[0] === channels;
  const strides = stridesOf([batch, groups, each, positions]);
  const weight = (index: number): Access => ({
    operand: input(context, index),
    offset: 0,
    strides: perChannel ? [0, each, 1, 0] : [0, 1, 0, 0],
  });
  const value = "(x0 - total / count)";
  return {
    steps: [{
      kind: "rows",
      outer: [batch, groups],
      inner: [each, positions],
      reads: [{ operand: input(context, 0), offset: 0, strides }, weight(1), weight(2)],
      reductions: [{ name: "total", ...SUM, value: "x0" }, { name: "squares", ...SUM, value: `${value} * ${value}` }],
      writes: [{
        access: { operand: output(context), offset: 0, strides },
        expression: `${value} * f_rsqrt(squares / count + epsilon) * x1 + x2`,
        each: true,
      }],
      params: {
        count: { float: each * positions },
        epsilon: { float: floatOf(context.attributes, "epsilon") ?? 1e-5 },
      },
    }],
  };
}

const layer = (kind: Norm): Lowering => (context) => norm(context, kind);

/** All lowerings of norms, by op. */
export const NORMS: Readonly<Record<string, Lowering>> = {
  GroupNormalization: groupNorm,
  LayerNormalization: layer({ addends: [0], scale: 1, bias: 2, centred: true }),
  RMSNormalization: layer({ addends: [0], scale: 1, bias: -1, centred: false }),
  SimplifiedLayerNormalization: layer({ addends: [0], scale: 1, bias: -1, centred: false }),
  "com.microsoft.SkipLayerNormalization": layer({ addends: [0, 1, 4], scale: 2, bias: 3, centred: true, sum: 3 }),
  "com.microsoft.SkipSimplifiedLayerNormalization": layer({
    addends: [0, 1, 3],
    scale: 2,
    bias: -1,
    centred: false,
    sum: 3,
  }),
};
