/** Rules of ops: what the list of README.md says of plans that others accept although they are wrong, [11] to [22]. */
import assert from "node:assert/strict";
import { float, int, ints } from "../../src/graph/attributes.ts";
import { Net, sameOnAllRanks, weightPlacements } from "./net.ts";

Deno.test("a residual around a layer adds tensors of one cut [11]", async () => {
  const net = new Net(), x = net.input([2, 3, 8]);
  await sameOnAllRanks(net, net.finish(net.op("Add", [x, net.linear(x, 8, 8)])));
});

Deno.test("a bias of heads is added to the heads that a rank holds, also where that is one [12]", async () => {
  for (const heads of [2, 3, 4]) {
    const net = new Net(), x = net.input([2, 5, heads * 4]);
    const split = (t: string) =>
      net.op("Transpose", [net.op("Reshape", [t, net.ints(0, 0, heads, 4)])], { perm: ints([0, 2, 1, 3]) });
    const [q, k, v] = [0, 1, 2].map(() => split(net.linear(x, heads * 4, heads * 4)));
    const scores = net.op("MatMul", [q!, net.op("Transpose", [k!], { perm: ints([0, 1, 3, 2]) })]);
    const biased = net.op("Add", [scores, net.weight(1, heads, 1, 5)]);
    const mixed = net.op("MatMul", [net.op("Softmax", [biased], { axis: int(-1) }), v!]);
    const merged = net.op("Reshape", [
      net.op("Transpose", [mixed], { perm: ints([0, 2, 1, 3]) }),
      net.ints(0, 0, heads * 4),
    ]);
    await sameOnAllRanks(net, net.finish(net.linear(merged, heads * 4, heads * 4)));
  }
});

Deno.test("a slice of a cut dim takes the columns that it asks for, with offsets and steps [13]", async () => {
  for (const [start, end, step] of [[0, 4, 1], [4, 12, 1], [1, 11, 3], [11, 0, -2]] as const) {
    const net = new Net(), h = net.linear(net.input([2, 3, 8]), 8, 12);
    const part = net.op("Slice", [h, net.ints(start), net.ints(end), net.ints(-1), net.ints(step)]);
    await sameOnAllRanks(net, net.finish(part));
  }
});

Deno.test("a new dim is counted from the front and from the back [14]", async () => {
  for (const axis of [0, 2, 3, -1, -2]) {
    const net = new Net(), h = net.linear(net.input([2, 3, 8]), 8, 6);
    await sameOnAllRanks(net, net.finish(net.op("Tanh", [net.op("Unsqueeze", [h, net.ints(axis)])])));
  }
});

Deno.test("a reduction over a cut dim is one over all ranks: means, sums, maxima, of one dim and of all [15, 16, 17]", async () => {
  for (const op of ["ReduceMean", "ReduceMax", "ReduceL2"]) {
    for (const axes of [[-1], [1], [0, 2], undefined]) {
      for (const keep of [0, 1]) {
        const net = new Net(), h = net.linear(net.input([2, 3, 8]), 8, 6);
        const attributes = { ...(axes ? { axes: ints(axes) } : {}), keepdims: int(keep) };
        await sameOnAllRanks(net, net.finish(net.op(op, [h], attributes)), [2]);
      }
    }
  }
  const net = new Net(), h = net.linear(net.input([2, 3, 8]), 8, 6);
  const sums = [net.op("ReduceSum", [h, net.ints(-1)]), net.op("ReduceSum", [h], { keepdims: int(0) })];
  await sameOnAllRanks(net, net.finish(...sums));
});

Deno.test("cumulative sums, softmaxes and variances keep their dims, and never run over a part of one [18]", async () => {
  for (const axis of [1, 2]) {
    const net = new Net(), h = net.linear(net.input([2, 3, 8]), 8, 6);
    const norm = net.op("LayerNormalization", [h, net.weight(6), net.weight(6)], { axis: int(-1) });
    const results = ["Softmax", "LogSoftmax"].map((op) => net.op(op, [h], { axis: int(axis) }));
    await sameOnAllRanks(net, net.finish(net.op("CumSum", [h, net.ints(axis)]), norm, ...results));
  }
});

