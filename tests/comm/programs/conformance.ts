// deno-lint-ignore-file no-console -- a rank reports to its test by its output
// Every verb on every dtype, operation and size, against a plain reference that each rank computes from all ranks' inputs.
// Throws at the first difference; prints the number of cases and a hash of all results that must be equal on all ranks.
import { createHash } from "node:crypto";
import { byteLength } from "../../../src/core/dtype.ts";
import {
  COMM_DTYPES,
  type CommDType,
  REDUCE_OPS,
  symmetricView,
  type TypedBuffer,
} from "../../../src/runtime/comm/buffers.ts";
import { init } from "../../../src/runtime/comm/init.ts";
import { decode, encode, inputOf, reduceReference, type Values } from "./reference.ts";

const comm = await init();
const { rank, size } = comm;
const LARGE = size > 4 ? 40_000 : 100_000; // more ranks than that have as many bytes in all
const hash = createHash("sha256");
let cases = 0;

for (const n of [0, 1, 3, size > 4 ? 257 : 1023, LARGE]) {
  // The largest size takes another way through the code, but the loops are the same: a wide and a narrow dtype are enough.
  for (const dtype of n === LARGE ? ["f32", "u8"] as const : COMM_DTYPES) {
    const inputs = Array.from({ length: size }, (_, r) => inputOf(dtype, n, r));
    const blocks = Array.from({ length: size }, (_, r) => inputOf(dtype, n * size, r + 100));
    for (const op of REDUCE_OPS) {
      if (!comm.supports(dtype, op) || (n === LARGE && op !== "sum")) continue;
      // More ranks cost more to check, and differ in nothing that depends on the operation: every third combination is enough.
      if (size > 3 && n > 3 && op !== "sum" && (COMM_DTYPES.indexOf(dtype) + REDUCE_OPS.indexOf(op)) % 3 !== 0) {
        continue;
      }
      await reductions(dtype, op, inputs, blocks);
    }
    await moves(dtype, inputs, blocks);
  }
}
await objects();
await comm.close();
console.log(JSON.stringify({ cases, hash: hash.digest("hex") }));

async function reductions(
  dtype: CommDType,
  op: typeof REDUCE_OPS[number],
  inputs: Values[],
  blocks: Values[],
): Promise<void> {
  const n = inputs[0]!.length, root = n % size;
  const expected = reduceReference(dtype, op, inputs);
  const x = buffer(dtype, inputs[rank]!);
  await comm.allReduce(x, op);
  equal(`allReduce ${op}`, x, expected);
  hash.update(new Uint8Array(x.data.buffer, x.data.byteOffset, x.data.byteLength));

  const send = buffer(dtype, inputs[rank]!), recv = empty(dtype, n);
  comm.allReduce(send, op, { recv }).waitSync();
  equal(`allReduce ${op} into recv`, recv, expected);
  equal(`the input of allReduce ${op} into recv`, send, inputs[rank]!);

  const few = buffer(dtype, inputs[rank]!);
  comm.allReduceSync(dtype === "bf16" || dtype === "bool" ? few : few.data as Float32Array, op);
  equal(`allReduceSync ${op}`, few, expected);
  hash.update(new Uint8Array(few.data.buffer, few.data.byteOffset, few.data.byteLength));

  const mark = comm.arena.mark();
  const symmetric = symmetricView(comm.arena.alloc(byteLength(dtype, n)), dtype, n);
  fill(symmetric, inputs[rank]!);
  await comm.allReduce(symmetric, op, { recv });
  equal(`allReduce ${op} symmetric into recv`, recv, expected);
  await comm.allReduce(symmetric, op);
  equal(`allReduce ${op} symmetric`, symmetric, expected);
  comm.arena.reset(mark);

  const y = buffer(dtype, inputs[rank]!);
  await comm.reduce(y, root, op);
  equal(`reduce ${op}`, y, rank === root ? expected : inputs[rank]!);

  const mine = (all: Values) => all.slice(rank * n, (rank + 1) * n);
  await comm.reduceScatter(buffer(dtype, blocks[rank]!), recv, op);
  equal(`reduceScatter ${op}`, recv, reduceReference(dtype, op, blocks.map(mine)));

  const z = buffer(dtype, inputs[rank]!);
  await comm.scan(z, op);
  equal(`scan ${op}`, z, reduceReference(dtype, op, inputs.slice(0, rank + 1)));
  const e = buffer(dtype, inputs[rank]!);
  await comm.scan(e, op, { exclusive: true });
  equal(`scan ${op} exclusive`, e, rank === 0 ? inputs[0]! : reduceReference(dtype, op, inputs.slice(0, rank)));
}

