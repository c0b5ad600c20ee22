import assert from "node:assert/strict";
import { GraphError } from "../core/errors.ts";
import type { Graph } from "./graph.ts";
import { parseGraph } from "./text_parser.ts";
import { verify } from "./verify.ts";

const HEADS = {
  global: "graph g : global {opset=17}",
  annotated: "graph g : annotated {opset=17} over 2 ranks",
  sharded: "graph g : sharded {opset=17} over 2 ranks",
  local: "graph g : local {opset=17}",
};

function graph(stage: keyof typeof HEADS, ...lines: string[]): Graph {
  return parseGraph([HEADS[stage], ...lines].join("\n"));
}

function refused(g: Graph, pattern: RegExp): void {
  assert.throws(() => verify(g), (error) => {
    assert.ok(error instanceof GraphError, String(error));
    assert.match(error.message, pattern);
    return true;
  });
}

const X = "%x = placeholder : f32[4,6]", XR = `${X} @ R`;

Deno.test("verify() refuses reads of what does not exist or comes later", () => {
  refused(
    graph("global", X, "%y = Relu(%z) : f32[4,6]", "output %y"),
    /call_function "y": it reads "z", which does not exist/,
  );
  const swapped = graph("global", X, "%y = Relu(%x) : f32[4,6]", "%z = Relu(%y) : f32[4,6]", "output %z");
  const nodes = [0, 2, 1, 3].map((i) => swapped.nodes[i]!);
  refused({ ...swapped, nodes }, /"z": it reads "y", which is written later/);
});

Deno.test("verify() refuses a second writer, a missing table entry, a stray table entry, and a lost output", () => {
  const good = graph("global", X, "%y = Relu(%x) : f32[4,6]", "output %y");
  verify(good);
  const [x, y, out] = good.nodes as [Graph["nodes"][0], Graph["nodes"][0], Graph["nodes"][0]];
  refused(
    { ...good, nodes: [x, y, { ...y, name: "again" } as typeof y, out] },
    /"again": it writes "y", which is written/,
  );
  refused({ ...good, nodes: [x, y, y, out] }, /another node has this name/);
  refused({ ...good, nodes: [x, y] }, /does not end in an output node/);
  refused({ ...good, nodes: [x, y, out, out] }, /"output": it is not the last node/);
  refused({ ...good, values: new Map([...good.values].slice(0, 1)) }, /its output "y" is not in the table/);
  refused(
    { ...good, values: new Map([...good.values, ["q", good.values.get("x")!]]) },
    /value "q" is written by no node/,
  );
});

Deno.test("verify() refuses two results of one name", () => {
  refused(graph("global", X, 'output %x as "r", %x as "r"'), /two results are called "r"/);
});

Deno.test("verify() lets a subgraph read what its node captures and nothing else", () => {
  const branch = "graph b {\n%r = Relu(%x) : f32[4,6]\noutput %r\n}";
  const c = "%c = placeholder : bool[]";
  verify(graph("global", X, c, `%y = If(%c | %x) {then_branch=${branch}} : f32[?]`, "output %y"));
  refused(graph("global", X, c, `%y = If(%c) {then_branch=${branch}} : f32[?]`, "output %y"), /it reads "x"/);
});

Deno.test("verify() asks for placements from stage annotated on, but not of constants that have none yet", () => {
  refused(graph("annotated", X, "output %x"), /"x" has no placement/);
  verify(graph("annotated", XR, "%w = get_attr : f32[2]", "output %x"));
  refused(graph("sharded", XR, "%w = get_attr : f32[2]", "output %x"), /"w" has no placement/);
  refused(graph("global", `${X} @ S(0;4:0-2|2-4)`, "output %x"), /placed S\(0\) in a global graph/);
});

