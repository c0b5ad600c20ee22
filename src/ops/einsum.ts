/** Einsum without ellipsis and repeated letters: its equation is the factor notation. Source: ONNX Einsum-12. */
import { type Dim, dimMul } from "../core/dim.ts";
import { ShapeError } from "../core/errors.ts";
import { string, stringOf } from "../graph/attributes.ts";
import type { InferContext, OpDef, TypedContext } from "./def.ts";
import { einsumFactors } from "./factors.ts";
import { unknownShape } from "./shapes.ts";

/** The terms of the equation, the result last; undefined for forms that are not described. */
function terms(context: InferContext | TypedContext): readonly string[] | undefined {
  const equation = (stringOf(context.attributes, "equation") ?? "").replaceAll(" ", "");
  if (!/^[A-Za-z,]*->[A-Za-z]*$/.test(equation)) return undefined;
  const all = equation.split(/,|->/);
  const plain = all.length === context.inputs.length + 1 && all.every((t) => new Set(t).size === t.length);
  return plain ? all : undefined;
}

export const EINSUM: OpDef = {
  op: "Einsum",
  domain: "",
  since: 12,
  inputs: ["...Inputs"],
  infer: (context) => {
    const all = terms(context);
    if (!all || context.inputs.some((i) => !i?.shape)) return [unknownShape(context.inputs[0])];
    const sizes = new Map<string, Dim>();
    context.inputs.forEach((input, i) => {
      if (input!.shape!.length !== all[i]!.length) {
        throw new ShapeError(`Cannot read [${input!.shape}] as "${all[i]}": it has ${input!.shape!.length} dims`);
      }
      input!.shape!.forEach((d, k) => {
        const letter = all[i]![k]!;
        const before = sizes.get(letter);
        if (before === undefined || before === 1 || (typeof before !== "number" && typeof d === "number" && d !== 1)) {
          sizes.set(letter, d);
        }
      });
    });
    return [{ dtype: context.inputs[0]!.dtype, shape: [...all.at(-1)!].map((l) => sizes.get(l)!) }];
  },
  factors: (context) => {
    const all = terms(context);
    if (!all) return { factors: [] };
    const notation = `${all.slice(0, -1).join(",")}->${all.at(-1)}`;
    return {
      factors: einsumFactors(notation, context.inputs, context.outputs),
      linear: context.inputs.map((_, i) => [i]),
    };
  },
  flops: (context) => {
    const sizes = new Map<string, Dim>();
    terms(context)?.slice(0, -1).forEach((t, i) =>
      [...t].forEach((l, k) => sizes.set(l, context.inputs[i]?.shape?.[k] ?? 1))
    );
    return [...sizes.values()].reduce<Dim>(dimMul, 2);
  },
  examples: [
    {
      inputs: [{ dtype: "f32", shape: [2, 3, 4] }, { dtype: "f32", shape: [2, 4, 5] }],
      attributes: { equation: string("bij,bjk->bik") },
    },
    {
      inputs: [{ dtype: "f32", shape: [3, 4] }, { dtype: "f32", shape: [5, 4] }],
      attributes: { equation: string("mk,nk->mn") },
    },
  ],
};
