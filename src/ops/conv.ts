/** Conv: cut by output channel or batch; spatial dims are whole. Source: ONNX Conv-11. */
import { type Dim, dimAdd, dimFloorDiv, dimMul, dimSub } from "../core/dim.ts";
import { int, intOf, ints as intsAttribute, intsOf, stringOf } from "../graph/attributes.ts";
import type { InferContext, OpDef } from "./def.ts";
import { at, type Factor } from "./factors.ts";
import { unknownShape } from "./shapes.ts";

function spatialSize(context: InferContext, size: Dim, options: { i: number; kernel: number; spatial: number }): Dim {
  const { i, kernel, spatial } = options;
  const { attributes } = context;
  const stride = intsOf(attributes, "strides")?.[i] ?? 1, dilation = intsOf(attributes, "dilations")?.[i] ?? 1;
  const auto = stringOf(attributes, "auto_pad") ?? "NOTSET";
  if (auto.startsWith("SAME")) return dimFloorDiv(dimAdd(size, stride - 1), stride);
  const pads = auto === "VALID" ? undefined : intsOf(attributes, "pads");
  const padding = (pads?.[i] ?? 0) + (pads?.[i + spatial] ?? 0);
  return dimAdd(dimFloorDiv(dimSub(dimAdd(size, padding), dilation * (kernel - 1) + 1), stride), 1);
}

export const CONV: OpDef = {
  op: "Conv",
  domain: "",
  since: 11,
  inputs: ["X", "W", "B"],
  infer: (context) => {
    const [x, w] = context.inputs;
    if (!x?.shape || !w?.shape) return [unknownShape(x)];
    const spatial = x.shape.length - 2;
    const kernels = intsOf(context.attributes, "kernel_shape") ?? w.shape.slice(2);
    const sizes = x.shape.slice(2).map((size, i) => {
      const kernel = kernels[i];
      return typeof kernel === "number"
        ? spatialSize(context, size, { i, kernel, spatial })
        : context.fresh(`conv_${i}`);
    });
    return [{ dtype: x.dtype, shape: [x.shape[0]!, w.shape[0]!, ...sizes] }];
  },
  factors: ({ inputs, attributes }) => {
    const x = inputs[0]?.shape, w = inputs[1]?.shape;
    if (!x || !w) return { factors: [] };
    const place = (n: ReturnType<typeof at> | null, m: ReturnType<typeof at> | null, b: ReturnType<typeof at> | null) =>
      [n, m, b].slice(0, inputs.length);
    const factors: Factor[] = [{ name: "n", size: x[0]!, inputs: place(at(0), null, null), outputs: [at(0)] }];
    // Groups tie output channels to input channels: those stay together.
    if ((intOf(attributes, "group") ?? 1) === 1) {
      factors.push({ name: "m", size: w[0]!, inputs: place(null, at(0), at(0)), outputs: [at(1)] });
      factors.push({
        name: "c",
        size: x[1]!,
        inputs: place(at(1), at(1), null),
        outputs: [null],
        reduce: "sum",
        ...(inputs[2] ? { addends: [2] } : {}),
      });
    }
    return { factors: factors.filter((f) => f.size !== 1), linear: inputs[2] ? [[0, 2]] : [[0], [1]] };
  },
  flops: ({ inputs, outputs }) => {
    const kernel = inputs[1]!.shape!.slice(1).reduce<Dim>(dimMul, 2);
    return outputs[0]!.shape!.reduce<Dim>(dimMul, kernel);
  },
  examples: [
    {
      inputs: [
        { dtype: "f32", shape: [2, 3, 8, 8] },
        { dtype: "f32", shape: [6, 3, 4, 4] },
        { dtype: "f32", shape: [6] },
      ],
      attributes: { strides: intsAttribute([4, 4]), kernel_shape: intsAttribute([4, 4]) },
    },
    {
      inputs: [{ dtype: "f32", shape: [1, 4, 10] }, { dtype: "f32", shape: [4, 1, 3] }],
      attributes: { pads: intsAttribute([1, 1]), group: int(4) },
    },
  ],
};
