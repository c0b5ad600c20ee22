import assert from "node:assert/strict";
import { type Dim, dimAdd, dimKey, symbol } from "../core/dim.ts";
import { ShapeError } from "../core/errors.ts";
import { int, tensor as tensorAttribute } from "../graph/attributes.ts";
import { GraphBuilder, inlineData } from "../graph/builder.ts";
import { type Attributes, type Graph, isCall, valueOf } from "../graph/graph.ts";
import { printType } from "../graph/types.ts";
import { eliminateDeadCode } from "./eliminate_dead_code.ts";
import { foldShapes } from "./fold_shapes.ts";
import { inferTypes } from "./infer_types.ts";

const b = symbol("batch"), past = symbol("past"), seq = symbol("seq");

class Sketch {
  readonly builder = new GraphBuilder("global", "test", new Map([["", 17]]));

  input(name: string, shape: readonly Dim[]): string {
    this.builder.placeholder({ name, type: { dtype: "f32", shape } });
    return name;
  }

  ints(name: string, values: readonly number[], scalar = false): string {
    const data = BigInt64Array.from(values, BigInt);
    this.builder.getAttr(name, inlineData("i64", scalar ? [] : [values.length], data));
    return name;
  }

  call(op: string, inputs: readonly string[], output: string, attributes: Attributes = {}): string {
    this.builder.call(
      { kind: "call_function", name: output, domain: "", op, inputs, outputs: [output], attributes },
      [{ name: output, type: { dtype: undefined, shape: undefined } }],
    );
    return output;
  }

  finish(...outputs: string[]): Graph<"global"> {
    return this.builder.finish({ inputs: outputs, names: outputs });
  }
}

function viewOfHeads(): Sketch {
  const g = new Sketch();
  g.input("x", [b, seq, 96]);
  g.call("Shape", ["x"], "shape");
  g.call("Gather", ["shape", g.ints("zero", [0], true)], "size", { axis: int(0) });
  g.call("Unsqueeze", ["size", g.ints("axes", [0])], "sizes");
  g.call("Concat", ["sizes", g.ints("rest", [-1, 6, 16])], "target", { axis: int(0) });
  g.call("Reshape", ["x", "target"], "y");
  return g;
}

Deno.test("inferTypes() follows shape arithmetic into the target of a Reshape", () => {
  const graph = inferTypes(viewOfHeads().finish("y"));
  assert.equal(printType(valueOf(graph, "y").type), "f32[batch,seq,6,16]");
  assert.deepEqual(valueOf(graph, "target").ints!.elements.map(dimKey), ["batch", "-1", "6", "16"]);
});

Deno.test("foldShapes() leaves one Sizes node for a target and drops what computed it", () => {
  const graph = foldShapes(inferTypes(viewOfHeads().finish("y")));
  assert.deepEqual(graph.nodes.filter(isCall).map((n) => n.op), ["Sizes", "Reshape"]);
  assert.equal(graph.nodes.length, 4);
  assert.equal(printType(valueOf(inferTypes(graph), "y").type), "f32[batch,seq,6,16]");
});

Deno.test("foldShapes() makes constant data of contents without symbols", () => {
  const g = new Sketch();
  g.input("x", [b, 96]);
  g.call("Shape", ["x"], "shape", { start: int(1) });
  const graph = foldShapes(inferTypes(g.finish("shape")));
  const node = graph.nodes.find((n) => n.kind === "get_attr");
  assert.deepEqual([...new BigInt64Array(node!.data.bytes().slice().buffer)], [96n]);
});

Deno.test("foldShapes() keeps a matrix of sizes as it is computed: Sizes has one dim", () => {
  const g = new Sketch();
  g.input("x", [b, seq]);
  g.call("Shape", ["x"], "shape");
  g.call("Unsqueeze", ["shape", g.ints("axes", [0])], "row");
  const graph = foldShapes(inferTypes(g.finish("row")));
  assert.equal(printType(valueOf(graph, "row").type), "i64[1,2]");
  assert.deepEqual(graph.nodes.flatMap((n) => (isCall(n) ? [n.op] : [])), ["Sizes", "Unsqueeze"]);
});

