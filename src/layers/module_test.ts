import assert from "node:assert/strict";
import { fromNumbers, type HostTensor } from "../core/host_tensor.ts";
import type { GetAttr, Value } from "../graph/graph.ts";
import { printGraph } from "../graph/text.ts";
import { localize } from "../passes/localize.ts";
import { gelu, Lambda } from "./activations.ts";
import { ColumnParallelLinear } from "./column_parallel_linear.ts";
import { Embedding } from "./embedding.ts";
import { Linear } from "./linear.ts";
import { Module, Sequential } from "./module.ts";
import { RowParallelLinear } from "./row_parallel_linear.ts";
import type { Trace } from "./trace.ts";

const X = { x: { dtype: "f32", shape: [2, 6] } } as const;

function mlp(): Sequential {
  return new Sequential(
    new ColumnParallelLinear({ inFeatures: 6, outFeatures: 5, gatherOutput: false }),
    new Lambda(gelu),
    new RowParallelLinear({ inFeatures: 5, outFeatures: 6, inputIsParallel: true }),
  );
}

function zeros(shapes: Readonly<Record<string, readonly number[]>>): Map<string, HostTensor> {
  return new Map(
    Object.entries(shapes).map(([name, shape]) => {
      const count = shape.reduce((a, b) => a * b, 1);
      return [name, fromNumbers("f32", shape, Array.from({ length: count }, () => 0))];
    }),
  );
}

const STATE = { "0.weight": [5, 6], "0.bias": [5], "2.weight": [6, 5], "2.bias": [6] } as const;

Deno.test("a sequence of column- and row-parallel layers is traced to parallel layers and one all-reduce", () => {
  const module = mlp();
  module.initialize({ seed: 1 });
  assert.equal(
    printGraph(module.trace(X, { ranks: 2 })).trim(),
    `
graph Sequential : sharded {opset=21, shardwise=1} over 2 ranks
%x = placeholder : f32[2,6] @ R
%0.weight = get_attr : f32[5,6] @ S(0)
%0.bias = get_attr : f32[5] @ S(0)
%0.ColumnParallelLinear = call_module shardwise.ColumnParallelLinear(%x, %0.weight, %0.bias) {transB=1} : f32[2,5] @ S(1) in "0"
%Gelu = Gelu(%0.ColumnParallelLinear) {approximate="none"} : f32[2,5] @ S(1)
%2.weight = get_attr : f32[6,5] @ S(1)
%2.bias = get_attr : f32[6] @ P(sum)
%2.RowParallelLinear = call_module shardwise.RowParallelLinear(%Gelu, %2.weight, %2.bias) {transB=1} : f32[2,6] @ P(sum) in "2"
%2.RowParallelLinear.all_reduce = all_reduce(%2.RowParallelLinear) {reduction=sum} : f32[2,6] @ R as all_reduce
output %2.RowParallelLinear.all_reduce as "output"`.trim(),
  );
});

Deno.test("on one rank a parallel module has no collectives", () => {
  const module = mlp();
  module.initialize({ seed: 1 });
  const graph = module.trace(X, { ranks: 1 });
  assert.deepEqual(graph.nodes.filter((n) => n.kind === "collective"), []);
});

Deno.test("the ranks' parts of initial weights are the pieces of one rank's weights", () => {
  const module = mlp();
  module.initialize({ seed: 7 });
  const bytesOf = (ranks: number, rank: number, name: string) => {
    const local = localize(module.trace(X, { ranks }), rank, ranks);
    const node = local.nodes.find((n): n is GetAttr => n.kind === "get_attr" && n.name === name)!;
    return [...node.data.bytes()];
  };
  const whole = bytesOf(1, 0, "0.weight");
  for (const ranks of [2, 3, 7]) {
    const parts = Array.from({ length: ranks }, (_, r) => bytesOf(ranks, r, "0.weight"));
    assert.ok(parts.every((part) => part.length < whole.length));
    assert.deepEqual(parts.flat(), whole, `${ranks} ranks`);
  }
});

