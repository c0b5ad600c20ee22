import assert from "node:assert/strict";
import { UnavailableError } from "../../core/errors.ts";
import { Libc } from "../../ffi/libc.ts";
import { AddressWindow } from "./address_window.ts";
import { ControlBlock, controlBlockBytes } from "./control_block.ts";
import { RendezvousError } from "./errors.ts";
import { joinSegment } from "./join.ts";
import { openNamedSegment } from "./shared_segment.ts";

const linux = { ignore: Deno.build.os !== "linux" };

Deno.test("a rank that waits in vain names the missing ranks and removes the file", linux, async () => {
  using setting = makeSetting();
  await assert.rejects(joinSegment({ ...setting, rank: 1, size: 4, timeoutMs: 120 }), (error) => {
    assert.ok(error instanceof RendezvousError);
    assert.match(error.message, /Rank 1 waited 0\.1 s for 4 ranks to join "world": missing 0, 2, 3/);
    assert.equal(error.exitCode, 116);
    return true;
  });
  assert.equal(setting.exists(), false);
});

Deno.test("a segment of another size, as a truncated one, is refused", linux, async () => {
  using setting = makeSetting();
  Deno.writeFileSync(setting.path, new Uint8Array(controlBlockBytes(2) - 100));
  await assert.rejects(
    joinSegment({ ...setting, rank: 0, size: 2, timeoutMs: 100 }),
    (error) => error instanceof UnavailableError && /it has \d+ bytes instead of \d+/.test(error.message),
  );
});

Deno.test("a segment with foreign content is refused", linux, async () => {
  using setting = makeSetting();
  Deno.writeFileSync(setting.path, new Uint8Array(controlBlockBytes(2)).fill(7));
  await assert.rejects(
    joinSegment({ ...setting, rank: 0, size: 2, timeoutMs: 100 }),
    /the shared file is of another program or version/,
  );
});

Deno.test("a segment that a killed job left is replaced", linux, async () => {
  using setting = makeSetting();
  const bytes = controlBlockBytes(1);
  // A pid that cannot be: the largest that Linux gives is 2^22.
  const left = openNamedSegment({
    ...setting,
    name: setting.file,
    bytes,
    inspect: (range) => {
      const control = new ControlBlock(range.buffer, range.byteOffset, 1);
      control.claim();
      control.register(0, { pid: 1 << 30, startTime: 1 });
      return "ours";
    },
  });
  using joined = await joinSegment({ ...setting, rank: 0, size: 1, timeoutMs: 1000 });
  assert.equal(joined.control.identity(0)!.pid, Deno.pid);
  left[Symbol.dispose]();
  assert.equal(setting.exists(), false);
});

Deno.test("a second process of the same rank is refused", linux, async () => {
  using setting = makeSetting();
  const first = joinSegment({ ...setting, rank: 0, size: 2, timeoutMs: 200 }).catch(() => {});
  await assert.rejects(
    joinSegment({ ...setting, rank: 0, size: 2, timeoutMs: 100 }),
    /as rank 0: process \d+ is that already/,
  );
  await first;
});

Deno.test("a file system without room is an error that says how much there is", linux, () => {
  using setting = makeSetting();
  const { total } = setting.libc.space("/dev/shm");
  assert.throws(
    () =>
      openNamedSegment({
        ...setting,
        name: setting.file,
        bytes: Math.ceil(total / 4096) * 4096 + 4096,
        inspect: () => "ours",
      }),
    (error) =>
      error instanceof UnavailableError &&
      /Cannot reserve \d+ bytes in \/dev\/shm: \d+ of \d+ bytes are free/.test(error.message),
  );
  assert.equal(setting.exists(), false);
});

Deno.test("a full /dev/shm is an error before anybody touches its memory", linux, async (t) => {
  using setting = makeSetting();
  const directory = Deno.makeTempDirSync();
  const mount = new Deno.Command("mount", { args: ["-t", "tmpfs", "-o", "size=8k", "tmpfs", directory] }).outputSync();
  try {
    await t.step({
      name: mount.success ? "on a tmpfs of 8 KB" : `left out: mount: ${new TextDecoder().decode(mount.stderr).trim()}`,
      ignore: !mount.success,
      fn: async () => {
        Deno.writeFileSync(`${directory}/other`, new Uint8Array(8192));
        await assert.rejects(
          joinSegment({ ...setting, directory, rank: 0, size: 64, timeoutMs: 100 }),
          (error) =>
            error instanceof UnavailableError &&
            /Cannot reserve \d+ bytes in .*: 0 of 8192 bytes are free/.test(error.message),
        );
        assert.deepEqual([...Deno.readDirSync(directory)].map((e) => e.name), ["other"]);
      },
    });
  } finally {
    if (mount.success) new Deno.Command("umount", { args: [directory] }).outputSync();
    Deno.removeSync(directory);
  }
});

Deno.test("a missing /dev/shm is an error that says so", linux, async () => {
  using setting = makeSetting();
  await assert.rejects(
    joinSegment({ ...setting, rank: 0, size: 1, timeoutMs: 100, directory: "/nowhere" }),
    (error) => error instanceof UnavailableError && error.hint === "mount a tmpfs on /dev/shm",
  );
});

function makeSetting() {
  const libc = new Libc();
  const runId = `test-${crypto.randomUUID().slice(0, 8)}`, file = `shardwise-${runId}-world`, path = `/dev/shm/${file}`;
  const exists = () => {
    try {
      return Deno.statSync(path).isFile;
    } catch {
      return false;
    }
  };
  const dispose = () => {
    libc.unlink(path);
    libc[Symbol.dispose]();
  };
  return { libc, window: new AddressWindow(libc), runId, name: "world", file, path, exists, [Symbol.dispose]: dispose };
}
