/** Norms and activations as exporters write them out, against the ops that they become, on random data. */
import assert from "node:assert/strict";
import { compareTensors } from "../../cli/compare.ts";
import { symbol } from "../../src/core/dim.ts";
import { fromNumbers } from "../../src/core/host_tensor.ts";
import { int, ints } from "../../src/graph/attributes.ts";
import { GraphBuilder, inlineData } from "../../src/graph/builder.ts";
import { type Attributes, type Graph, isCall } from "../../src/graph/graph.ts";
import { ParallelExecutionCtx } from "../../src/passes/context.ts";
import { cleanPipeline, shardPipeline } from "../../src/passes/pipelines.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { EmulatedModel } from "../../src/runtime/emulation.ts";

const WIDTH = 6;

type Op = (name: string, inputs: readonly (string | number)[], attributes?: Attributes) => string;

/** `x: f32[rows,6]` to what `write` makes of it; numbers are constants, `w` is a weight of 6. */
function graphOf(write: (op: Op) => string): Graph<"global"> {
  const builder = new GraphBuilder("global", "g", new Map([["", 17]]));
  builder.placeholder({ name: "x", type: { dtype: "f32", shape: [symbol("rows"), WIDTH] } });
  builder.getAttr("w", inlineData("f32", [WIDTH], Float32Array.from({ length: WIDTH }, (_, i) => i - 1.5)));
  const op: Op = (name, inputs, attributes = {}) => {
    const names = inputs.map((input) => {
      if (typeof input === "string") return input;
      const constant = builder.freshValue("number");
      builder.getAttr(constant, inlineData("f32", [], Float32Array.of(input)));
      return constant;
    });
    const output = builder.freshValue(name);
    builder.call({ kind: "call_function", domain: "", op: name, inputs: names, outputs: [output], attributes }, [
      { name: output, type: { dtype: undefined, shape: undefined } },
    ]);
    return output;
  };
  return builder.finish({ inputs: [write(op)], names: ["y"] });
}

function prepared(graph: Graph<"global">, fuse: boolean) {
  const ctx = new ParallelExecutionCtx({ ranks: 1, rank: 0, config: { fuse } });
  const clean = cleanPipeline().run(graph, ctx);
  return { ops: clean.nodes.filter(isCall).map((n) => n.op), sharded: shardPipeline().run(clean, ctx), ctx };
}

const LAST = { axes: ints([-1]), keepdims: int(1) };
const mean = (op: Op, square: string) => op("Sqrt", [op("Add", [op("ReduceMean", [square], LAST), 1e-5])]);
const tanhGelu = (op: Op, argument: string) =>
  op("Mul", [op("Mul", ["x", 0.5]), op("Add", [op("Tanh", [argument]), 1])]);
const ROOT = Math.sqrt(2 / Math.PI), CUBIC = 0.044715;

const FORMS: Readonly<Record<string, readonly [(op: Op) => string, string]>> = {
  "a norm by the inverse root": [
    (op) => op("Mul", ["w", op("Mul", ["x", op("Div", [1, mean(op, op("Pow", ["x", 2]))])])]),
    "SimplifiedLayerNormalization",
  ],
  "a norm by Reciprocal": [
    (op) => op("Mul", [op("Mul", [op("Reciprocal", [mean(op, op("Mul", ["x", "x"]))]), "x"]), "w"]),
    "SimplifiedLayerNormalization",
  ],
  "a norm by division": [
    (op) => op("Mul", [op("Div", ["x", mean(op, op("Pow", ["x", 2]))]), "w"]),
    "SimplifiedLayerNormalization",
  ],
  "GELU by erf": [
    (op) => op("Mul", [op("Mul", ["x", op("Add", [op("Erf", [op("Div", ["x", Math.SQRT2])]), 1])]), 0.5]),
    "Gelu",
  ],
  "GELU by erf, halved first": [
    (op) => op("Mul", [op("Mul", [0.5, "x"]), op("Add", [1, op("Erf", [op("Mul", ["x", Math.SQRT1_2])])])]),
    "Gelu",
  ],
  "GELU by tanh of a cube": [
    (op) => tanhGelu(op, op("Mul", [op("Add", ["x", op("Mul", [op("Pow", ["x", 3]), CUBIC])]), ROOT])),
    "FastGelu",
  ],
  "GELU by tanh of a product": [
    (op) =>
      tanhGelu(
        op,
        op("Mul", [op("Mul", ["x", ROOT]), op("Add", [op("Mul", [op("Mul", ["x", CUBIC]), "x"]), 1])]),
      ),
    "FastGelu",
  ],
  "SiLU": [(op) => op("Mul", ["x", op("Sigmoid", ["x"])]), "QuickGelu"],
  "SiLU of a scaled gate": [(op) => op("Mul", [op("Sigmoid", [op("Mul", [1.702, "x"])]), "x"]), "QuickGelu"],
};

const OTHERS: Readonly<Record<string, (op: Op) => string>> = {
  "a mean over rows": (op) =>
    op("Mul", [
      "w",
      op("Div", [
        "x",
        op("Sqrt", [op("Add", [op("ReduceMean", [op("Pow", ["x", 2])], { axes: ints([0]), keepdims: int(1) }), 1e-5])]),
      ]),
    ]),
  "another power": (op) => op("Mul", ["w", op("Div", ["x", mean(op, op("Pow", ["x", 4]))])]),
  "a root of something else": (op) => op("Mul", ["w", op("Div", ["x", mean(op, op("Pow", [op("Neg", ["x"]), 2]))])]),
  "a GELU with another constant": (op) =>
    tanhGelu(op, op("Mul", [op("Add", ["x", op("Mul", [op("Pow", ["x", 3]), 0.05])]), ROOT])),
  "a GELU that is not halved": (op) => op("Mul", ["x", op("Add", [op("Erf", [op("Div", ["x", Math.SQRT2])]), 1])]),
  "a gate of something else": (op) => op("Mul", ["x", op("Sigmoid", [op("Neg", ["x"])])]),
};

const FUSED = ["SimplifiedLayerNormalization", "Gelu", "FastGelu", "QuickGelu"];

for (const [name, [write, op]] of Object.entries(FORMS)) {
  Deno.test(`${name} becomes ${op}, and gives what it gave`, async () => {
    const engine = await openNativeEngine();
    const [fused, written] = [true, false].map((fuse) => prepared(graphOf(write), fuse));
    assert.deepEqual(fused!.ops, [op]);
    await using model = await EmulatedModel.open(engine, fused!.sharded, 1);
    await using original = await EmulatedModel.open(engine, written!.sharded, 1);
    for (const rows of [1, 5]) {
      const x = fromNumbers(
        "f32",
        [rows, WIDTH],
        Array.from({ length: rows * WIDTH }, (_, i) => Math.sin(i * 3.7) * 4),
      );
      const expected = new Map(Object.entries(await original.run({ x })));
      const [difference] = compareTensors(await model.run({ x }), expected, { atol: 2e-6, rtol: 2e-6 });
      assert.ok(difference!.pass, difference!.problem ?? `off by ${difference!.maxAbs}`);
    }
  });
}

for (const [name, write] of Object.entries(OTHERS)) {
  Deno.test(`${name} is left as it was written`, () => {
    const { ops } = prepared(graphOf(write), true);
    assert.deepEqual(ops.filter((o) => FUSED.includes(o)), []);
  });
}
