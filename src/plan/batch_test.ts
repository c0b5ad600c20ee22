import assert from "node:assert/strict";
import { PlanError } from "../core/errors.ts";
import type { Graph } from "../graph/graph.ts";
import { parseGraph } from "../graph/text_parser.ts";
import { opDef } from "../ops/table.ts";
import { batchDims } from "./batch.ts";

/** What all graphs here may read. */
const HEAD = `graph net : global {opset=18, com.microsoft=1}
%x = placeholder : f32[b,3,8]
%ids = placeholder : i64[b,3]
%w = get_attr : f32[8,12]
%c = get_attr : f32[8]
%zero = get_attr : i64[1] = [0]
%one = get_attr : i64[] = 1
%two = get_attr : i64[1] = [2]
%start = get_attr : i64[] = 0
%b = shardwise.Sizes() : i64[] = b`;

/** A graph of typed calls, a line each, whose results are `y`, or those that are named. */
function graphOf(lines: string, ...results: readonly string[]): Graph<"global"> {
  const names = results.length > 0 ? results : ["y"];
  return parseGraph(`${HEAD}\n${lines}\noutput ${names.map((n) => `%${n}`).join(", ")}`, { stage: "global" });
}

/** Where the results have the batch: `dim·inner`, or `-` for what is alike for all. */
function places(lines: string, ...results: readonly string[]): string {
  const graph = graphOf(lines, ...results), { outputs } = batchDims(graph, opDef);
  return (results.length > 0 ? results : ["y"]).map((name) => {
    const at = outputs.get(name);
    return at ? `${at.dim}·${at.inner}` : "-";
  }).join(" ");
}

/** Asserts that a graph is refused, and why. */
function assertRefused(why: string, lines: string): void {
  let found = "accepted";
  try {
    batchDims(graphOf(lines), opDef);
  } catch (error) {
    assert.ok(error instanceof PlanError, String(error));
    found = error.message;
  }
  assert.ok(new RegExp(why).test(found), `${found}\n${why}\n${lines}`);
}

Deno.test("batchDims() follows the batch through products, transposes and merged dims", () => {
  const graph = graphOf(
    `%h = MatMul(%x, %w) : f32[b,3,12]
%t = Transpose(%h) {perm=[1,0,2]} : f32[3,b,12]
%flat = Reshape(%t, %zero) : f32[3*b,12]
%back = Reshape(%flat, %zero) : f32[3,b,12]
%y = Transpose(%back) {perm=[1,0,2]} : f32[b,3,12]
%tokens = Reshape(%x, %zero) : f32[3*b,8]
%z = MatMul(%tokens, %w) : f32[3*b,12]`,
    "y",
    "z",
  );
  const { symbol, inputs, outputs } = batchDims(graph, opDef);
  assert.equal(symbol, "b");
  assert.deepEqual([...inputs], [["x", { dim: 0, inner: 1 }], ["ids", { dim: 0, inner: 1 }]]);
  assert.deepEqual([...outputs], [["y", { dim: 0, inner: 1 }], ["z", { dim: 0, inner: 3 }]]);
});

Deno.test("batchDims() allows what all samples have alike: positions, masks by position, tables", () => {
  const positions = `%n = shardwise.Sizes() : i64[] = 3
%range = Range(%start, %n, %one) : i64[3]
%column = Unsqueeze(%range, %one) : i64[3,1]
%mask = Less(%column, %range) : bool[3,3]`;
  assert.equal(
    places(
      `${positions}
%shape = shardwise.Sizes() : i64[3] = [b,3,3]
%y = Expand(%mask, %shape) : bool[b,3,3]
%filled = ConstantOfShape(%shape) : f32[b,3,3]
%times = shardwise.Sizes() : i64[2] = [b,1]
%tiled = Tile(%mask, %times) : bool[3*b,3]`,
      "y",
      "mask",
      "filled",
      "tiled",
    ),
    "0·1 - 0·1 0·3",
  );
});

const ROWS = `%rows = Range(%start, %b, %one) : i64[b]
%column = Unsqueeze(%rows, %one) : i64[b,1]
%n = shardwise.Sizes() : i64[] = 3
%positions = Range(%start, %n, %one) : i64[3]`;

