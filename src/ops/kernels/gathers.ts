/** Ops that move elements from where an index tensor says. */
import { intOf } from "../../graph/attributes.ts";
import { axisOf, input, inputOf, output, outputOf, stridesOf, whole } from "./access.ts";
import type { KernelContext, Lowered, Lowering } from "./kernel.ts";

function gather(context: KernelContext): Lowered {
  const { shape } = inputOf(context, 0), indices = inputOf(context, 1).shape, to = outputOf(context).shape;
  const axis = axisOf(intOf(context.attributes, "axis") ?? 0, shape.length), own = stridesOf(shape);
  const at = stridesOf(indices);
  const data = [...own.slice(0, axis), ...indices.map(() => 0), ...own.slice(axis + 1)];
  const index = [...shape.slice(0, axis).map(() => 0), ...at, ...shape.slice(axis + 1).map(() => 0)];
  return {
    steps: [{
      kind: "map",
      shape: to,
      reads: [
        { operand: input(context, 0), offset: 0, strides: data },
        { operand: input(context, 1), offset: 0, strides: index },
      ],
      write: whole(output(context), to),
      expression: "ld(p0[o0 + f_wrap(x1, size) * stride])",
      params: { size: shape[axis]!, stride: own[axis]! },
    }],
  };
}

function gatherElements(context: KernelContext): Lowered {
  const { shape } = inputOf(context, 0), to = outputOf(context).shape;
  const axis = axisOf(intOf(context.attributes, "axis") ?? 0, shape.length), own = stridesOf(shape);
  return {
    steps: [{
      kind: "map",
      shape: to,
      reads: [
        { operand: input(context, 0), offset: 0, strides: own.map((s, d) => (d === axis ? 0 : s)) },
        whole(input(context, 1), to),
      ],
      write: whole(output(context), to),
      expression: "ld(p0[o0 + f_wrap(x1, size) * stride])",
      params: { size: shape[axis]!, stride: own[axis]! },
    }],
  };
}

/** Offset into a tensor that a last dim of indices names: an expression of `p` and `o`, and its numbers. */
export function pointer(name: string, shape: readonly number[], depth: number, first: number) {
  const own = stridesOf(shape), params: Record<string, number> = {};
  const terms = Array.from({ length: depth }, (_, d) => {
    params[`n${d}`] = shape[first + d]!;
    params[`s${d}`] = own[first + d]!;
    return `f_wrap((long long)ld(p${name}[o${name} + ${d}]), n${d}) * s${d}`;
  });
  return { expression: terms.join(" + ") || "0", params };
}

function gatherNd(context: KernelContext): Lowered {
  const { shape } = inputOf(context, 0), indices = inputOf(context, 1).shape, to = outputOf(context).shape;
  const lead = intOf(context.attributes, "batch_dims") ?? 0, depth = indices.at(-1)!;
  const own = stridesOf(shape), at = stridesOf(indices), outer = indices.length - 1;
  const { expression, params } = pointer("1", shape, depth, lead);
  return {
    steps: [{
      kind: "map",
      shape: to,
      reads: [
        {
          operand: input(context, 0),
          offset: 0,
          strides: to.map((_, d) => (d < lead ? own[d]! : d < outer ? 0 : own[lead + depth + d - outer]!)),
        },
        { operand: input(context, 1), offset: 0, strides: to.map((_, d) => (d < outer ? at[d]! : 0)) },
      ],
      write: whole(output(context), to),
      expression: `ld(p0[o0 + ${expression}])`,
      params,
    }],
  };
}

/** All lowerings that gather, by op. */
export const GATHERS: Readonly<Record<string, Lowering>> = {
  Gather: gather,
  GatherElements: gatherElements,
  GatherND: gatherNd,
};