/** The verbs that only move elements. */
async function moves(dtype: CommDType, inputs: Values[], blocks: Values[]): Promise<void> {
  const n = inputs[0]!.length, root = (n + 1) % size;
  const x = buffer(dtype, inputs[rank]!);
  await comm.broadcast(x, root);
  equal("broadcast", x, inputs[root]!);

  const all = empty(dtype, n * size);
  await comm.allGather(buffer(dtype, inputs[rank]!), all);
  equal("allGather", all, inputs.flat());
  const inPlace = buffer(
    dtype,
    inputs.flatMap((v, r) => r === rank ? v : v.map((e) => typeof e === "bigint" ? 0n : 0)),
  );
  const bytes = byteLength(dtype, n);
  const own = { data: new Uint8Array(inPlace.data.buffer, inPlace.data.byteOffset + rank * bytes, bytes), dtype };
  await comm.allGather(own, inPlace);
  equal("allGather in place", inPlace, inputs.flat());

  const counts = inputs.map((_, r) => Math.floor(n * r / size)), parts = inputs.map((v, r) => v.slice(0, counts[r]));
  const uneven = empty(dtype, parts.flat().length);
  await comm.allGather(buffer(dtype, parts[rank]!), uneven, { counts });
  equal("allGather of unequal parts", uneven, parts.flat());

  const gathered = empty(dtype, n * size);
  await comm.gather(buffer(dtype, inputs[rank]!), rank === root ? gathered : null, root);
  if (rank === root) equal("gather", gathered, inputs.flat());

  const mine = (values: Values) => values.slice(rank * n, (rank + 1) * n);
  const recv = empty(dtype, n);
  await comm.scatter(rank === root ? buffer(dtype, blocks[root]!) : null, recv, root);
  equal("scatter", recv, mine(blocks[root]!));

  await comm.allToAll(buffer(dtype, blocks[rank]!), all);
  equal("allToAll", all, blocks.flatMap(mine));
  // Rank r and rank q exchange n·(r+q)/(2·size) elements each way, so that both know the counts.
  const between = (r: number) => inputs.map((_, q) => Math.floor(n * (r + q) / (2 * size)));
  const start = (r: number) => sum(between(r).slice(0, rank));
  const sendCounts = between(rank), total = sum(sendCounts), mixed = empty(dtype, total);
  await comm.allToAll(buffer(dtype, blocks[rank]!.slice(0, total)), mixed, { sendCounts, recvCounts: sendCounts });
  equal("allToAll of unequal parts", mixed, blocks.flatMap((b, r) => b.slice(start(r), start(r) + between(r)[rank]!)));
}

async function objects(): Promise<void> {
  const value = (r: number) => ({ r, big: 1n << 80n, text: "x".repeat(r * 200_000), map: new Map([[r, [1, 2]]]) });
  const everyone = Array.from({ length: size }, (_, r) => value(r)), last = size - 1;
  same("objects.allGather", await comm.objects.allGather(value(rank)), everyone);
  same("objects.gather", await comm.objects.gather(value(rank), last), rank === last ? everyone : null);
  same("objects.broadcast", await comm.objects.broadcast(rank === last ? value(7) : undefined, last), value(7));
  same("objects.scatter", await comm.objects.scatter(rank === 0 ? everyone : null, 0), value(rank));
}

function buffer(dtype: CommDType, values: Values): TypedBuffer {
  return { data: encode(dtype, values), dtype };
}

function empty(dtype: CommDType, n: number): TypedBuffer {
  return buffer(dtype, inputOf(dtype, n, 999)); // not zeros, so that an element left out shows
}

function fill(target: TypedBuffer, values: Values): void {
  const { buffer, byteOffset, byteLength } = encode(target.dtype, values);
  (target.data as Uint8Array).set(new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength));
}

function equal(what: string, found: TypedBuffer, expected: Values): void {
  cases++;
  const { data, dtype } = found;
  const like = encode(dtype, expected.slice(0, 0)).constructor as {
    new (b: ArrayBufferLike, o: number, n: number): ArrayBufferView;
  };
  const values = decode(dtype, new like(data.buffer, data.byteOffset, data.byteLength / byteLength(dtype, 1)));
  if (values.length !== expected.length) {
    throw new Error(`${what} ${dtype}: ${values.length} elements, expected ${expected.length}`);
  }
  const at = values.findIndex((v, i) => !Object.is(v, expected[i]));
  if (at < 0) return;
  throw new Error(
    `${what} ${dtype}[${values.length}] of ${size} ranks: element ${at} is ${values[at]}, expected ${expected[at]}`,
  );
}

function same(what: string, found: unknown, expected: unknown): void {
  const text = (v: unknown) => Deno.inspect(v, { depth: 9, strAbbreviateSize: Infinity });
  if (text(found) !== text(expected)) {
    throw new Error(`${what}: ${text(found).slice(0, 500)}, expected ${text(expected).slice(0, 500)}`);
  }
}

function sum(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0);
}
