/** Quantised ops on a GPU: values are restored where they are read. */
import { intOf } from "../../graph/attributes.ts";
import { dtypeInfo } from "../../core/dtype.ts";
import { axisOf, count, input, inputOf, output, outputOf, stridesOf, unknownForm, whole } from "./access.ts";
import type { Access, KernelContext, Lowered, Lowering, Params, RowsStep } from "./kernel.ts";

/** Scale (or zero point) `index` over the dims of the tensor that it belongs to: one for all, one an index of `axis`, or one a block. */
function perAxis(
  context: KernelContext,
  index: number,
  shape: readonly number[],
): { access: Access; read: (name: string) => string } {
  const tensor = inputOf(context, index), axis = axisOf(intOf(context.attributes, "axis") ?? 1, shape.length);
  const block = intOf(context.attributes, "block_size") ?? 0, operand = input(context, index);
  const plain = (strides: number[]) => ({ access: { operand, offset: 0, strides }, read: (x: string) => `x${x}` });
  if (count(tensor.shape) === 1 && block === 0) return plain(shape.map(() => 0));
  if (block === 0) return plain(shape.map((_, d) => (d === axis ? 1 : 0)));
  const own = stridesOf(tensor.shape);
  return {
    access: { operand, offset: 0, strides: own.with(axis, 0) },
    read: (x) => `ld(p${x}[o${x} + i${axis} / block * across])`,
  };
}

function requireBytes(context: KernelContext, index: number): void {
  const { dtype } = inputOf(context, index);
  if (dtypeInfo(dtype).bits < 8) throw unknownForm(context, `packed ${dtype} values`);
}

function dequantize(context: KernelContext): Lowered {
  requireBytes(context, 0);
  const { shape } = inputOf(context, 0),
    scale = perAxis(context, 1, shape),
    axis = axisOf(intOf(context.attributes, "axis") ?? 1, shape.length);
  const zero = context.inputs[2] ? perAxis(context, 2, shape) : undefined;
  const across = stridesOf(inputOf(context, 1).shape)[axis] ?? 1;
  return {
    steps: [{
      kind: "map",
      shape,
      reads: [whole(input(context, 0), shape), scale.access, ...(zero ? [zero.access] : [])],
      write: whole(output(context), shape),
      expression: `(x0${zero ? ` - (long long)${zero.read("2")}` : ""}) * ${scale.read("1")}`,
      params: { block: intOf(context.attributes, "block_size") ?? 1, across },
    }],
  };
}

/** The range of a quantised type. */
function rangeOf(context: KernelContext, dtype: string): { low: number; high: number } {
  if (dtype === "u8") return { low: 0, high: 255 };
  if (dtype === "i8") return { low: -128, high: 127 };
  if (dtype === "u16") return { low: 0, high: 65535 };
  if (dtype === "i16") return { low: -32768, high: 32767 };
  throw unknownForm(context, `quantising to ${dtype}`);
}

function quantize(context: KernelContext): Lowered {
  const { shape } = inputOf(context, 0), scale = perAxis(context, 1, shape);
  const zero = context.inputs[2] ? perAxis(context, 2, shape) : undefined;
  const axis = axisOf(intOf(context.attributes, "axis") ?? 1, shape.length);
  const across = stridesOf(inputOf(context, 1).shape)[axis] ?? 1,
    { low, high } = rangeOf(context, outputOf(context).dtype);
  const value = `(long long)f_rint(x0 / ${scale.read("1")})${zero ? ` + (long long)${zero.read("2")}` : ""}`;
  return {
    steps: [{
      kind: "map",
      shape,
      reads: [whole(input(context, 0), shape), scale.access, ...(zero ? [zero.access] : [])],
      write: whole(output(context), shape),
      expression: `f_max(low, f_min(high, ${value}))`,
      params: { low, high, block: intOf(context.attributes, "block_size") ?? 1, across },
    }],
  };
}

/** One range for the whole tensor, with 0 in it. */
function dynamicQuantize(context: KernelContext): Lowered {
  const { shape } = inputOf(context, 0);
  const one = (index: number): Access => ({ operand: output(context, index), offset: 0, strides: shape.map(() => 0) });
  const scale = "((high - low) / 255.f)", zero = `f_max(0.f, f_min(255.f, f_rint(0.f - low / ${scale})))`;
  const safe = (e: string) => `(high == low ? 0.f : ${e})`;
  const writes: RowsStep["writes"][number][] = [{
    access: whole(output(context, 0), shape),
    expression: safe(`f_max(0.f, f_min(255.f, f_rint(x0 / ${scale}) + ${zero}))`),
    each: true,
  }];
  if (context.outputs[1]) writes.push({ access: one(1), expression: scale, each: false });
  if (context.outputs[2]) writes.push({ access: one(2), expression: safe(zero), each: false });
  return {
    steps: [{
      kind: "rows",
      outer: [],
      inner: shape,
      reads: [whole(input(context, 0), shape)],
      reductions: [
        { name: "low", init: "0.f", combine: "f_min(a, b)", value: "x0" },
        { name: "high", init: "0.f", combine: "f_max(a, b)", value: "x0" },
      ],
      writes,
    }],
  };
}

