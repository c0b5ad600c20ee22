/**
 * Ping-pong: how long a message takes from one rank to another and back, by its length; then a token once around the ring.
 *
 *     deno task launch --nproc 2 examples/mpi_ping_pong.ts
 */
// deno-lint-ignore-file no-console
import { init } from "../src/runtime/comm/init.ts";

await using comm = await init();
const { rank, size } = comm;
if (size < 2) throw new Error("Cannot play ping-pong alone: start at least 2 ranks");

for (const bytes of [8, 1024, 65536, 1 << 20]) {
  const ball = new Uint8Array(bytes), rounds = bytes > 65536 ? 20 : 200;
  await comm.barrier();
  const start = performance.now();
  for (let i = 0; i < rounds; i++) {
    if (rank === 0) {
      comm.send(ball, 1).waitSync();
      comm.recv(ball, 1).waitSync();
    } else if (rank === 1) {
      comm.recv(ball, 0).waitSync();
      comm.send(ball, 0).waitSync();
    }
  }
  const us = (performance.now() - start) * 1000 / rounds / 2;
  if (rank === 0) {
    console.log(`${`${bytes}`.padStart(8)} bytes: ${us.toFixed(1)} µs one way, ${(bytes / us).toFixed(0)} MB/s`);
  }
}

const token = Int32Array.of(0);
if (rank > 0) await comm.recv(token, rank - 1);
token[0]! += rank;
await comm.send(token, (rank + 1) % size);
if (rank === 0) {
  await comm.recv(token, size - 1);
  console.log(`the token went around ${size} ranks and collected ${token[0]}`);
}
await comm.close();