Deno.test("padding and concatenation on a cut dim, with an axis counted from the back [19]", async () => {
  const net = new Net(), h = net.linear(net.input([2, 3, 8]), 8, 6);
  const padded = net.op("Pad", [h, net.ints(0, 1, 2, 0, 0, 1)]);
  const joined = net.op("Concat", [h, net.linear(h, 6, 4)], { axis: int(-1) });
  await sameOnAllRanks(net, net.finish(padded, joined));
});

Deno.test("attention takes its mask by head, shares keys and values among query heads, and knows causality and scale [20]", async () => {
  for (const [heads, kv, causal] of [[4, 4, 0], [6, 3, 1], [3, 1, 0]] as const) {
    for (const masks of [undefined, 1, heads]) {
      const net = new Net(23), x = net.input([2, 5, 12]);
      const q = net.linear(x, 12, heads * 4), k = net.linear(x, 12, kv * 4), v = net.linear(x, 12, kv * 4);
      const mask = masks === undefined ? [] : [net.weight(1, masks, 5, 5)];
      const attributes = { q_num_heads: int(heads), kv_num_heads: int(kv), is_causal: int(causal), scale: float(0.3) };
      const mixed = net.op("Attention", [q, k, v, ...mask], attributes);
      await sameOnAllRanks(net, net.finish(net.linear(mixed, heads * 4, 12)), [2]);
    }
  }
});

Deno.test("results are whole on every rank, also those of the last layer [21]", async () => {
  const net = new Net(), h = net.linear(net.input([2, 3, 8]), 8, 11);
  for (const plan of (await sameOnAllRanks(net, net.finish(h, net.op("ArgMax", [h], { axis: int(-1) })))).values()) {
    assert.match(weightPlacements(plan)[0]!, /^S/);
  }
});

Deno.test("a loss over classes in another dim than the last is taken over all of them [22]", async () => {
  const net = new Net(), h = net.linear(net.input([2, 7, 8]), 8, 5);
  const labels = net.ids([0, 3, 6, -100, 2, 1, 5, 5, 0, 4], [2, 5]);
  const [loss] = net.ops("SoftmaxCrossEntropyLoss", [h, labels], 1, { ignore_index: int(-100) });
  await sameOnAllRanks(net, net.finish(loss!));
});

Deno.test("heads are cut where data decides how many tokens there are, however a target says so", async () => {
  // On three ranks one has no head, and parts of no elements from which no size can be told.
  const net = new Net(), heads = 2, width = heads * 4;
  const rows = net.op("Squeeze", [net.op("NonZero", [net.ids([1, 0, 1, 1, 0])]), net.ints(0)]);
  const x = net.op("Gather", [net.linear(net.input([2, 5, 8]), 8, 8), rows], { axis: int(1) });
  const count = net.op("Slice", [net.op("Shape", [x]), net.ints(1), net.ints(2), net.ints(0)]);
  const sizes = (...parts: (number | string)[]) =>
    net.op("Concat", parts.map((p) => (typeof p === "number" ? net.ints(p) : p)), { axis: int(0) });
  const turned = (t: string, ...perm: number[]) => net.op("Transpose", [t], { perm: ints(perm) });
  const split = (...target: (number | string)[]) =>
    turned(net.op("Reshape", [net.linear(x, 8, width), sizes(...target)]), 0, 2, 1, 3);
  const q = split(2, count, heads, 4), k = split(2, -1, heads, 4), v = split(0, 0, heads, 4);
  const scores = net.op("MatMul", [q, turned(k, 0, 1, 3, 2)]);
  const folded = net.op("Softmax", [net.op("Reshape", [scores, sizes(2 * heads, count, count)])], { axis: int(-1) });
  const mixed = net.op("MatMul", [net.op("Reshape", [folded, sizes(2, heads, count, count)]), v]);
  const twice = net.op("Expand", [net.op("Unsqueeze", [mixed, net.ints(2)]), sizes(2, heads, 2, count, 4)]);
  const repeated = net.op("Reshape", [twice, sizes(2, 2 * heads, count, 4)]);
  const merged = net.op("Reshape", [turned(repeated, 0, 2, 1, 3), sizes(2, count, 2 * width)]);
  await sameOnAllRanks(net, net.finish(net.linear(merged, 2 * width, 8)));
});
