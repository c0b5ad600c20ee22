import assert from "node:assert/strict";
import { GraphError, InputError } from "../core/errors.ts";
import { GraphBuilder, inlineData } from "./builder.ts";
import type { Call, GetAttr, Graph } from "./graph.ts";
import { Interpreter, type Reads } from "./interpreter.ts";

/** Runs graphs over plain numbers. */
class Calculator extends Interpreter<number> {
  override getAttr(node: GetAttr): number {
    const bytes = node.data.bytes();
    return new DataView(bytes.buffer, bytes.byteOffset).getFloat32(0, true);
  }

  override callFunction(node: Call, { inputs: [a, b] }: Reads<number>): readonly (number | undefined)[] {
    if (node.op === "Add") return [a! + (b ?? 0)];
    if (node.op === "DivMod") return [Math.floor(a! / b!), a! % b!];
    throw new Error(`no such op: ${node.op}`);
  }

  override callModule(node: Call, reads: Reads<number>): readonly (number | undefined)[] {
    return node.op === "Double" ? [2 * reads.inputs[0]!] : super.callModule(node, reads);
  }
}

const TYPE = { dtype: "f32", shape: [] } as const;

function graph(...calls: [outputs: string, op: string, inputs: string[], kind?: Call["kind"]][]): Graph<"global"> {
  const builder = new GraphBuilder("global", "g", new Map([["", 17]]));
  builder.placeholder({ name: "x", type: TYPE });
  builder.getAttr("ten", inlineData("f32", [], new Float32Array([10])));
  for (const [list, op, inputs, kind = "call_function"] of calls) {
    const outputs = list.split(",");
    const values = outputs.filter((o) => o !== "").map((name) => ({ name, type: TYPE }));
    builder.call({ kind, domain: "", op, inputs, outputs, attributes: {} }, values);
  }
  return builder.finish({ inputs: ["y"], names: ["result"] });
}

function run(g: Graph, x = 7): number | undefined {
  return new Calculator(g).run(new Map([["x", x]])).get("result");
}

Deno.test("an Interpreter feeds inputs, constants and several outputs, and names the results", () => {
  assert.equal(run(graph(["q,r", "DivMod", ["ten", "x"]], ["y", "Add", ["q", "r"]])), 1 + 3);
  assert.equal(run(graph([",y", "DivMod", ["ten", "x"]])), 3);
});

Deno.test("an Interpreter passes undefined for inputs that are left out and tells layers from ops", () => {
  assert.equal(run(graph(["h", "Double", ["x"], "call_module"], ["y", "Add", ["h", ""]])), 14);
  assert.equal(run(graph(["y", "Add", ["x", "ten"], "call_module"])), 17);
});

Deno.test("an Interpreter says at which node it failed, and keeps the cause", () => {
  assert.throws(() => run(graph(["y", "Sqrt", ["x", ""]])), (error) => {
    assert.ok(error instanceof GraphError);
    assert.equal(error.message, "While executing %y = Sqrt(%x, _) : f32[]: no such op: Sqrt");
    assert.ok(error.cause instanceof Error);
    return true;
  });
});

Deno.test("an Interpreter refuses missing and unknown inputs by name", () => {
  const calculator = new Calculator(graph(["y", "Add", ["x", "ten"]]));
  assert.throws(
    () => calculator.run(new Map()),
    (e) => e instanceof InputError && /no value for input x/.test(e.message),
  );
  const inputs = new Map([["x", 1], ["xx", 2]]);
  assert.throws(() => calculator.run(inputs), (e) => e instanceof InputError && /no input "xx"/.test(e.message));
});