Deno.test("batchDims() allows numbers of rows that select what is their own", () => {
  // mask[row, position], by coordinates and in a merged dim; and writing there.
  const coordinates = `${ROWS}
%shape = shardwise.Sizes() : i64[2] = [b,3]
%r = Expand(%column, %shape) : i64[b,3]
%p = Expand(%positions, %shape) : i64[b,3]
%ru = Unsqueeze(%r, %two) : i64[b,3,1]
%pu = Unsqueeze(%p, %two) : i64[b,3,1]
%at = Concat(%ru, %pu) {axis=-1} : i64[b,3,2]`;
  assert.equal(places(`${coordinates}\n%y = GatherND(%x, %at) : f32[b,3,8]`), "0·1");
  assert.equal(places(`${coordinates}\n%y = ScatterND(%x, %at, %x) : f32[b,3,8]`), "0·1");
  const merged = `${ROWS}
%flat = Reshape(%x, %zero) : f32[3*b,8]
%first = Mul(%column, %n) : i64[b,1]
%at = Add(%first, %positions) : i64[b,3]`;
  assert.equal(places(`${merged}\n%y = Gather(%flat, %at) : f32[b,3,8]`), "0·1");
  // The last position of each: a number below 3, whatever it is.
  assert.equal(
    places(`${merged}
%s = ReduceSum(%x, %two) {keepdims=0} : f32[b,3]
%last = ArgMax(%s) {axis=1, keepdims=0} : i64[b]
%begin = Mul(%rows, %n) : i64[b]
%own = Add(%begin, %last) : i64[b]
%y = Gather(%flat, %own) : f32[b,8]`),
    "0·1",
  );
  for (
    const [why, lines] of [
      ["numbers of samples", `${ROWS}\n%y = Gather(%c, %rows) : f32[b]`],
      ["numbers of samples", `${ROWS}\n%y = Cast(%rows) {to=1} : f32[b]`],
      ["numbers of samples", `${ROWS}\n%y = Identity(%rows) : i64[b]`],
      // One too many for the rows of 3 positions, another stride, ids that may be any, and the next row.
      ["their own number", `${merged}\n%next = Add(%at, %one) : i64[b,3]\n%y = Gather(%flat, %next) : f32[b,3,8]`],
      [
        "their own number",
        `${merged}\n%wide = Mul(%column, %two) : i64[b,1]\n%w2 = Add(%wide, %zero) : i64[b,1]\n%y = Gather(%flat, %w2) : f32[b,1,8]`,
      ],
      ["numbers of samples", `${merged}\n%own = Add(%first, %ids) : i64[b,3]\n%y = Gather(%flat, %own) : f32[b,3,8]`],
      ["their own number", `${ROWS}\n%next = Add(%rows, %one) : i64[b]\n%y = Gather(%x, %next) : f32[b,3,8]`],
      [
        "their own number",
        `${coordinates}\n%turned = Concat(%pu, %ru) {axis=-1} : i64[b,3,2]\n%y = GatherND(%x, %turned) : f32[b,3,8]`,
      ],
    ] as const
  ) assertRefused(why, lines);
});

const EXPERT = `%flat = Reshape(%x, %zero) : f32[3*b,8]
%route = ReduceMax(%flat, %one) {keepdims=0} : f32[3*b]
%chosen = Cast(%route) {to=9} : bool[3*b]
%where = NonZero(%chosen) : i64[1,n#0]
%list = Reshape(%where, %zero) : i64[n#0]`;

Deno.test("batchDims() allows experts that work on lists of tokens without a limit, and refuses those with one", () => {
  assert.equal(
    places(`${EXPERT}
%own = Gather(%flat, %list) : f32[n#0,8]
%worked = Mul(%own, %c) : f32[n#0,8]
%entries = Unsqueeze(%list, %one) : i64[n#0,1]
%back = ScatterND(%flat, %entries, %worked) : f32[3*b,8]
%y = Reshape(%back, %zero) : f32[b,3,8]`),
    "0·1",
  );
  // The first 4 tokens of an expert are of whoever comes first.
  const capacity = `${EXPERT}
%four = get_attr : i64[1] = [4]
%first = Slice(%list, %zero, %four, %zero) : i64[4]
%y = Gather(%flat, %first) : f32[4,8]`;
  assertRefused("Slice needs dim 0", capacity);
  // A token's place in the queue of its expert counts those before it, of other samples too.
  assertRefused(
    "CumSum needs dim 0",
    `${EXPERT}\n%f = Cast(%chosen) {to=1} : f32[3*b]\n%y = CumSum(%f, %zero) : f32[3*b]`,
  );
  assertRefused("a result lists entries", `${EXPERT}\n%y = Gather(%flat, %list) : f32[n#0,8]`);
});

