/** Embedding: rows of `weight [v,d]` that `ids [*]` select (each in `[-v, v)`); the layer that vocabulary parallelism cuts. */
import { int } from "../graph/attributes.ts";
import type { OpDef } from "./def.ts";
import { at, type Factor } from "./factors.ts";
import { emitSelectedRows } from "./selected_rows.ts";
import { unknownShape } from "./shapes.ts";

export const EMBEDDING: OpDef = {
  op: "Embedding",
  domain: "shardwise",
  since: 1,
  inputs: ["weight", "ids"],
  module: true,
  infer: ({ inputs }) => {
    const [w, ids] = inputs;
    if (!w?.shape || !ids?.shape) return [unknownShape(w)];
    return [{ dtype: w.dtype, shape: [...ids.shape, ...w.shape.slice(1)] }];
  },
  factors: ({ inputs }) => {
    const w = inputs[0]?.shape, ids = inputs[1]?.shape;
    if (!w || !ids) return { factors: [], linear: [[0]] };
    const factors: Factor[] = [
      { name: "v", size: w[0]!, inputs: [at(0), null], outputs: [null], reduce: "sum", selected: true },
      ...w.slice(1).map((size, i) => ({
        name: `d${i}`,
        size,
        inputs: [at(i + 1), null],
        outputs: [at(ids.length + i)],
      })),
      ...ids.map((size, i) => ({ name: `i${i}`, size, inputs: [null, at(i)], outputs: [at(i)] })),
    ];
    return { factors: factors.filter((f) => f.size !== 1), linear: [[0]] };
  },
  localize: (context) => {
    const [w] = context.inputTensors;
    if (w?.placement.kind === "S" && w.placement.dim === 0) {
      return [emitSelectedRows(context, { table: 0, ids: 1, wrap: true })];
    }
    return [context.emit.op("Gather", context.names.slice(0, 2), { axis: int(0) })];
  },
  examples: [
    { inputs: [{ dtype: "f32", shape: [11, 6] }, { dtype: "i64", shape: [2, 3] }], ranges: { 1: [0, 11] } },
    { inputs: [{ dtype: "f32", shape: [5, 4] }, { dtype: "i32", shape: [4] }], ranges: { 1: [-5, 5] } },
  ],
};
