import assert from "node:assert/strict";
import { Libc } from "../../ffi/libc.ts";
import { AddressWindow } from "./address_window.ts";
import { Arena, ARENA_CHUNKS } from "./arena.ts";
import { ControlBlock, controlBlockBytes } from "./control_block.ts";
import { CollectiveMismatch } from "./errors.ts";

const linux = { ignore: Deno.build.os !== "linux" };

Deno.test("peers see what a rank writes, at the same place of every chunk", linux, () => {
  using two = makeArenas();
  const [a, b] = two.arenas;
  for (const bytes of [8, 100, 5_000_000, 64, 30_000_000]) {
    const x = a.alloc(bytes), y = b.alloc(bytes);
    assert.equal(x.local.byteOffset % 64, 0);
    assert.equal(x.byteLength, bytes);
    x.local[bytes - 1] = 7;
    y.local[0] = 9;
    assert.equal(y.peer(0)[bytes - 1], 7);
    assert.equal(x.peer(1)[0], 9);
    assert.equal(x.peer(0), x.local);
    assert.throws(() => x.peer(2), /Cannot use 2 as a rank: expected 0 to 1/);
  }
});

Deno.test("reset() gives the same memory again, and keeps the chunks", linux, () => {
  using two = makeArenas();
  const arena = two.arenas[0];
  arena.alloc(100);
  const mark = arena.mark();
  const first = arena.alloc(3_000_000), second = arena.alloc(3_000_000);
  const held = arena.partBytes;
  arena.reset(mark);
  assert.equal(arena.alloc(3_000_000).local.byteOffset, first.local.byteOffset);
  assert.equal(arena.alloc(3_000_000).local.byteOffset, second.local.byteOffset);
  assert.equal(arena.partBytes, held);
});

Deno.test("ranks that ask for different sizes get an error that names both", linux, () => {
  using two = makeArenas();
  const [a, b] = two.arenas;
  a.alloc(10_000_000);
  assert.throws(() => b.alloc(20_000_000), (error) => {
    assert.ok(error instanceof CollectiveMismatch);
    assert.match(error.message, /this rank needs 20000768 bytes, but the rank of pid \d+ made 10002432/);
    return true;
  });
});

Deno.test("a disposed arena gives its addresses back, and old views read zeros", linux, () => {
  const libc = new Libc(), window = new AddressWindow(libc);
  let offset: number | undefined;
  for (let round = 0; round < 3; round++) {
    const two = makeArenas(libc, window);
    const { local } = two.arenas[0].alloc(1000);
    local.fill(1);
    offset ??= local.byteOffset;
    assert.equal(local.byteOffset, offset);
    two[Symbol.dispose]();
    assert.deepEqual([...new Set(local)], [0]);
  }
});

Deno.test("nobody can truncate shared memory under a rank that reads it", linux, () => {
  using two = makeArenas();
  const buffer = two.arenas[0].alloc(1000);
  const mine = [...Deno.readDirSync("/proc/self/fd")].map((e) => `/proc/self/fd/${e.name}`).filter((path) => {
    try {
      return Deno.readLinkSync(path).startsWith("/memfd:shardwise-");
    } catch {
      return false; // the descriptor of the folder itself
    }
  });
  assert.ok(mine.length > 0);
  for (const path of mine) {
    assert.throws(() => Deno.truncateSync(path, 0));
    assert.throws(() => Deno.truncateSync(path, 2 ** 30));
  }
  buffer.local[999] = 1; // would end the process if it had been cut off
});

Deno.test("what does not fit the window is mapped outside it", linux, () => {
  using two = makeArenas();
  for (const arena of two.arenas) {
    const big = arena.alloc(3 * 2 ** 30); // two parts of 3 GiB; no page is touched but the last
    assert.equal(big.memory, undefined);
    big.local[big.byteLength - 1] = 1;
  }
});

/** The arenas of two ranks, both in this process. */
function makeArenas(libc = new Libc(), window = new AddressWindow(libc)) {
  const control = new ControlBlock(new ArrayBuffer(controlBlockBytes(2)), 0, 2);
  const check = () => {};
  const make = (rank: number) => new Arena({ libc, window, control, rank, label: "test", chunks: ARENA_CHUNKS, check });
  const arenas = [make(0), make(1)] as const;
  return { arenas, [Symbol.dispose]: () => arenas.forEach((arena) => arena[Symbol.dispose]()) };
}