/** `y = x · bᵀ` with 4- or 8-bit rows of b in blocks: each output element is a row whose elements are restored as they are read. */
function matmulNbits(context: KernelContext): Lowered {
  const { attributes } = context, x = inputOf(context, 0).shape;
  const k = intOf(attributes, "K")!, n = intOf(attributes, "N")!, bits = intOf(attributes, "bits") ?? 4;
  const block = intOf(attributes, "block_size")!, blocks = Math.ceil(k / block);
  if (context.inputs[4]) throw unknownForm(context, "a g_idx");
  if (bits !== 4 && bits !== 8) throw unknownForm(context, `${bits} bits`);
  const perByte = 8 / bits, rows = count(x) / k;
  const outer = [rows, n];
  const reads: Access[] = [
    { operand: input(context, 0), offset: 0, strides: [k, 0, 1] },
    { operand: input(context, 1), offset: 0, strides: [0, blocks * block / perByte, 0] },
    { operand: input(context, 2), offset: 0, strides: [0, blocks, 0] },
  ];
  const byte = (offset: string, index: string) =>
    bits === 8 ? `${offset}[${index}]` : `((${offset}[(${index}) / 2] >> (4 * ((${index}) & 1))) & 15)`;
  let zero = bits === 8 ? "128" : "8";
  const zeros = context.inputs[3];
  if (zeros?.dtype === "u8") {
    const perRow = Math.ceil(blocks / perByte);
    reads.push({ operand: input(context, 3), offset: 0, strides: [0, perRow, 0] });
    zero = byte("(p3 + o3)", "r0 / block");
  } else if (zeros) {
    reads.push({ operand: input(context, 3), offset: 0, strides: [0, blocks, 0] });
    zero = "ld(p3[o3 + r0 / block])";
  }
  const bias = context.inputs[5];
  if (bias) reads.push({ operand: input(context, 5), offset: 0, strides: [0, 1, 0] });
  const value = `x0 * (float)((float)${byte("(p1 + o1)", "r0")} - (float)${zero}) * ld(p2[o2 + r0 / block])`;
  const params: Params = { block };
  return {
    steps: [{
      kind: "rows",
      outer,
      inner: [k],
      reads,
      reductions: [{ name: "r", init: "0.f", combine: "a + b", value }],
      writes: [{
        access: { operand: output(context), offset: 0, strides: [n, 1, 0] },
        expression: bias ? `r + x${reads.length - 1}` : "r",
        each: false,
      }],
      params,
    }],
  };
}

/** Rows of a table that is held in 4- or 8-bit blocks along its last dim. */
function gatherBlocks(context: KernelContext): Lowered {
  const { attributes } = context,
    data = inputOf(context, 0),
    indices = inputOf(context, 1).shape,
    to = outputOf(context).shape;
  const bits = intOf(attributes, "bits") ?? 4, block = intOf(attributes, "block_size") ?? 128, last = to.length - 1;
  const axis = axisOf(intOf(attributes, "gather_axis") ?? 0, data.shape.length);
  const along = axisOf(intOf(attributes, "quantize_axis") ?? 1, data.shape.length);
  if (data.dtype !== "u8" || axis !== 0 || data.shape.length !== 2 || along !== 1) {
    throw unknownForm(context, `a table of ${data.dtype}[${data.shape}] gathered along ${axis}`);
  }
  const width = to[last]!, perByte = 8 / bits, scales = inputOf(context, 2).shape[1]!;
  const zeros = context.inputs[3], own = stridesOf(indices), none = to.map(() => 0);
  const row = "f_wrap(x1, rows)";
  const at = (table: string, stride: string, index: string) =>
    bits === 8
      ? `${table}[${row} * ${stride} + ${index}]`
      : `((${table}[${row} * ${stride} + (${index}) / 2] >> (4 * ((${index}) & 1))) & 15)`;
  const zero = zeros ? at("p3", "zeroRow", `i${last} / block`) : bits === 8 ? "128" : "8";
  return {
    steps: [{
      kind: "map",
      shape: to,
      reads: [
        { operand: input(context, 0), offset: 0, strides: none },
        { operand: input(context, 1), offset: 0, strides: [...own, 0] },
        { operand: input(context, 2), offset: 0, strides: none },
        ...(zeros ? [{ operand: input(context, 3), offset: 0, strides: none }] : []),
      ],
      write: whole(output(context), to),
      expression: `((float)${
        at("p0", "dataRow", `i${last}`)
      } - (float)${zero}) * ld(p2[${row} * scaleRow + i${last} / block])`,
      params: {
        block,
        rows: data.shape[0]!,
        dataRow: width / perByte,
        scaleRow: scales,
        zeroRow: zeros?.shape[1] ?? 0,
      },
    }],
  };
}

/** All lowerings of quantised ops, by op. */
export const QUANTISED: Readonly<Record<string, Lowering>> = {
  DequantizeLinear: dequantize,
  DynamicQuantizeLinear: dynamicQuantize,
  QuantizeLinear: quantize,
  "com.microsoft.GatherBlockQuantized": gatherBlocks,
  "com.microsoft.MatMulNBits": matmulNbits,
};
