import assert from "node:assert/strict";
import { GraphBuilder } from "../graph/builder.ts";
import type { Graph } from "../graph/graph.ts";
import { segment } from "./segment.ts";

const TYPE = { dtype: "f32", shape: [2, 3] } as const;

/** Two sums over the ranks; `isIdle` ranks do not read the first. */
function rankGraph(isIdle: boolean): Graph<"local"> {
  const builder = new GraphBuilder("local", "g", new Map([["", 17]]));
  builder.placeholder({ name: "x", type: TYPE });
  const collective = (input: string, output: string) =>
    builder.collective({ collective: "all_reduce", reduction: "sum", inputs: [input], outputs: [output] }, {
      name: output,
      type: TYPE,
    });
  collective("x", "sum");
  builder.call({
    kind: "call_function",
    name: "relu",
    domain: "",
    op: "Relu",
    inputs: [isIdle ? "x" : "sum"],
    outputs: ["h"],
    attributes: {},
    level: 1,
  }, [{ name: "h", type: TYPE }]);
  collective("h", "y");
  return builder.finish({ inputs: ["y"], names: ["out"] });
}

Deno.test("segment() has a rank meet the others also where it does not read the result", () => {
  const meetings = [false, true].map((isIdle, rank) =>
    segment(rankGraph(isIdle), rank, 2).steps.map((s) =>
      s.kind === "barrier" ? s.collectives.map((c) => c.value) : "segment"
    )
  );
  const barriers = (steps: (typeof meetings)[number]) => steps.filter((s) => s !== "segment").length;
  assert.equal(barriers(meetings[0]!), 2);
  assert.equal(meetings[0]!.length, meetings[1]!.length);
  assert.equal(barriers(meetings[1]!), 2);
});

Deno.test("segment() takes a value that is called as a call of another segment is", () => {
  const builder = new GraphBuilder("local", "g", new Map([["", 17]]));
  builder.placeholder({ name: "x", type: TYPE });
  const add = (name: string, inputs: readonly string[], output: string, level: number) =>
    builder.call(
      { kind: "call_function", name, domain: "", op: "Sum", inputs, outputs: [output], attributes: {}, level },
      [{ name: output, type: TYPE }],
    );
  add("first", ["x"], "second", 0);
  builder.collective({ collective: "all_reduce", reduction: "sum", inputs: ["x"], outputs: ["sum"] }, {
    name: "sum",
    type: TYPE,
  });
  add("second", ["second", "sum"], "y", 1);
  const program = segment(builder.finish({ inputs: ["y"], names: ["out"] }), 0, 2);
  assert.deepEqual(program.steps.map((s) => s.kind), ["segment", "barrier", "segment"]);
});

Deno.test("segment() says whose type is not known, and how a model gets it", () => {
  const builder = new GraphBuilder("local", "g", new Map([["", 17]]));
  builder.placeholder({ name: "x", type: TYPE });
  const call = (op: string, inputs: readonly string[], output: string, dtype: "f32" | undefined, level: number) =>
    builder.call(
      { kind: "call_function", name: output, domain: "", op, inputs, outputs: [output], attributes: {}, level },
      [{ name: output, type: { dtype, shape: undefined } }],
    );
  call("BlackmanWindow", ["x"], "window", undefined, 0);
  builder.collective({ collective: "all_reduce", reduction: "sum", inputs: ["x"], outputs: ["sum"] }, {
    name: "sum",
    type: TYPE,
  });
  call("Add", ["window", "sum"], "y", "f32", 1);
  assert.throws(
    () => segment(builder.finish({ inputs: ["y"], names: ["out"] }), 0, 2),
    /Cannot hand "window".*BlackmanWindow "window" gives has no known type/,
  );
});