Deno.test("batchDims() keeps sequences of attention apart", () => {
  const qkv = `%wide = MatMul(%x, %w) : f32[b,3,12]
%past = placeholder : f32[b,1,5,4]`;
  const inputs = qkv.split("\n").toReversed().join("\n");
  const attention = (lengths: string, total: string) =>
    `${inputs}
${lengths}
%y, %k, %v = com.microsoft.GroupQueryAttention(%wide, _, _, %past, %past, %lengths, ${total}) {num_heads=1, kv_num_heads=1} : f32[b,3,4], f32[b,1,8,4], f32[b,1,8,4]`;
  const own = `%s = ReduceMax(%ids, %one) {keepdims=0} : i64[b]\n%lengths = Cast(%s) {to=6} : i32[b]`;
  assert.equal(
    places(attention(own, "%eight").replace("%s =", "%eight = get_attr : i32[] = 8\n%s ="), "y", "k", "v"),
    "0·1 0·1 0·1",
  );
});

Deno.test("batchDims() refuses what mixes samples, and names the op and why", () => {
  const turned = "%t = Transpose(%x) {perm=[1,2,0]} : f32[3,8,b]";
  for (
    const [message, lines] of [
      ['ReduceMax combines samples: max over dim 0, at "y"', "%y = ReduceMax(%x, %zero) : f32[1,3,8]"],
      ["ReduceSum combines samples: sum over dim 0", "%y = ReduceSum(%x, %zero) : f32[1,3,8]"],
      ["ReduceMean needs dim 0", "%y = ReduceMean(%x, %zero) : f32[1,3,8]"],
      ["Softmax needs dim 0, in which the samples are, whole", "%y = Softmax(%x) {axis=0} : f32[b,3,8]"],
      ["CumSum needs dim 0", "%y = CumSum(%x, %zero) : f32[b,3,8]"],
      ["TopK needs dim 0", "%y, %i = TopK(%x, %two) {axis=0} : f32[2,3,8], i64[2,3,8]"],
      ["Concat needs dim 0", "%y = Concat(%x, %x) {axis=0} : f32[2*b,3,8]"],
      ["Slice needs dim 0", "%y = Slice(%x, %zero, %two, %zero) : f32[2,3,8]"],
      [
        "BatchNormalization is an op that nobody described",
        "%y, %m, %v = BatchNormalization(%x, %c, %c, %c, %c) {training_mode=1} : f32[b,3,8], f32[8], f32[8]",
      ],
      [
        "MatMul sets samples against samples",
        `%u = Transpose(%x) {perm=[1,0,2]} : f32[3,b,8]\n${turned}\n%y = MatMul(%u, %t) : f32[3,b,b]`,
      ],
      [
        "MatMul combines samples: sum over dim",
        `%u = Transpose(%x) {perm=[1,0,2]} : f32[3,b,8]\n${turned}\n%y = MatMul(%t, %u) : f32[3,8,8]`,
      ],
      ["Gather may mix samples: it selects along the dim of the samples", "%y = Gather(%x, %two) : f32[1,3,8]"],
      ["Gather may mix samples", "%y = Gather(%x, %ids) : f32[b,3,3,8]"],
      [
        "DynamicQuantizeLinear may mix samples: it rounds by the largest value of all samples",
        "%y, %s, %z = DynamicQuantizeLinear(%x) : u8[b,3,8], f32[], u8[]",
      ],
      ["Bernoulli draws random numbers|Bernoulli .*samples", "%y = Bernoulli(%x) : f32[b,3,8]"],
      ["Mul computes with how many samples there are", "%y = Mul(%ids, %b) : i64[b,3]"],
      ["a result is how many samples there are", "%y = Identity(%b) : i64[] = b"],
      ["NobodyKnows is an op that nobody described", "%y = NobodyKnows(%x) : f32[b,3,8]"],
    ] as const
  ) assertRefused(message, lines);
  const fixed = parseGraph<"global">("graph net : global {opset=18}\n%x = placeholder : f32[2,3]\noutput %x");
  assert.throws(() => batchDims(fixed, opDef), /no input begins with a symbolic dim/);
});

Deno.test("batchDims() proves nothing where it is told to assume", () => {
  const { outputs } = batchDims(graphOf("%y = NobodyKnows(%x) : f32[3,4*b]"), opDef, true);
  assert.deepEqual(outputs.get("y"), { dim: 1, inner: 4 });
});
