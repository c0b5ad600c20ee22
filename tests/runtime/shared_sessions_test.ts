/** Which segments of a program with fused ops and of its plain form are alike, so that they share a session and its weights. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { importOnnx } from "../../src/formats/import_onnx.ts";
import { readOnnx } from "../../src/formats/onnx_file.ts";
import { inlineData } from "../../src/graph/builder.ts";
import { type Graph, isCall } from "../../src/graph/graph.ts";
import { localize } from "../../src/passes/localize.ts";
import { segmentsOf } from "../../src/program/program.ts";
import { segment } from "../../src/program/segment.ts";
import { segmentKey } from "../../src/runtime/cpu/shared_sessions.ts";
import { sharded } from "../support/emulated.ts";
import { REPOSITORY } from "../support/shared.ts";

Deno.test("segments without a fused op that has limits but the first have the key of their plain form, on every rank", () => {
  using file = readOnnx(join(REPOSITORY, "tests/data/models/llama/model.onnx"));
  const graph = sharded(importOnnx(file), 3);
  for (const rank of [0, 1, 2]) {
    const [fused, plain] = [false, true].map((plain) =>
      segmentsOf(segment(localize(graph, rank, 3, { plain }), rank, 3))
    );
    assert.equal(fused!.length, plain!.length);
    const alike = fused!.map((s, i) => segmentKey(s.graph) === segmentKey(plain![i]!.graph));
    const hasOp = fused!.map((s) => s.graph.nodes.some((n) => isCall(n) && n.op === "GroupQueryAttention"));
    // The first segment also computes what only the fused ops read.
    assert.ok(alike.every((same, i) => same || hasOp[i] || i === 0), `${alike}; ${hasOp}`);
    assert.ok(alike.filter(Boolean).length >= 4 && !alike.some((same, i) => same && hasOp[i]));
    // All are different things: no two layers have one key.
    assert.equal(new Set(fused!.map((s) => segmentKey(s.graph))).size, fused!.length);
  }
});

Deno.test("a key tells constants, attributes and the names of inputs apart, and not what is within", () => {
  const key = (change: Partial<Record<"value" | "axis" | "inner" | "input", string | number>>) => {
    const { value = 1, axis = 0, inner = "t", input = "x" } = change;
    const data = inlineData("f32", [1], Float32Array.of(Number(value)));
    const x = String(input), t = String(inner), type = { dtype: "f32", shape: [1] } as const;
    const graph: Graph<"local"> = {
      stage: "local",
      name: "g",
      opsets: new Map([["", 18]]),
      carried: [],
      nodes: [
        { kind: "placeholder", name: x, outputs: [x] },
        { kind: "get_attr", name: "c", outputs: ["c"], data },
        {
          kind: "call_function",
          name: t,
          domain: "",
          op: "Concat",
          inputs: [x, "c"],
          outputs: [t],
          attributes: { axis: { kind: "int", value: Number(axis) } },
        },
        { kind: "call_function", name: "y", domain: "", op: "Neg", inputs: [t], outputs: ["y"], attributes: {} },
        { kind: "output", name: "output", inputs: ["y"], outputs: [], names: ["y"] },
      ],
      values: new Map([x, "c", t, "y"].map((name) => [name, { name, type }])),
    };
    return segmentKey(graph);
  };
  assert.equal(key({ inner: "u" }), key({}));
  for (const change of [{ value: 2 }, { axis: 1 }, { input: "z" }]) assert.notEqual(key(change), key({}));
});
