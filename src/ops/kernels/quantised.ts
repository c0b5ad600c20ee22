/** Quantised ops on a GPU: values are restored where they are read. */
import { intOf } from "../../graph/attributes.ts";
import { type DType, dtypeInfo } from "../../core/dtype.ts";
import { axisOf, count, input, inputOf, output, outputOf, stridesOf, unknownForm, whole } from "./access.ts";
import { asBytes, bitsAt, elementAt, isPacked } from "./packed.ts";
import type { Access, KernelContext, Lowered, Lowering, RowsStep } from "./kernel.ts";

/** Scale (or zero point) `index` over the dims of the tensor that it belongs to: one for all, one an index of `axis`, or one a block. */
function perAxis(
  context: KernelContext,
  index: number,
  shape: readonly number[],
): { access: Access; read: (name: string) => string } {
  const tensor = inputOf(context, index), axis = axisOf(intOf(context.attributes, "axis") ?? 1, shape.length);
  const block = intOf(context.attributes, "block_size") ?? 0, operand = asBytes(input(context, index));
  const plain = (strides: number[]) => ({
    access: { operand, offset: 0, strides },
    read: (x: string) => elementAt(tensor.dtype, `p${x}`, `o${x}`),
  });
  if (count(tensor.shape) === 1 && block === 0) return plain(shape.map(() => 0));
  if (block === 0) return plain(shape.map((_, d) => (d === axis ? 1 : 0)));
  const own = stridesOf(tensor.shape);
  return {
    access: { operand, offset: 0, strides: own.with(axis, 0) },
    read: (x) => elementAt(tensor.dtype, `p${x}`, `o${x} + i${axis} / block * across`),
  };
}

function dequantize(context: KernelContext): Lowered {
  const { shape, dtype } = inputOf(context, 0),
    scale = perAxis(context, 1, shape),
    axis = axisOf(intOf(context.attributes, "axis") ?? 1, shape.length);
  const zero = context.inputs[2] ? perAxis(context, 2, shape) : undefined;
  const across = stridesOf(inputOf(context, 1).shape)[axis] ?? 1, value = elementAt(dtype, "p0", "o0");
  return {
    steps: [{
      kind: "map",
      shape,
      reads: [whole(asBytes(input(context, 0)), shape), scale.access, ...(zero ? [zero.access] : [])],
      write: whole(output(context), shape),
      expression: `(${value}${zero ? ` - ${zero.read("2")}` : ""}) * ${scale.read("1")}`,
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
  const value = `(long long)f_rint(x0 / ${scale.read("1")})${zero ? ` + ${zero.read("2")}` : ""}`;
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
  const writes: RowsStep["writes"][number][] = [];
  if (context.outputs[0]) {
    const expression = safe(`f_max(0.f, f_min(255.f, f_rint(x0 / ${scale}) + ${zero}))`);
    writes.push({ access: whole(output(context, 0), shape), expression, each: true });
  }
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

/** Rows of a table that is held in blocks of a few bits along its last dim. */
function gatherBlocks(context: KernelContext): Lowered {
  const { attributes } = context,
    data = inputOf(context, 0),
    indices = inputOf(context, 1).shape,
    to = outputOf(context).shape;
  const block = intOf(attributes, "block_size") ?? 128, last = to.length - 1;
  const axis = axisOf(intOf(attributes, "gather_axis") ?? 0, data.shape.length);
  const along = axisOf(intOf(attributes, "quantize_axis") ?? 1, data.shape.length);
  if (axis !== 0 || data.shape.length !== 2 || along !== 1) {
    throw unknownForm(context, `a table of ${data.dtype}[${data.shape}] gathered along ${axis}`);
  }
  // Bytes hold values of `bits`, with half their range as zero; 4-bit types say themselves what they are.
  const bits = isPacked(data.dtype) ? dtypeInfo(data.dtype).bits : intOf(attributes, "bits") ?? 4;
  const width = to[last]!, zeros = context.inputs[3], none = to.map(() => 0), row = "f_wrap(x1, rows)";
  const value = (name: string, dtype: DType, index: string) =>
    isPacked(dtype) ? elementAt(dtype, name, index) : bitsAt(name, index, bits);
  const zeroRow = isPacked(zeros?.dtype ?? "u8") ? zeros!.shape[1]! : (zeros?.shape[1] ?? 0) * (8 / bits);
  const zero = zeros
    ? value("p3", zeros.dtype, `${row} * zeroRow + i${last} / block`)
    : data.dtype === "u8"
    ? `${2 ** (bits - 1)}`
    : "0";
  const whole0 = (index: number): Access => ({ operand: asBytes(input(context, index)), offset: 0, strides: none });
  return {
    steps: [{
      kind: "map",
      shape: to,
      reads: [
        whole0(0),
        { operand: input(context, 1), offset: 0, strides: [...stridesOf(indices), 0] },
        whole0(2),
        ...(zeros ? [whole0(3)] : []),
      ],
      write: whole(output(context), to),
      expression: `((float)${value("p0", data.dtype, `${row} * width + i${last}`)} - (float)${zero}) * ` +
        `ld(p2[${row} * scaleRow + i${last} / block])`,
      params: { block, rows: data.shape[0]!, width, scaleRow: inputOf(context, 2).shape[1]!, zeroRow },
    }],
  };
}

/** All lowerings of quantised ops, by op. */
export const QUANTISED: Readonly<Record<string, Lowering>> = {
  DequantizeLinear: dequantize,
  DynamicQuantizeLinear: dynamicQuantize,
  QuantizeLinear: quantize,
  "com.microsoft.GatherBlockQuantized": gatherBlocks,
};
