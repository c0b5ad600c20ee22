/**
 * Ops on images and signals that models have beside their layers. They run whole on every rank; what they give is typed, so
 * that it can pass from segment to segment. Source: ONNX operator documents.
 */
import { type Dim, dimDivide, dimMul } from "../core/dim.ts";
import type { Attributes } from "../graph/graph.ts";
import { int, intOf, ints } from "../graph/attributes.ts";
import type { Shape } from "../graph/types.ts";
import type { InferContext, OpDef, OpExample } from "./def.ts";
import { unknownShape } from "./shapes.ts";

/** Resize, pooling, norms over channels, and moves between channels and space. */
export function imageOps(): OpDef[] {
  const image = f32(2, 4, 6, 6), channels = f32(4);
  return [
    whole("Resize", {
      inputs: ["X", "roi", "scales", "sizes"],
      since: 11,
      shape: (x, context) =>
        context.ints[3]?.elements.length === x.length ? context.ints[3].elements : spatial(x, context),
      example: {
        inputs: [image, undefined, undefined, { dtype: "i64", shape: [4] }],
        constants: { 3: [2, 4, 3, 12] },
        opset: 13,
      },
    }),
    whole("MaxPool", { inputs: ["X"], since: 8, shape: spatial, example: pooling(image) }),
    whole("AveragePool", { inputs: ["X"], since: 7, shape: spatial, example: pooling(image) }),
    ...["GlobalAveragePool", "GlobalMaxPool"].map((op) =>
      whole(op, {
        inputs: ["X"],
        since: 1,
        shape: (x) => x.map((d, i) => (i < 2 ? d : 1)),
        example: { inputs: [image] },
      })
    ),
    whole("InstanceNormalization", {
      inputs: ["input", "scale", "B"],
      since: 6,
      shape: (x) => x,
      example: { inputs: [image, channels, channels] },
    }),
    whole("DepthToSpace", {
      inputs: ["input"],
      since: 11,
      shape: (x, { attributes }) => moved(x, attributes, "to space"),
      example: { inputs: [image], attributes: { blocksize: int(2) } },
    }),
    whole("SpaceToDepth", {
      inputs: ["input"],
      since: 1,
      shape: (x, { attributes }) => moved(x, attributes, "to depth"),
      example: { inputs: [image], attributes: { blocksize: int(2) } },
    }),
    whole("GridSample", {
      inputs: ["X", "grid"],
      since: 16,
      shape: (x, { inputs: [, grid] }) => grid?.shape && [x[0]!, x[1]!, ...grid.shape.slice(1, -1)],
      example: { inputs: [image, f32(2, 3, 5, 2)], opset: 16 },
    }),
  ];
}

interface Whole {
  readonly inputs: readonly string[];
  readonly since: number;
  /** The shape of the result, from that of input 0. */
  readonly shape: (x: Shape, context: InferContext) => Shape | undefined;
  readonly example: OpExample;
}

function whole(op: string, { inputs, since, shape, example }: Whole): OpDef {
  return {
    op,
    domain: "",
    since,
    inputs,
    infer: (context) => {
      const [x] = context.inputs;
      const own = x?.shape ? { dtype: x.dtype, shape: shape(x.shape, context) } : unknownShape(x);
      // Further outputs are places of what was chosen.
      const places = { dtype: "i64", shape: own.shape } as const;
      return Array.from({ length: context.outputCount }, (_, i) => (i === 0 ? own : places));
    },
    examples: [example],
  };
}

/** Sizes after batch and channels that are not followed. */
function spatial(x: Shape, context: InferContext): Shape {
  return x.map((d, i) => (i < 2 ? d : context.fresh(`spatial_${i}`)));
}

function moved(x: Shape, attributes: Attributes, way: "to space" | "to depth"): Shape | undefined {
  const block = intOf(attributes, "blocksize"), [batch, channels, height, width] = x;
  if (!block || batch === undefined || channels === undefined || height === undefined || width === undefined) {
    return undefined;
  }
  const less = (d: Dim, by: number) => dimDivide(d, by);
  const parts = way === "to space"
    ? [less(channels, block * block), dimMul(height, block), dimMul(width, block)]
    : [dimMul(channels, block * block), less(height, block), less(width, block)];
  return parts.includes(undefined) ? undefined : [batch, ...parts as Dim[]];
}

function f32(...shape: number[]) {
  return { dtype: "f32", shape } as const;
}

function pooling(image: ReturnType<typeof f32>): OpExample {
  return { inputs: [image], attributes: { kernel_shape: ints([3, 3]), strides: ints([2, 2]) } };
}
