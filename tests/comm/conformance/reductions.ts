/** Every verb that reduces, in place and out of place, aligned and not. */
import { byteLength } from "../../../src/core/dtype.ts";
import type { CommDType, ReduceOp, ReduceOpName } from "../../../src/runtime/comm/buffers.ts";
import type { Run } from "./cases.ts";
import { premultiply } from "./reference.ts";
import { bufferOf, bytesIn, bytesOf, garbage, reduced, type Source, source } from "./tensors.ts";

/** `op` on `n` elements of `dtype` a rank. */
export async function reductionCases(
  run: Run,
  o: { readonly dtype: CommDType; readonly n: number; readonly op: ReduceOpName },
): Promise<void> {
  const { dtype, op } = o, { size } = run.comm;
  const n = op === "minloc" || op === "maxloc" ? o.n - o.n % 2 : o.n; // they take pairs
  const inputs = Array.from({ length: size }, (_, r) => operand(op, dtype, n, r));
  await allReduces(run, { dtype, n, op, reduce: op, inputs, expected: reduced(op, inputs) });
  await scans(run, { dtype, n, op, inputs });
  await reduceScatters(run, { dtype, n, op });
  if (op === "sum" && run.comm.supports(dtype, { preMulSum: 1 })) {
    const factor = (r: number) => 0.3 + r / 3;
    const products = inputs.map((s, r): Source => ({ ...s, base: premultiply(dtype, s.base, factor(r)) }));
    const scaled: ReduceOp = { preMulSum: factor(run.comm.rank) };
    await allReduces(
      run,
      { dtype, n, op: scaled, reduce: "sum", inputs, expected: reduced("sum", products) },
    );
  }
}

/** What `op` is given: of pairs, indices that can be compared, some of them equal. */
function operand(op: ReduceOpName, dtype: CommDType, n: number, seed: number): Source {
  const all = source(dtype, n, seed);
  if (op !== "minloc" && op !== "maxloc") return all;
  const index = (i: number) => (i * 3 + seed) % 5;
  return {
    ...all,
    base: all.base.map((v, i) => i % 2 === 0 ? v : typeof v === "bigint" ? BigInt(index(i)) : index(i)),
  };
}

interface Case {
  readonly dtype: CommDType;
  readonly n: number;
  readonly op: ReduceOp;
  /** What it does once the inputs are multiplied. */
  readonly reduce: ReduceOpName;
  readonly inputs: readonly Source[];
  readonly expected: Source;
}

async function allReduces(run: Run, c: Case): Promise<void> {
  const { comm } = run, { dtype, n, op } = c, { rank, size } = comm;
  const mine = bytesOf(c.inputs[rank]!), expected = bytesOf(c.expected), root = n % size;
  const near = { tolerance: { terms: 2 * size + 2 }, inputs: run.exact ? [] : c.inputs.map((s) => bytesOf(s)) };
  const name = (verb: string) => `${verb} ${typeof op === "string" ? op : "preMulSum"} of ${n}`;
  if (run.supports("allReduce", dtype, op)) {
    for (const aligned of [true, false]) {
      const x = bufferOf(dtype, mine, aligned);
      await comm.allReduce(x, op);
      run.equal(name("allReduce"), x, expected, near);
      run.note(x);
      const send = bufferOf(dtype, mine, aligned), recv = garbage(dtype, n, !aligned);
      comm.allReduce(send, op, { recv }).waitSync();
      run.equal(name("allReduce into recv"), recv, expected, near);
      run.equal(name("the input of allReduce into recv"), send, mine);
      const few = bufferOf(dtype, mine, aligned);
      comm.allReduceSync(asArray(few.data, dtype, n) ?? few, op);
      run.equal(name("allReduceSync"), few, expected, near);
      run.note(few);
    }
    const mark = comm.arena.mark(), symmetric = comm.allocate([n], dtype), recv = garbage(dtype, n);
    bytesIn(symmetric).set(mine);
    await comm.allReduce(symmetric, op, { recv });
    run.equal(name("allReduce symmetric into recv"), recv, expected, near);
    run.equal(name("the input of allReduce symmetric into recv"), symmetric, mine);
    await comm.allReduce(symmetric, op);
    run.equal(name("allReduce symmetric"), symmetric, expected, near);
    comm.arena.reset(mark);
  }
  if (run.supports("reduce", dtype, op)) {
    const y = bufferOf(dtype, mine, false), recv = garbage(dtype, n);
    await comm.reduce(y, root, op);
    run.equal(name("reduce"), y, rank === root ? expected : mine, near);
    await comm.reduce(bufferOf(dtype, mine), root, op, rank === root ? { recv } : {});
    if (rank === root) run.equal(name("reduce into recv"), recv, expected, near);
  }
}