Deno.test("load() takes a whole state under a prefix, and names what is missing, unknown or of another shape", () => {
  const state = zeros(STATE);
  mlp().load(new Map([...state].map(([name, t]) => [`model.${name}`, t])), { prefix: "model." });
  const missing = new Map([...state].filter(([name]) => name !== "2.bias"));
  assert.throws(() => mlp().load(missing), /lacks 2\.bias/);
  const misspelt = new Map([...state, ["0.wieght", state.get("0.weight")!]]);
  assert.throws(() => mlp().load(misspelt), /did you mean "0\.weight"\?/);
  mlp().load(misspelt, { strict: false });
  const wrong = zeros({ ...STATE, "2.weight": [5, 6] });
  assert.throws(() => mlp().load(wrong), /"2\.weight": expected f32\[6,5\], found f32\[5,6\]/);
});

Deno.test("tracing before there is data says which parameter lacks it and what to call", () => {
  assert.throws(() => mlp().trace(X, { ranks: 2 }), { message: /"0\.weight"/, hint: /load\(state\) or initialize/ });
});

Deno.test("a parameter that two parts share has one name and is one tensor in the graph", () => {
  const table = new Embedding({ numEmbeddings: 7, embeddingDim: 4, paddingIdx: -1 });
  assert.equal(table.paddingIdx, 6);
  const head = new Linear({ inFeatures: 4, outFeatures: 7, bias: false, weight: table.weight });
  const model = new Sequential(table, head);
  assert.deepEqual([...model.parameters().keys()], ["0.weight"]);
  // Either name will do in a state: some checkpoints keep the one, some the other.
  model.load(zeros({ "1.weight": [7, 4] }));
  const graph = model.trace({ ids: { dtype: "i64", shape: [3] } }, { ranks: 2 });
  assert.equal(graph.nodes.filter((n) => n.kind === "get_attr").length, 1);
});

Deno.test("a row-parallel layer that was promised a cut input refuses a whole one", () => {
  const layer = new RowParallelLinear({ inFeatures: 6, outFeatures: 5, inputIsParallel: true });
  layer.initialize({ seed: 1 });
  assert.throws(() => layer.trace(X, { ranks: 2 }), { message: /placed R, and must be S\(1\)/, hint: /gatherOutput/ });
});

Deno.test("shapes that do not fit are errors that name the layer", () => {
  const layer = new ColumnParallelLinear({ inFeatures: 8, outFeatures: 5 });
  layer.initialize({ seed: 1 });
  assert.throws(() => layer.trace(X, { ranks: 2 }), /takes 8 features, found 6/);
});

Deno.test("ops between layers keep a cut where their factors carry it, and get whole inputs where not", () => {
  class Mixed extends Module {
    readonly #up = this.child("up", new ColumnParallelLinear({ inFeatures: 6, outFeatures: 5, gatherOutput: false }));
    override forward(trace: Trace, x: Value): readonly Value[] {
      const y = this.#up.forward(trace, x);
      const doubled = trace.call("Add", [y, y]);
      const whole = trace.call("Softmax", [doubled]);
      placements.push(doubled.placement?.kind, whole.placement?.kind);
      return [whole, doubled];
    }
  }
  const placements: (string | undefined)[] = [];
  const module = new Mixed();
  module.initialize({ seed: 1 });
  const graph = module.trace(X, { ranks: 2 });
  assert.deepEqual(placements, ["S", "R"]);
  // The result and Softmax share one all-gather.
  assert.equal(graph.nodes.filter((n) => n.kind === "collective").length, 1);
});

Deno.test("two parts of one name, and unknown ops, are refused", () => {
  class Twice extends Module {
    readonly a = this.child("part", new Lambda(gelu));
    readonly b = this.child("part", new Lambda(gelu));
    override forward(_: Trace, x: Value): Value {
      return x;
    }
  }
  assert.throws(() => new Twice(), /"part" in Twice/);
  const unknown = new Lambda((trace, x) => trace.call("Gelo", [x]));
  assert.throws(() => unknown.trace(X, { ranks: 2 }), /Gelo: no such op/);
});
