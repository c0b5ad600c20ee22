import assert from "node:assert/strict";
import { FormatError } from "../core/errors.ts";
import { attribute, fn, graph, int, intRef, model, node } from "../../tests/support/onnx_models.ts";
import { checkModel } from "./onnx_check.ts";
import { inlineFunctions } from "./onnx_functions.ts";
import type { GraphProto, ModelProto, NodeProto } from "./onnx_messages.ts";

function print(n: NodeProto): string {
  const attributes = n.attribute.map((a) => a.g ? `${a.name}={${lines(a.g).join("; ")}}` : `${a.name}=${a.i}`);
  return `${n.output.join(",")} = ${n.opType}${attributes.length ? `[${attributes}]` : ""}(${n.input.join(",")})`;
}

function lines(g: GraphProto): string[] {
  return g.node.map(print);
}

function inlined(m: ModelProto): string[] {
  checkModel(m, "m.onnx");
  inlineFunctions(m, "m.onnx");
  checkModel(m, "m.onnx"); // what comes out is a good model
  assert.equal(m.functions.length, 0);
  return lines(m.graph!);
}

const call = (name: string, input: string[], output: string[], attribute: ReturnType<typeof int>[] = []) =>
  node(name, input, output, { domain: "f", attribute });

const IMPORTS = { opsetImport: [{ domain: "", version: 18n }, { domain: "f", version: 1n }] };

Deno.test("two calls of a function get names of their own", () => {
  const twice = fn("Twice", {
    input: ["a"],
    output: ["b"],
    node: [node("Relu", ["a"], ["t"]), node("Add", ["t", "t"], ["b"])],
  });
  const g = graph([call("Twice", ["x"], ["m"]), call("Twice", ["m"], ["y"])]);
  assert.deepEqual(inlined(model(g, { ...IMPORTS, functions: [twice] })), [
    "n_m/t = Relu(x)",
    "m = Add(n_m/t,n_m/t)",
    "n_y/t = Relu(m)",
    "y = Add(n_y/t,n_y/t)",
  ]);
});

Deno.test("attributes come from the call, else from the default, else not at all, through nested calls", () => {
  const inner = fn("Inner", {
    input: ["a"],
    output: ["b"],
    attribute: ["axis", "loose"],
    attributeProto: [int("k", 7n)],
    node: [
      node("Op", ["a"], ["b"], {
        attribute: [intRef("axis", "axis"), intRef("k", "k"), intRef("loose", "loose"), int("fixed", 1n)],
      }),
    ],
  });
  const outer = fn("Outer", {
    input: ["a"],
    output: ["b"],
    attribute: ["dim"],
    node: [call("Inner", ["a"], ["b"], [intRef("axis", "dim")])],
    opsetImport: [{ domain: "", version: 18n }, { domain: "f", version: 1n }],
  });
  const g = graph([
    call("Outer", ["x"], ["t"], [int("dim", 3n)]),
    call("Inner", ["t"], ["y"], [int("axis", 0n), int("k", 9n)]),
  ]);
  assert.deepEqual(inlined(model(g, { ...IMPORTS, functions: [outer, inner] })), [
    "t = Op[axis=3,k=7,fixed=1](x)",
    "y = Op[axis=0,k=9,fixed=1](t)",
  ]);
});

Deno.test("inputs left out are left out inside, and outputs not asked for keep a name inside", () => {
  const f = fn("F", {
    input: ["a", "bias"],
    output: ["b", "extra"],
    node: [node("Op", ["a", "bias"], ["extra"]), node("Relu", ["extra"], ["b"])],
  });
  assert.deepEqual(inlined(model(graph([call("F", ["x"], ["y"])]), { ...IMPORTS, functions: [f] })), [
    "n_y/extra = Op(x,)",
    "y = Relu(n_y/extra)",
  ]);
});

Deno.test("a result that is an input becomes an Identity", () => {
  const f = fn("F", { input: ["a"], output: ["a"], node: [] });
  assert.deepEqual(inlined(model(graph([call("F", ["x"], ["y"])]), { ...IMPORTS, functions: [f] })), [
    "y = Identity(x)",
  ]);
});

Deno.test("subgraphs of a body see the call's values, and calls inside subgraphs are inlined", () => {
  const twice = fn("Twice", { input: ["a"], output: ["b"], node: [node("Add", ["a", "a"], ["b"])] });
  const body = graph([call("Twice", ["a"], ["r"])], { inputs: [], outputs: ["r"] });
  const f = fn("F", {
    input: ["c", "a"],
    output: ["b"],
    node: [node("If", ["c"], ["b"], { attribute: [attribute("then_branch", { g: body })] })],
    opsetImport: [{ domain: "", version: 18n }, { domain: "f", version: 1n }],
  });
  const g = graph([call("F", ["c", "x"], ["t"]), call("F", ["c", "t"], ["y"])], { inputs: ["x", "c"] });
  assert.deepEqual(inlined(model(g, { ...IMPORTS, functions: [f, twice] })), [
    "t = If[then_branch={n_t/r = Add(x,x)}](c)",
    "y = If[then_branch={n_y/r = Add(t,t)}](c)",
  ]);
});

Deno.test("a new name never meets a name that the model has already", () => {
  const f = fn("F", { input: ["a"], output: ["b"], node: [node("Relu", ["a"], ["t"]), node("Abs", ["t"], ["b"])] });
  const g = graph([node("Neg", ["x"], ["n_y/t"]), call("F", ["n_y/t"], ["y"])]);
  assert.deepEqual(inlined(model(g, { ...IMPORTS, functions: [f] })), [
    "n_y/t = Neg(x)",
    "n_y/t_1 = Relu(n_y/t)",
    "y = Abs(n_y/t_1)",
  ]);
});

Deno.test("what cannot be inlined is refused, saying which function", () => {
  const fails = (m: ModelProto, says: RegExp) =>
    assert.throws(() => inlineFunctions(m, "m.onnx"), (e) => e instanceof FormatError && says.test(e.message));
  const simple = (name: string, callee: string) =>
    fn(name, { input: ["a"], output: ["b"], node: [call(callee, ["a"], ["b"])] });
  const g = () => graph([call("A", ["x"], ["y"])]);
  fails(
    model(g(), { ...IMPORTS, functions: [simple("A", "B"), simple("B", "A")] }),
    /f::A calls itself, by f::A, then f::B, then f::A/,
  );
  fails(
    model(graph([call("A", ["x", "x"], ["y"])]), { ...IMPORTS, functions: [simple("A", "B")] }),
    /has 2 inputs and 1 outputs, but function f::A has 1 and 1/,
  );
  const old = fn("A", {
    input: ["a"],
    output: ["b"],
    node: [node("Relu", ["a"], ["b"])],
    opsetImport: [{ domain: "", version: 12n }],
  });
  fails(model(g(), { ...IMPORTS, functions: [old] }), /f::A follows opset 12 .* follows 18/);
  // 30 levels of two calls each would unfold to a billion nodes.
  const bomb = Array.from(
    { length: 30 },
    (_, i) =>
      fn(i === 0 ? "A" : `A${i}`, {
        input: ["a"],
        output: ["b"],
        node: [call(`A${i + 1}`, ["a"], ["t"]), call(`A${i + 1}`, ["t"], ["b"])],
      }),
  );
  fails(model(g(), { ...IMPORTS, functions: bomb }), /unfold to more than/);
});
