/** The barrier of one rank, over memory of this process. */
import assert from "node:assert/strict";
import { Libc } from "../../ffi/libc.ts";
import { FlagBarrier } from "./barrier.ts";
import { ControlBlock, controlBlockBytes } from "./control_block.ts";

Deno.test("a rank that leaves while it sleeps is counted no more, and leaves alone what its memory becomes", async () => {
  using libc = new Libc();
  const control = new ControlBlock(new ArrayBuffer(controlBlockBytes(2)), 0, 2);
  const barrier = new FlagBarrier(control, libc, { rank: 0, spin: false });
  const sleepers = () => control.words[control.sleepersIndex];
  barrier.arrive(7);
  const slept = barrier.sleep(() => barrier.passed());
  assert.equal(sleepers(), 1);
  barrier[Symbol.dispose]();
  assert.equal(sleepers(), 0);
  control.words.fill(0); // another group's from here on
  await slept;
  assert.equal(sleepers(), 0);
});