async function scans(run: Run, c: Omit<Case, "reduce" | "expected"> & { readonly op: ReduceOpName }): Promise<void> {
  const { comm } = run, { dtype, n, op } = c, { rank } = comm;
  if (!run.supports("scan", dtype, op)) return;
  const mine = bytesOf(c.inputs[rank]!),
    near = { tolerance: { terms: 2 * comm.size }, inputs: c.inputs.map((s) => bytesOf(s)) };
  const until = (end: number) => bytesOf(reduced(op, c.inputs.slice(0, end)));
  const z = bufferOf(dtype, mine, false);
  await comm.scan(z, op);
  run.equal(`scan ${op} of ${n}`, z, until(rank + 1), near);
  const recv = garbage(dtype, n), before = bytesIn(recv).slice();
  await comm.scan(bufferOf(dtype, mine), op, { recv });
  run.equal(`scan ${op} of ${n} into recv`, recv, until(rank + 1), near);
  const e = bufferOf(dtype, mine);
  await comm.scan(e, op, { exclusive: true });
  run.equal(`exclusive scan ${op} of ${n}`, e, rank === 0 ? mine : until(rank), near);
  bytesIn(recv).set(before);
  await comm.scan(bufferOf(dtype, mine), op, { exclusive: true, recv });
  run.equal(`exclusive scan ${op} of ${n} into recv`, recv, rank === 0 ? before : until(rank), near);
}

async function reduceScatters(run: Run, c: { dtype: CommDType; n: number; op: ReduceOpName }): Promise<void> {
  const { comm } = run, { dtype, n, op } = c, { rank, size } = comm;
  if (!run.supports("reduceScatter", dtype, op)) return;
  const pairs = op === "minloc" || op === "maxloc";
  const even = Array.from({ length: size }, () => n);
  const uneven = even.map((_, r) => Math.floor(n * (r + 1) / size / 2) * 2 + (pairs ? 0 : r % 2));
  for (const counts of [even, uneven]) {
    const block = (from: number, to: number) => operand(op, dtype, counts[to]!, 100 * (from + 1) + to);
    const blocks = even.map((_, from) => bytesOf(block(from, rank)));
    const expected = bytesOf(reduced(op, even.map((_, from) => block(from, rank))));
    const near = { tolerance: { terms: 2 * size + 2 }, inputs: blocks };
    const all = bytesOf(...counts.map((_, to) => block(rank, to)));
    const recv = garbage(dtype, counts[rank]!, false), options = counts === even ? {} : { counts };
    const send = bufferOf(dtype, all);
    await comm.reduceScatter(send, recv, op, options);
    run.equal(`reduceScatter ${op} of ${counts}`, recv, expected, near);
    run.equal(`the input of reduceScatter ${op} of ${counts}`, send, all);
    // In place: the result replaces this rank's block.
    const at = byteLength(dtype, counts.slice(0, rank).reduce((a, b) => a + b, 0));
    const own = { dtype, data: bytesIn(send).subarray(at, at + byteLength(dtype, counts[rank]!)) };
    await comm.reduceScatter(send, own, op, options);
    run.equal(`reduceScatter ${op} of ${counts} in place`, own, expected, near);
  }
}

/** What the fast way for a few numbers knows. */
function asArray(data: ArrayBufferView, dtype: CommDType, n: number) {
  const arrays = { f32: Float32Array, f64: Float64Array, i32: Int32Array } as const;
  const array = arrays[dtype as keyof typeof arrays] as typeof Float32Array | undefined;
  return array && new array(data.buffer as ArrayBuffer, data.byteOffset, n);
}
