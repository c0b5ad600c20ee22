/**
 * Convolutions on a GPU, of any number of spatial dims: what each window of the input holds becomes a column of a matrix, which the filters
 * multiply. Where a group has few channels (depthwise), each thread sums one window.
 */
import { intOf, intsOf as intsAttribute, stringOf } from "../../graph/attributes.ts";
import { byteLength, dtypeInfo } from "../../core/dtype.ts";
import { count, input, inputOf, output, outputOf, stridesOf, whole } from "./access.ts";
import { Scratch } from "./heads.ts";
import type { Access, KernelContext, KernelStep, Lowered, Lowering, MapStep, Params } from "./kernel.ts";
import { matmulSteps } from "./products.ts";

/** Filters of a group, and elements of a window, from which on a product is worth its matrix. */
const PRODUCT_FILTERS = 4, PRODUCT_WINDOW = 8;
/** Bytes of windows that lie in memory at once, where images are many. */
const WINDOW_BYTES = 256 * 2 ** 20;

/** How windows lie in the input. */
interface Windows {
  readonly groups: number;
  readonly steps: readonly number[];
  readonly spread: readonly number[];
  readonly pads: readonly number[];
}

function windowsOf(context: KernelContext): Windows {
  const x = inputOf(context, 0).shape, w = inputOf(context, 1).shape, to = outputOf(context).shape;
  const { attributes } = context, dims = x.length - 2, auto = stringOf(attributes, "auto_pad") ?? "NOTSET";
  const steps = intsAttribute(attributes, "strides") ?? Array<number>(dims).fill(1);
  const spread = intsAttribute(attributes, "dilations") ?? Array<number>(dims).fill(1);
  const pads = Array.from({ length: dims }, (_, d) => {
    if (auto === "NOTSET" || auto === "VALID") return intsAttribute(attributes, "pads")?.[d] ?? 0;
    const all = Math.max(0, (to[d + 2]! - 1) * steps[d]! + (w[d + 2]! - 1) * spread[d]! + 1 - x[d + 2]!);
    return auto === "SAME_LOWER" ? Math.ceil(all / 2) : Math.floor(all / 2);
  });
  return { groups: intOf(attributes, "group") ?? 1, steps, spread, pads };
}

function conv(context: KernelContext): Lowered {
  const w = inputOf(context, 1).shape, to = outputOf(context).shape, windows = windowsOf(context);
  if (count(to) === 0) return { steps: [] };
  const perGroup = w[0]! / windows.groups, window = count(w.slice(1));
  const isProduct = dtypeInfo(outputOf(context).dtype).float && perGroup >= PRODUCT_FILTERS && window >= PRODUCT_WINDOW;
  return isProduct ? byProduct(context, windows) : byWindow(context, windows);
}

/** Where element `channel`, `taps` of the window at `positions` lies in the input, and whether it lies within it. */
function element(
  context: KernelContext,
  { steps, spread, pads }: Windows,
  at: { readonly positions: readonly string[]; readonly taps: readonly string[] },
): { readonly inside: string; readonly offset: string; readonly params: Record<string, number> } {
  const { shape } = inputOf(context, 0), own = stridesOf(shape), params: Record<string, number> = {};
  const places = at.positions.map((position, d) => {
    Object.assign(params, {
      [`st${d}`]: steps[d],
      [`di${d}`]: spread[d],
      [`pa${d}`]: pads[d],
      [`si${d}`]: shape[d + 2]!,
      [`ss${d}`]: own[d + 2]!,
    });
    return `(${position} * st${d} + ${at.taps[d]} * di${d} - pa${d})`;
  });
  return {
    inside: places.map((p, d) => `${p} >= 0 && ${p} < si${d}`).join(" && ") || "true",
    offset: places.map((p, d) => ` + ${p} * ss${d}`).join(""),
    params,
  };
}

