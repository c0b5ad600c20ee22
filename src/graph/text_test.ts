import assert from "node:assert/strict";
import fc from "fast-check";
import { type Dim, dimAdd, dimFloorDiv, dimMul, symbol } from "../core/dim.ts";
import { GraphError } from "../core/errors.ts";
import { GraphBuilder, inlineData } from "./builder.ts";
import type { Attribute, Graph, Node } from "./graph.ts";
import { balanced, layout } from "./layout.ts";
import { PARTIAL_SUM, type Placement, REPLICATE, shard } from "./placement.ts";
import { printGraph, printNode } from "./text.ts";
import { parseGraph } from "./text_parser.ts";
import { verify } from "./verify.ts";

const EXAMPLE = `graph mlp : sharded {opset=17, shardwise=1} over 2 ranks
%x = placeholder : f32[batch,48] @ R
%w = get_attr : f32[48,90] @ S(1)
%v = get_attr : f32[90,3] @ S(0)
%h = call_module shardwise.Linear(%x, %w) : f32[batch,90] @ S(1) as fc1 in layers.0
%p = MatMul(%h, %v) : f32[batch,3] @ P(sum)
%y = all_reduce(%p) {reduction=sum} : f32[batch,3] @ R
%s = slice(%y) {shard=S(1;3:0-2|2-3)} : f32[batch,3] @ S(1;3:0-2|2-3)
output %y as "hidden", %s
`;

Deno.test("parseGraph() reads what printGraph() prints, and it verifies", () => {
  const graph = parseGraph(EXAMPLE, { stage: "sharded" });
  verify(graph);
  assert.equal(printGraph(graph), EXAMPLE.replaceAll("S(1;3:0-2|2-3)", "S(1)"));
  assert.deepEqual(graph.nodes[3], {
    kind: "call_module",
    name: "fc1",
    domain: "shardwise",
    op: "Linear",
    inputs: ["x", "w"],
    outputs: ["h"],
    attributes: {},
    scope: "layers.0",
  });
});

Deno.test("printNode() prints a node by itself, without its name and scope", () => {
  const graph = parseGraph(EXAMPLE);
  assert.equal(
    printNode(graph, graph.nodes[3]!),
    "%h = call_module shardwise.Linear(%x, %w) : f32[batch,90] @ S(1)",
  );
});

Deno.test("parseGraph() says where the text is no graph", () => {
  const fails = (text: string, pattern: RegExp) =>
    assert.throws(() => parseGraph(text), (e) => e instanceof GraphError && pattern.test(e.message));
  fails("graph g : global {opset=17}\n%x = placeholder : f33[2]\noutput", /2:23: expected a dtype, not "f33"/);
  fails("graph g : global {opset=17}\n%x = Relu(%y : f32[2]\noutput", /2:14: expected "\)", found ": f32\[2\]"/);
  fails("graph g : globe {}\noutput", /a stage/);
  fails("graph g : global {}\n", /found the end/);
  fails("graph g : global {}\n%x = placeholder : f32[2] @ S(0)\noutput", /a layout written out/);
  assert.throws(() => parseGraph("graph g : local {}\noutput", { stage: "global" }), /it is local/);
});

Deno.test("parseGraph() gives constants by its resolver, and without one constants that say why they are empty", () => {
  const text = "graph g : global {opset=17}\n%w = get_attr : f32[2]\noutput %w\n";
  const data = inlineData("f32", [2], new Float32Array([1, 2]));
  const node = (graph: Graph) => graph.nodes[0] as Extract<Node, { kind: "get_attr" }>;
  assert.equal(node(parseGraph(text, { resolve: (name) => (assert.equal(name, "w"), data) })).data, data);
  assert.throws(() => node(parseGraph(text)).data.bytes(), /give parseGraph|the graph was read from text/);
});

