import assert from "node:assert/strict";
import { inlineData } from "../graph/builder.ts";
import { type Attribute, type Graph, isCall, type Node } from "../graph/graph.ts";
import { printGraph } from "../graph/text.ts";
import { parseGraph } from "../graph/text_parser.ts";
import { verify } from "../graph/verify.ts";
import { inlineBranches } from "./inline_branches.ts";
import { cleanPipeline } from "./pipelines.ts";
import { ParallelExecutionCtx } from "./context.ts";

/** A graph read from text, whose constants have the contents of `data`. */
function graphOf(text: string, data: Readonly<Record<string, number>>): Graph<"global"> {
  return filled(parseGraph(text) as Graph<"global">, data);
}

function filled(graph: Graph<"global">, data: Readonly<Record<string, number>>): Graph<"global"> {
  const attribute = (a: Attribute): Attribute => a.kind === "graph" ? { ...a, value: filled(a.value, data) } : a;
  const nodes = graph.nodes.map((node): Node => {
    if (isCall(node)) {
      const attributes = Object.entries(node.attributes).map(([k, a]) => [k, attribute(a)] as const);
      return { ...node, attributes: Object.fromEntries(attributes) };
    }
    if (node.kind !== "get_attr") return node;
    const { dtype, shape } = node.data, content = data[node.outputs[0]]!;
    const array = dtype === "bool" ? Uint8Array.of(content) : BigInt64Array.of(BigInt(content));
    return { ...node, data: inlineData(dtype, shape, array) };
  });
  return { ...graph, nodes };
}

const DECIDED = `graph g : global {opset=18}
%x = placeholder : f32[batch,4]
%yes = get_attr : bool[] = 1
%y = If(%yes | %x, %yes) {else_branch=graph b {
  %h = Neg(%x) : ?[?]
  output %h
}, then_branch=graph b {
  %h = Relu(%x) : ?[?]
  %no = get_attr : bool[1] = [0]
  %inner = If(%no | %h) {else_branch=graph c {
    %h2 = Exp(%h) : ?[?]
    output %h2
  }, then_branch=graph c {
    %h2 = Log(%h) : ?[?]
    output %h2
  }} : f32[batch,4]
  output %inner
}} : f32[batch,4]
%h = Abs(%y) : f32[batch,4]
output %h
`;

Deno.test("inlineBranches puts what constants decide in the place of Ifs, one within another", () => {
  const inlined = inlineBranches(graphOf(DECIDED, { yes: 1, no: 0 }));
  verify(inlined);
  assert.equal(
    printGraph(inlined),
    `graph g : global {opset=18}
%x = placeholder : f32[batch,4]
%h_2 = Relu(%x) : ?[?]
%h2 = Exp(%h_2) : ?[?]
%h = Abs(%h2) : f32[batch,4]
output %h
`,
  );
});

Deno.test("inlineBranches leaves an If that an input decides, and the graph that has no other", () => {
  const text = DECIDED.replace("%yes = get_attr : bool[] = 1", "%yes = placeholder : bool[]");
  const graph = graphOf(text, { no: 0 });
  assert.equal(inlineBranches(graph), graph);
});

Deno.test("an If that is decided by what another one gave goes too", () => {
  const text = `graph g : global {opset=18}
%x = placeholder : f32[batch,4]
%yes = get_attr : bool[] = 1
%n = If(%yes | %x) {else_branch=graph b {
  %s = Size(%x) : ?[?]
  output %s
}, then_branch=graph b {
  %last = get_attr : i64[] = 4
  output %last
}} : i64[]
%four = get_attr : i64[] = 4
%is = Equal(%n, %four) : bool[]
%y = If(%is | %x) {else_branch=graph b {
  %h = Neg(%x) : ?[?]
  output %h
}, then_branch=graph b {
  %h = Exp(%x) : ?[?]
  output %h
}} : f32[batch,4]
output %y
`;
  const clean = cleanPipeline().run(
    graphOf(text, { yes: 1, last: 4, four: 4 }),
    new ParallelExecutionCtx({ ranks: 1, rank: 0 }),
  );
  assert.match(printGraph(clean), /%x = placeholder[^\n]*\n%h = Exp\(%x\) : f32\[batch,4\]\noutput %h/);
});
