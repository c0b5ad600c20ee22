import assert from "node:assert/strict";
import { layerTree, type ScopedLeaf } from "./layer_tree.ts";
import type { Group, Leaf } from "./view_data.ts";

function call(scope: string | undefined, op: string, seconds = 1): ScopedLeaf {
  const leaf = {
    kind: "op",
    label: op,
    name: `${scope}/${op}`,
    op,
    role: "replicated",
    layer: false,
    inputs: [],
    outputs: [],
    weights: [],
    seconds,
    marks: [],
    price: null,
  } as const;
  return { leaf, scope };
}

function block(i: number, seconds = 1): ScopedLeaf[] {
  return [
    call(`m.layers.${i}.attn.q`, "MatMul", seconds),
    call(`m.layers.${i}.attn`, "Softmax"),
    call(`m.layers.${i}.mlp`, "Gelu"),
  ];
}

Deno.test("layerTree() folds equal blocks into one row and knows the row and the block of every call", () => {
  const { rows, places } = layerTree([
    call("m.embed", "Gather"),
    ...block(0),
    ...block(1),
    ...block(2),
    call("m.head", "MatMul"),
  ]);
  const [m] = rows as [Group];
  assert.deepEqual(m.rows.map((r) => r.label), ["embed", "layers.0 … 2", "head"]);
  const layers = m.rows[1] as Group;
  assert.deepEqual(layers.names, ["0", "1", "2"]);
  assert.deepEqual(layers.rows.map((r) => r.label), ["attn", "mlp"]);
  assert.deepEqual((layers.rows[0] as Group).rows.map((r) => r.label), ["q", "Softmax"]);
  assert.deepEqual(places.map((p) => p.block), ["", "0", "0", "0", "1", "1", "1", "2", "2", "2", ""]);
  assert.deepEqual(places.map((p) => p.id), [0, 1, 2, 3, 1, 2, 3, 1, 2, 3, 4]);
  assert.equal((m.rows[2] as Leaf).id, 4);
});

Deno.test("layerTree() keeps a block that differs from its neighbours as a row of its own", () => {
  const { rows } = layerTree([...block(0), ...block(1, 2), ...block(2), ...block(3)]);
  const [layers] = rows as [Group];
  assert.deepEqual(layers.rows.map((r) => r.label), ["0", "1", "2 … 3"]);
});

Deno.test("layerTree() folds plain ops that stand in a row beside modules", () => {
  const ops = ["Shape", "Gather", "Shape", "Cast", "Mul"].map((op) => call("m", op));
  const { rows, places } = layerTree([call("m.embed", "Gather"), ...ops, call("m.head", "MatMul"), call("m", "Add")]);
  const [m] = rows as [Group];
  assert.deepEqual(m.rows.map((r) => r.label), ["embed", "5 ops: Shape, Gather, Cast, …", "head", "Add"]);
  assert.deepEqual(places.map((p) => p.id), [0, 1, 2, 3, 4, 5, 6, 7]);
});

Deno.test("layerTree() lists calls that come from no module", () => {
  const { rows } = layerTree([call(undefined, "MatMul"), call(undefined, "Add")]);
  assert.deepEqual(rows.map((r) => [r.kind, r.label]), [["op", "MatMul"], ["op", "Add"]]);
});