Deno.test("verify() refuses a placement that does not fit the shape", () => {
  const placed = (placement: string) => graph("annotated", `${X} @ ${placement}`, "output %x");
  verify(placed("S(1)"));
  refused(placed("S(2;6:0-3|3-6)"), /placed S\(2\), but has 2 dims/);
  refused(placed("S(1;5:0-3|3-5)"), /layout of 5 elements, but the dim has 6/);
  refused(placed("S(1;6:0-3|4-6)"), /no rank holds some of it/);
  refused(placed("S(1;6:0-3|3-9)"), /leaves 6/);
  refused(placed("S(1;6:3-6+0-3|)"), /not ascending/);
  verify(placed("S(1;6:0-4|2-6)"));
  const two = ["%y = Relu(%x) : f32[4,6] @ S(1;6:0-2|2-4|4-6)", "output %y"];
  refused(graph("annotated", `${X} @ S(1)`, ...two), /over 3 ranks, other values over 2/);
});

Deno.test("verify() holds collectives to the placements that they join", () => {
  const step = (input: string, collective: string, output: string) =>
    graph("sharded", `${X} @ ${input}`, `%y = ${collective} : f32[4,6] @ ${output}`, "output %y");
  verify(step("P(sum)", "all_reduce(%x) {reduction=sum}", "R"));
  verify(step("P(sum)", "reduce_scatter(%x) {shard=S(0), reduction=sum}", "S(0)"));
  verify(step("S(1)", "all_gather(%x) {shard=S(1)}", "R"));
  verify(step("R", "slice(%x) {shard=S(1)}", "S(1)"));
  verify(step("S(1;6:0-4|2-6)", "slice(%x) {shard=S(1), from=(6:0-4|2-6)}", "S(1)"));
  verify(step("R", "mask(%x) {reduction=sum}", "P(sum)"));
  refused(step("R", "all_reduce(%x) {reduction=sum}", "R"), /its input "x" is placed R, and must be P\(sum\)/);
  refused(step("P(sum)", "all_reduce(%x) {reduction=max}", "R"), /must be P\(max\)/);
  refused(step("S(1)", "all_gather(%x) {shard=S(0)}", "R"), /must be S\(0\)/);
  refused(step("S(1)", "all_gather(%x) {shard=S(1)}", "S(1)"), /its output "y" is placed S\(1\), and must be R/);
  refused(step("P(sum)", "all_reduce(%x)", "R"), /needs a reduction/);
  refused(step("S(1)", "all_gather(%x)", "R"), /needs shard/);
  refused(step("S(1)", "slice(%x) {shard=S(1;6:0-4|2-6), from=(6:0-3|3-6)}", "S(1;6:0-4|2-6)"), /is no part of/);
  refused(
    graph("annotated", `${X} @ P(sum)`, "%y = all_reduce(%x) {reduction=sum} : f32[4,6] @ R", "output %y"),
    /no coll/,
  );
});

Deno.test("verify() takes a state that the graph begins, and one that it only reads", () => {
  verify(graph("annotated", XR, `%y = Relu(%x) : f32[4,6] @ R`, "output %y, %x", "carried %state -> 0\ncarried %x"));
});

Deno.test("verify() refuses carried pairs that do not fit", () => {
  const pair = (output: string, carried: string) =>
    graph("annotated", XR, `%y = Relu(%x) : ${output}`, "output %y, %x", carried);
  verify(pair("f32[5,6] @ R", "carried %x -> 0"));
  refused(pair("f32[4,6] @ S(1)", "carried %x -> 0"), /placed R and S\(1\)/);
  refused(pair("f32[4] @ R", "carried %x -> 0"), /joins f32\[4,6\] and f32\[4\]/);
  refused(pair("f16[4,6] @ R", "carried %x -> 0"), /joins/);
  refused(pair("f32[4,6] @ R", "carried %y -> 0"), /names no input/);
  refused(pair("f32[4,6] @ R", "carried %z"), /names no input/);
  refused(pair("f32[4,6] @ R", "carried %x -> 2"), /names no result/);
  refused(pair("f32[4,6] @ R", "carried %x -> 0\ncarried %x -> 1"), /shares an end/);
});