Deno.test("foldShapes() keeps what data decides", () => {
  const g = new Sketch();
  g.input("x", [b, 4]);
  g.call("NonZero", ["x"], "where");
  g.call("Shape", ["where"], "count", { start: int(1) });
  const graph = foldShapes(inferTypes(g.finish("count")));
  assert.deepEqual(graph.nodes.filter(isCall).map((n) => n.op), ["NonZero", "Shape"]);
  assert.match(dimKey(valueOf(graph, "count").ints!.elements[0]!), /#/);
});

Deno.test("inferTypes() counts the places of what shapes decide, as torch.repeat_interleave does", () => {
  const g = new Sketch();
  g.input("x", [b, 3]);
  const twos = { value: tensorAttribute(inlineData("i64", [1], BigInt64Array.of(2n))) };
  g.call("ConstantOfShape", [g.ints("three", [3])], "repeats", twos);
  g.call("Range", [g.ints("from", [0], true), g.ints("most", [2], true), g.ints("by", [1], true)], "columns");
  g.call("Unsqueeze", ["repeats", g.ints("last", [1])], "rows");
  g.call("Less", ["columns", "rows"], "wanted");
  g.call("NonZero", ["wanted"], "places");
  g.call("Transpose", ["places"], "indices");
  const indices = valueOf(inferTypes(g.finish("indices")), "indices");
  assert.equal(printType(indices.type), "i64[6,2]");
  assert.deepEqual(indices.ints?.elements, [0, 0, 0, 1, 1, 0, 1, 1, 2, 0, 2, 1]);
});

Deno.test("inferTypes() dissolves the expand(-1) idiom of exporters", () => {
  const g = new Sketch();
  g.input("x", [b, 1, seq]);
  g.call("Shape", ["x"], "shape");
  g.call("Concat", ["batch1", "four", "rest"].map((n, i) => g.ints(n, [[-1], [4], [-1]][i]!)), "wanted", {
    axis: int(0),
  });
  g.call("ConstantOfShape", [g.ints("three", [3])], "ones", {
    value: { kind: "tensor", value: inlineData("i64", [1], BigInt64Array.of(1n)) },
  });
  g.call("Mul", ["ones", g.ints("minus", [-1], true)], "wild");
  g.call("Equal", ["wanted", "wild"], "isWild");
  g.call("Where", ["isWild", "ones", "wanted"], "target");
  g.call("Expand", ["x", "target"], "y");
  assert.equal(printType(valueOf(inferTypes(g.finish("y")), "y").type), "f32[batch,4,seq]");
});

Deno.test("inferTypes() pairs a cache with the graph output that extends it, through Identity", () => {
  const g = new Sketch();
  g.input("past_key", [b, 2, past, 8]);
  g.input("key", [b, 2, seq, 8]);
  g.call("Concat", ["past_key", "key"], "keys", { axis: int(2) });
  g.call("Identity", ["keys"], "present");
  g.call("Relu", ["key"], "y");
  const graph = inferTypes(g.finish("y", "present"));
  assert.deepEqual(graph.carried, [{ input: "past_key", output: 1 }]);
  assert.equal(dimKey(valueOf(graph, "present").type.shape![2]!), dimKey(dimAdd(past, seq)));
});

Deno.test("inferTypes() names the node whose inputs do not fit", () => {
  const g = new Sketch();
  g.input("a", [4, 8]);
  g.input("c", [7, 6]);
  g.call("MatMul", ["a", "c"], "product");
  assert.throws(
    () => inferTypes(g.finish("product")),
    (e) => e instanceof ShapeError && /MatMul "product".*8 and 7/.test(e.message),
  );
});

Deno.test("inferTypes() keeps a declared number where inference finds a symbol", () => {
  const g = new Sketch();
  g.input("x", [b, seq]);
  g.builder.call(
    { kind: "call_function", name: "n", domain: "", op: "Relu", inputs: ["x"], outputs: ["y"], attributes: {} },
    [{ name: "y", type: { dtype: "f32", shape: [symbol("other"), 5] } }],
  );
  assert.equal(printType(valueOf(inferTypes(g.finish("y")), "y").type), "f32[batch,5]");
});

Deno.test("inferTypes() leaves an op that nobody described open", () => {
  const g = new Sketch();
  g.input("x", [b, 4]);
  g.call("NoSuchOp", ["x"], "y");
  g.call("Relu", ["y"], "z");
  assert.equal(printType(valueOf(inferTypes(g.finish("z")), "z").type), "?[?]");
});

Deno.test("eliminateDeadCode() drops unread nodes and keeps placeholders", () => {
  const g = new Sketch();
  g.input("x", [b]);
  g.input("unused", [b]);
  g.call("Relu", ["x"], "y");
  g.call("Exp", ["unused"], "dead");
  const graph = eliminateDeadCode(g.finish("y"));
  assert.deepEqual(graph.nodes.map((n) => n.name), ["x", "unused", "y", "output"]);
  assert.equal(graph.values.has("dead"), false);
});

Deno.test("inferTypes() refuses gathers and scatters of tensors whose dims cannot correspond", () => {
  const refused = (op: string, ...shapes: number[][]) => {
    const g = new Sketch(), names = shapes.map((shape, i) => g.input(`x${i}`, shape));
    g.call(op, names, "y");
    assert.throws(() => inferTypes(g.finish("y")), new RegExp(`Cannot infer the type of ${op} .*dims`));
  };
  refused("GatherElements", [2, 3], [3]);
  refused("ScatterElements", [2, 3], [2, 3], [3]);
  refused("ScatterND", [5, 4], [2, 1], [2]);
  refused("ScatterND", [5], [2, 3], [2]);
});
