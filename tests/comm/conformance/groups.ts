/** New groups: split, subgroup, mesh; and errors that are told before anybody communicates. */
import type { Communicator } from "../../../src/runtime/comm/communicator.ts";
import type { Run } from "./cases.ts";

/** Groups of every kind, each with a sum that shows who is in it. */
export async function groupCases(run: Run): Promise<void> {
  const { comm } = run, { rank, size } = comm, ranks = Array.from({ length: size }, (_, r) => r);

  const half = (await comm.split(rank % 2, -rank))!; // the keys turn the order around
  const members = ranks.filter((r) => r % 2 === rank % 2).toReversed();
  run.same("the ranks of a split", half.ranks, members.map((r) => comm.ranks[r]));
  run.same("this rank in a split", half.rank, members.indexOf(rank));
  await sums(run, "a split", half, members);
  await half.close();

  const some = await comm.split(rank === 0 ? null : 1);
  if (rank === 0) run.same("a split without a color", some, null);
  else {
    await sums(run, "a split without rank 0", some!, ranks.slice(1));
    await some!.close();
  }

  const ends = size === 1 ? [0] : [size - 1, 0];
  if (ends.includes(rank)) {
    const pair = await comm.subgroup(ends);
    run.same("this rank in a subgroup", pair.rank, ends.indexOf(rank));
    await sums(run, "a subgroup", pair, ends);
    await pair.close();
  }

  const here = await comm.splitByHost();
  run.same("whether this rank is among those of its host", here.ranks[here.rank], comm.ranks[rank]);
  await sums(run, "the ranks of a host", here, here.ranks.map((r) => comm.ranks.indexOf(r)));
  await here.close();

  const rows = size % 2 === 0 ? 2 : 1;
  const mesh = await comm.mesh({ dp: rows, pp: 1, tp: -1 }, { combine: [["tp", "pp"]] });
  const columns = size / rows, { dp, tp } = mesh.coordinates as { dp: number; tp: number };
  run.same("the shape of a mesh", mesh.shape, { dp: rows, pp: 1, tp: columns });
  run.same("the coordinates of this rank", [dp, mesh.coordinates.pp, tp], [
    Math.floor(rank / columns),
    0,
    rank % columns,
  ]);
  run.same("the rank at this rank's coordinates", mesh.rankAt(mesh.coordinates), rank);
  run.same("the rank at the end of this row", mesh.rankAt({ tp: columns - 1 }), dp * columns + columns - 1);
  const row = ranks.filter((r) => Math.floor(r / columns) === dp), column = ranks.filter((r) => r % columns === tp);
  await sums(run, "axis tp", mesh.axis("tp"), row);
  await sums(run, "axis dp", mesh.axis("dp"), column);
  await sums(run, "axis pp", mesh.axis("pp"), [rank]);
  await sums(run, "axes pp and tp", mesh.axes(["tp", "pp"]), row);
  run.same("all axes together", mesh.axes(["dp", "pp", "tp"]) === comm, true);
  await mesh.close();

  await run.refused("a mesh of too many ranks", "InputError", () => comm.mesh({ a: size + 1 }));
  await run.refused("a mesh with two free axes", "InputError", () => comm.mesh({ a: -1, b: -1 }));
  await run.refused("a root outside", "InputError", () => comm.broadcast(new Float32Array(1), size));
  await run.refused("avg of integers", "InputError", () => comm.allReduce(new Int32Array(1), "avg"));
  await run.refused(
    "an output of another length",
    "InputError",
    () => comm.allReduce(new Float32Array(2), "sum", { recv: new Float32Array(3) }),
  );
  await run.refused(
    "an output of another dtype",
    "InputError",
    () => comm.allGather(new Float32Array(2), new Int32Array(2 * size)),
  );
  await run.refused("half a pair", "InputError", () => comm.allReduce(new Float32Array(3), "minloc"));
  const some4 = new Float32Array(4), wrong = "summ" as "sum";
  await run.refused("an unknown operation", "InputError", () => comm.allReduce(some4, wrong));
  await run.refused("an unknown operation, blocking", "InputError", () => comm.allReduceSync(some4, wrong));
  await run.refused("no factor", "InputError", () => comm.scan(some4, {} as { preMulSum: number } & "sum"));
  await run.refused("no buffer", "InputError", () => comm.allReduce(undefined as unknown as Float32Array));
  await run.refused("a list", "InputError", () => comm.allReduce([1, 2] as unknown as Float32Array));
  await run.refused("an unknown dtype", "InputError", () => comm.allocate([1], "f8e4m3" as "f32"));
  await run.refused("a shape that is none", "InputError", () => comm.allocate([2, -1], "f32"));
  await run.refused("more memory than any host has", "CommunicatorError", () => comm.allocate([1e9, 1e6], "f32"));
  await run.refused("more bytes than can be counted", "CommunicatorError", () => comm.allocate([1e9, 1e9], "f32"));
  await run.refused(
    "an output that overlaps its input",
    "InputError",
    () => comm.allReduce(some4.subarray(0, 3), "sum", { recv: some4.subarray(1) }),
  );
  run.same("whether it has a dtype that is none", comm.supports("f33" as "f32"), false);
  await run.refused("a value that cannot be copied", "InputError", () => comm.objects.allGather(() => 1));
  await run.refused("a time that is none", "InputError", () => comm.barrier({ timeoutMs: -1 }));
  await run.refused("a color that is none", "InputError", () => comm.split(0.5));
  await run.refused("a key that is none", "InputError", () => comm.split(0, NaN));
  await run.refused("an async group", "InputError", () => comm.group(async () => await Promise.resolve()));
  await run.refused(
    "blocks that overlap",
    "InputError",
    () =>
      comm.allGather(new Float32Array(1), new Float32Array(1), { displs: Array.from(ranks, () => size > 1 ? 0 : 1) }),
  );
  await comm.barrier();
}

async function sums(run: Run, what: string, group: Communicator, members: readonly number[]): Promise<void> {
  const x = Float32Array.of(run.comm.rank + 1);
  await group.allReduce(x);
  run.same(`the sum over ${what}`, x[0], members.reduce((sum, r) => sum + r + 1, 0));
}