const name = fc.oneof(
  fc.constantFrom(
    "x",
    "onnx::MatMul_1",
    "/model/layers.0/MatMul_output_0",
    "5",
    "-",
    "as",
    "in",
    "_",
    "graph",
    "output",
  ),
  fc.string({ minLength: 1 }),
);
const dim: fc.Arbitrary<Dim> = fc.oneof(
  fc.nat(9),
  fc.constantFrom(
    symbol("batch"),
    dimAdd(symbol("past"), symbol("seq")),
    dimMul(3, symbol("nz#1")),
    dimFloorDiv(symbol("a.0"), dimAdd(symbol("b"), 2)),
    dimAdd(symbol("n"), -1),
  ),
);
const attribute: fc.Arbitrary<Attribute> = fc.oneof(
  fc.maxSafeInteger().map((value): Attribute => ({ kind: "int", value })),
  fc.constant<Attribute>({ kind: "int", value: 2 ** 63 }),
  fc.oneof(fc.double(), fc.float()).map((value): Attribute => ({ kind: "float", value })),
  fc.string().map((value): Attribute => ({ kind: "string", value })),
  fc.array(fc.integer()).map((value): Attribute => ({ kind: "ints", value })),
  fc.array(fc.double()).map((value): Attribute => ({ kind: "floats", value })),
  fc.array(fc.string()).map((value): Attribute => ({ kind: "strings", value })),
  fc.uint8Array({ maxLength: 5 }).map((b): Attribute => ({ kind: "tensor", value: inlineData("u8", [b.length], b) })),
);
const placement: fc.Arbitrary<Placement> = fc.oneof(
  fc.constantFrom<Placement>(REPLICATE, PARTIAL_SUM, { kind: "P", reduction: "max" }),
  fc.nat(9).map((size) => shard(0, balanced(size, 3))),
  fc.constantFrom(
    shard(1, layout(6, [[[0, 2], [4, 5]], [[2, 3], [5, 6]], [[3, 4]]])),
    shard(0, layout(4, [[[0, 4]], [], [[1, 2]]], dimMul(symbol("b"), 2))),
  ),
);
const call = fc.record({
  module: fc.boolean(),
  op: fc.constantFrom("Relu", "slice", "placeholder", "get_attr", "call_module", "weird op"),
  domain: fc.constantFrom("", "com.microsoft", "shardwise"),
  outputs: fc.array(fc.option(name, { nil: "" }), { minLength: 1, maxLength: 3 }),
  reads: fc.array(fc.option(fc.nat(), { nil: undefined }), { maxLength: 3 }),
  captures: fc.array(fc.nat(), { maxLength: 2 }),
  attributes: fc.dictionary(name.filter((n) => n !== "__proto__"), attribute, { maxKeys: 3 }),
  shape: fc.option(fc.array(dim, { maxLength: 3 }), { nil: undefined }),
  ints: fc.option(
    fc.record({ dims: fc.constantFrom([], [2], [2, 1], [0]), all: fc.array(dim, { minLength: 2, maxLength: 2 }) }),
    {
      nil: undefined,
    },
  ),
  placement: fc.option(placement, { nil: undefined }),
  scope: fc.option(name, { nil: undefined }),
  nodeName: fc.option(name, { nil: undefined }),
});

/** Any graph that a builder can build, sensible or not. */
const graphs = fc.array(call, { maxLength: 6 }).map((calls): Graph<"local"> => {
  const builder = new GraphBuilder("local", "a graph", new Map([["", 17], ["com.microsoft", 1]]));
  const inner = new GraphBuilder("global", "inner", new Map([["", 17], ["com.microsoft", 1]]));
  const names: string[] = ["x"];
  builder.placeholder({ name: "x", type: { dtype: "i64", shape: [symbol("batch")] } });
  inner.placeholder({ name: "i", type: { dtype: undefined, shape: undefined } });
  const nested = inner.finish({ inputs: ["i", "x"], names: ["i", "o"] });
  for (const c of calls) {
    const read = (i: number) => names[i % names.length]!;
    const inputs = c.reads.map((i) => (i === undefined ? "" : read(i)));
    const outputs = c.outputs.map((o) => (o === "" ? "" : builder.freshValue(o)));
    if (new Set(outputs.filter((o) => o)).size < outputs.filter((o) => o).length) continue;
    const first = outputs.find((o) => o !== "");
    const count = c.ints?.dims.reduce((a: number, b) => a * b, 1);
    const values = outputs.filter((o) => o !== "").map((o) => ({
      name: o,
      type: { dtype: "f32" as const, shape: c.shape },
      ...(c.ints ? { ints: { dims: c.ints.dims, elements: c.ints.all.slice(0, count) } } : {}),
      ...(c.placement ? { placement: c.placement } : {}),
    }));
    builder.call({
      kind: c.module ? "call_module" : "call_function",
      op: c.op,
      domain: c.domain,
      inputs,
      outputs,
      attributes: c.captures.length > 0 ? { ...c.attributes, body: { kind: "graph", value: nested } } : c.attributes,
      ...(c.captures.length > 0 ? { captures: c.captures.map(read) } : {}),
      ...(c.scope === undefined ? {} : { scope: c.scope }),
      name: c.nodeName ?? first ?? c.op,
    }, values);
    names.push(...outputs.filter((o) => o !== ""));
  }
  return builder.finish({ inputs: [names.at(-1)!], names: ["the result"] }, [{ input: "x", output: 0 }]);
});

/** Everything of a graph but what reads constants. */
function plain(graph: Graph): unknown {
  const strip = (key: string, value: unknown): unknown => {
    if (typeof value === "number" && !Number.isFinite(value)) return String(value);
    if (Object.is(value, -0)) return "-0";
    if (value instanceof Map) return [...value];
    if (typeof value === "object" && value !== null && "terms" in value) return String(value);
    if (key === "value" && typeof value === "object" && value !== null && "bytes" in value) {
      return [...(value as { bytes(): Uint8Array }).bytes()];
    }
    return value;
  };
  return JSON.parse(JSON.stringify(graph, strip));
}

Deno.test("any graph reads back from its text as it was", () => {
  fc.assert(
    fc.property(graphs, (graph) => {
      const text = printGraph(graph);
      const back = parseGraph(text);
      assert.deepEqual(plain(back), plain(graph));
      assert.equal(printGraph(back), text);
    }),
    { numRuns: 300 },
  );
});
