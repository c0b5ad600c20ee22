/** Every verb that only moves elements. */
import { byteLength } from "../../../src/core/dtype.ts";
import type { CommDType, TypedBuffer } from "../../../src/runtime/comm/buffers.ts";
import type { Run } from "./cases.ts";
import { bufferOf, bytesIn, bytesOf, garbage, source } from "./tensors.ts";

/** `n` elements of `dtype` a rank, or fewer where ranks may differ. */
export async function moveCases(run: Run, dtype: CommDType, n: number): Promise<void> {
  const { comm } = run, { rank, size } = comm;
  const inputs = Array.from({ length: size }, (_, r) => source(dtype, n, r)), mine = bytesOf(inputs[rank]!);
  const uneven = inputs.map((_, r) => Math.floor(n * r / size) + r % 2);
  const parts = uneven.map((count, r) => source(dtype, count, r + 50)), part = bytesOf(parts[rank]!);
  const all = bytesOf(...inputs), allParts = bytesOf(...parts), root = (n + 1) % size, total = allParts.length;
  const elements = (bytes: number) => bytes / byteLength(dtype, 1);

  if (run.supports("broadcast", dtype)) {
    for (const aligned of [true, false]) {
      const x = bufferOf(dtype, mine, aligned);
      await comm.broadcast(x, root);
      run.equal(`broadcast of ${n}`, x, bytesOf(inputs[root]!));
      run.note(x);
    }
  }

  if (run.supports("allGather", dtype)) {
    const recv = garbage(dtype, n * size);
    await comm.allGather(bufferOf(dtype, mine, false), recv);
    run.equal(`allGather of ${n}`, recv, all);
    run.note(recv);
    const inPlace = garbage(dtype, n * size, false), own = block(inPlace, rank * n, n);
    bytesIn(own).set(mine);
    await comm.allGather(own, inPlace);
    run.equal(`allGather of ${n} in place`, inPlace, all);
    const unequal = garbage(dtype, elements(total));
    await comm.allGather(bufferOf(dtype, part), unequal, { counts: uneven });
    run.equal(`allGather of ${uneven}`, unequal, allParts);
  }

  if (run.supports("gather", dtype)) {
    const recv = garbage(dtype, n * size, false);
    await comm.gather(bufferOf(dtype, mine), rank === root ? recv : null, root);
    if (rank === root) run.equal(`gather of ${n}`, recv, all);
    const inPlace = garbage(dtype, n * size), own = block(inPlace, rank * n, n);
    bytesIn(own).set(mine);
    await comm.gather(own, rank === root ? inPlace : null, root);
    if (rank === root) run.equal(`gather of ${n} in place`, inPlace, all);
    const unequal = garbage(dtype, elements(total));
    await comm.gather(bufferOf(dtype, part), rank === root ? unequal : null, root, { counts: uneven });
    if (rank === root) run.equal(`gather of ${uneven}`, unequal, allParts);
  }

  if (run.supports("scatter", dtype)) {
    const recv = garbage(dtype, n, false), send = bufferOf(dtype, all);
    await comm.scatter(rank === root ? send : null, recv, root);
    run.equal(`scatter of ${n}`, recv, mine);
    const own = rank === root ? block(send, rank * n, n) : garbage(dtype, n);
    await comm.scatter(rank === root ? send : null, own, root);
    run.equal(`scatter of ${n} in place`, own, mine);
    const unequal = garbage(dtype, uneven[rank]!);
    await comm.scatter(rank === root ? bufferOf(dtype, allParts, false) : null, unequal, root, { counts: uneven });
    run.equal(`scatter of ${uneven}`, unequal, part);
  }

  if (run.supports("allToAll", dtype)) await exchanges(run, dtype, n);
  if (n <= 3) await apart(run, dtype, { n, parts: parts.map((p) => bytesOf(p)), root });
}