/** `[images, groups, filters, positions]` as products of filters and windows; some images at a time. */
function byProduct(context: KernelContext, windows: Windows): Lowered {
  const x = inputOf(context, 0), w = inputOf(context, 1).shape, to = outputOf(context), { groups } = windows;
  const images = x.shape[0]!, channels = w[1]!, kernel = w.slice(2), spatial = to.shape.slice(2);
  const inner = count(w.slice(1)), positions = count(spatial), filters = w[0]! / groups;
  const scratch = new Scratch(), steps: KernelStep[] = [], bias = context.inputs[2];
  if (bias) {
    const read = { operand: input(context, 2), offset: 0, strides: [0, 1, ...spatial.map(() => 0)] };
    steps.push({
      kind: "map",
      shape: to.shape,
      reads: [read],
      write: whole(output(context), to.shape),
      expression: "x0",
    });
  }
  // A window of one element each, in order: the input is the matrix.
  const isInput = count(kernel) === 1 && windows.steps.every((s) => s === 1) && windows.pads.every((p) => p === 0) &&
    spatial.every((size, d) => size === x.shape[d + 2]);
  const each = byteLength(x.dtype, groups * inner * positions);
  const together = isInput ? images : Math.max(1, Math.min(images, Math.floor(WINDOW_BYTES / each)));
  const columns = isInput ? input(context, 0) : scratch.take(x.dtype, [together, groups, inner, positions]);
  const own = stridesOf(x.shape), channel = own[1]!;
  for (let first = 0; first < images; first += together) {
    const some = Math.min(together, images - first);
    if (!isInput) {
      const shape = [some, groups, channels, ...kernel, ...spatial], dims = spatial.length;
      const taps = kernel.map((_, d) => `i${3 + d}`), places = spatial.map((_, d) => `i${3 + dims + d}`);
      const { inside, offset, params } = element(context, windows, { positions: places, taps });
      const strides = [own[0]!, channels * channel, channel, ...Array<number>(2 * dims).fill(0)];
      steps.push({
        kind: "map",
        shape,
        reads: [{ operand: input(context, 0), offset: first * own[0]!, strides }],
        write: whole(columns, shape),
        expression: `(${inside}) ? ld(p0[o0${offset}]) : 0`,
        params,
      });
    }
    const products = matmulSteps([
      { operand: input(context, 1), lead: [1, groups], rows: filters, columns: inner },
      { operand: columns, lead: [some, groups], rows: inner, columns: positions },
      { operand: output(context), lead: [some, groups], rows: filters, columns: positions },
    ], { beta: bias ? 1 : 0 });
    const begin = first * groups * filters * positions;
    steps.push(...products.map((s) => s.kind === "gemm" ? { ...s, c: { ...s.c, offset: s.c.offset + begin } } : s));
  }
  return { steps, scratch: scratch.tensors };
}

/** One thread for each output element, which goes through its window. */
function byWindow(context: KernelContext, windows: Windows): Lowered {
  const x = inputOf(context, 0).shape, w = inputOf(context, 1).shape, to = outputOf(context).shape;
  const dims = x.length - 2, own = stridesOf(x), none = to.map(() => 0), weights = stridesOf(w);
  const taps = Array.from({ length: dims }, (_, d) => `k${d}`),
    places = Array.from({ length: dims }, (_, d) => `i${d + 2}`);
  const { inside, offset, params } = element(context, windows, { positions: places, taps });
  const reads: Access[] = [
    { operand: input(context, 0), offset: 0, strides: none.with(0, own[0]!) },
    { operand: input(context, 1), offset: 0, strides: none.with(1, weights[0]!) },
  ];
  if (context.inputs[2]) reads.push({ operand: input(context, 2), offset: 0, strides: none.with(1, 1) });
  const all: Record<string, Params[string]> = {
    ...params,
    per_group: w[0]! / windows.groups,
    channels: w[1]!,
    channel: own[1]!,
  };
  const loops = taps.map((tap, d) => {
    all[`size${d}`] = w[d + 2]!;
    return `for (long long ${tap} = 0; ${tap} < size${d}; ${tap}++) `;
  });
  const isFloat = dtypeInfo(outputOf(context).dtype).float;
  const type = outputOf(context).dtype === "f64" ? "double" : isFloat ? "float" : "long long";
  const step: MapStep = {
    kind: "map",
    shape: to,
    reads,
    write: whole(output(context), to),
    expression:
      `[&] { ${type} sum = 0; const auto* filter = p1 + o1; const long long from = o0 + i1 / per_group * channels * channel; ` +
      `for (long long c = 0; c < channels; c++) ${loops.join("")}{ const ${type} v = (${inside}) ? ` +
      `ld(p0[from + c * channel${offset}]) : 0; sum += v * ld(*filter++); } return sum; }()${
        context.inputs[2] ? " + x2" : ""
      }`,
    params: all,
  };
  return { steps: [step] };
}

/** The lowering, by op. */
export const CONV: Readonly<Record<string, Lowering>> = { Conv: conv };