/** Blocks with displacements: in the ranks' order turned around, with one element before each that nobody touches. */
async function apart(
  run: Run,
  dtype: CommDType,
  o: { readonly n: number; readonly parts: readonly Uint8Array[]; readonly root: number },
): Promise<void> {
  const { comm } = run, { rank, size } = comm, { parts, root } = o, item = byteLength(dtype, 1);
  const counts = parts.map((p) => p.length / item), displs = counts.map(() => 0);
  let end = 0;
  for (let r = size - 1; r >= 0; r--) end = (displs[r] = end + 1) + counts[r]!;
  const laidOut = (into: TypedBuffer) => {
    const bytes = bytesIn(into).slice();
    parts.forEach((p, r) => bytes.set(p, displs[r]! * item));
    return bytes;
  };
  const recv = garbage(dtype, end, false), expected = laidOut(recv);
  if (run.supports("allGather", dtype)) {
    await comm.allGather(bufferOf(dtype, parts[rank]!), recv, { counts, displs });
    run.equal(`allGather of ${counts} to ${displs}`, recv, expected);
  }
  if (run.supports("gather", dtype)) {
    const into = garbage(dtype, end), wanted = laidOut(into);
    await comm.gather(bufferOf(dtype, parts[rank]!), rank === root ? into : null, root, { counts, displs });
    if (rank === root) run.equal(`gather of ${counts} to ${displs}`, into, wanted);
  }
  if (run.supports("scatter", dtype)) {
    const own = garbage(dtype, counts[rank]!);
    await comm.scatter(rank === root ? bufferOf(dtype, expected) : null, own, root, { counts, displs });
    run.equal(`scatter of ${counts} from ${displs}`, own, parts[rank]!);
  }
  if (run.supports("allToAll", dtype)) {
    // Every rank sends its whole part to each, from one place; blocks that are read may overlap.
    const same = counts.map(() => counts[rank]!), into = garbage(dtype, end), wanted = laidOut(into);
    const options = { sendCounts: same, sendDispls: same.map(() => 0), recvCounts: counts, recvDispls: displs };
    await comm.allToAll(bufferOf(dtype, parts[rank]!, false), into, options);
    run.equal(`allToAll of ${counts} to ${displs}`, into, wanted);
  }
}

async function exchanges(run: Run, dtype: CommDType, n: number): Promise<void> {
  const { comm } = run, { rank, size } = comm, ranks = Array.from({ length: size }, (_, r) => r);
  const block = (from: number, to: number, count: number) => source(dtype, count, 100 * (from + 1) + to);
  const sent = bytesOf(...ranks.map((to) => block(rank, to, n)));
  const expected = bytesOf(...ranks.map((from) => block(from, rank, n)));
  const recv = garbage(dtype, n * size, false);
  await comm.allToAll(bufferOf(dtype, sent), recv);
  run.equal(`allToAll of ${n}`, recv, expected);
  const inPlace = bufferOf(dtype, sent);
  await comm.allToAll(inPlace, inPlace);
  run.equal(`allToAll of ${n} in place`, inPlace, expected);
  // Unlike in both directions, and nothing at all for some.
  const count = (from: number, to: number) => Math.floor(n * ((from * 2 + to * 3) % (size + 1)) / (size + 1));
  const sendCounts = ranks.map((to) => count(rank, to)), recvCounts = ranks.map((from) => count(from, rank));
  const mixed = garbage(dtype, recvCounts.reduce((a, b) => a + b, 0));
  const from = bufferOf(dtype, bytesOf(...ranks.map((to) => block(rank, to, sendCounts[to]!))), false);
  await comm.allToAll(from, mixed, { sendCounts, recvCounts });
  run.equal(`allToAll of unequal parts of ${n}`, mixed, bytesOf(...ranks.map((r) => block(r, rank, recvCounts[r]!))));
}

/** `n` elements of `buffer`, in place. */
function block({ dtype, data }: TypedBuffer, from: number, n: number): TypedBuffer {
  const at = byteLength(dtype, from);
  return { dtype, data: bytesIn({ dtype, data }).subarray(at, at + byteLength(dtype, n)) };
}
