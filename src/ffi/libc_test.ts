import assert from "node:assert/strict";
import { ENOENT, Libc, LibcError, O_CREAT, O_RDONLY, O_RDWR, PROT_READ } from "./libc.ts";

const linux = { ignore: Deno.build.os !== "linux" };

Deno.test("open() of a missing file throws with the errno and its meaning", linux, () => {
  using libc = new Libc();
  assert.throws(() => libc.open("/nowhere/file", O_RDONLY), (error) => {
    assert.ok(error instanceof LibcError);
    assert.equal(error.errno, ENOENT);
    assert.equal(error.message, "Cannot open /nowhere/file: ENOENT, no such file");
    return true;
  });
});

Deno.test("two mappings of a memory file show the same bytes", linux, () => {
  using libc = new Libc();
  using file = libc.memoryFile("test", 8192);
  using a = libc.map(file, 8192);
  using b = libc.map(file, 4096, { offset: 4096, protection: PROT_READ });
  new Uint8Array(a.buffer)[4096 + 7] = 42;
  assert.equal(new Uint8Array(b.buffer)[7], 42);
  assert.equal(libc.status(file).bytes, 8192);
});

Deno.test("allocate() fails where there is no room, instead of the first write", linux, () => {
  using libc = new Libc();
  const { total } = libc.space("/dev/shm");
  const path = `/dev/shm/shardwise-test-${crypto.randomUUID()}`;
  using file = libc.open(path, O_RDWR | O_CREAT);
  libc.unlink(path);
  assert.throws(() => libc.allocate(file, total + 4096), /reserve \d+ bytes of shared memory: ENOSPC/);
});

Deno.test("unlink() removes a name once, and status() tells", linux, () => {
  using libc = new Libc();
  const path = `/dev/shm/shardwise-test-${crypto.randomUUID()}`;
  using file = libc.open(path, O_RDWR | O_CREAT);
  assert.equal(libc.status(file).links, 1);
  assert.equal(libc.unlink(path), true);
  assert.equal(libc.unlink(path), false);
  assert.equal(libc.status(file).links, 0);
});

Deno.test("futexWait() returns at once when the word has changed, and sleeps for its time otherwise", linux, () => {
  using libc = new Libc();
  const word = new Int32Array([5]);
  let start = performance.now();
  libc.futexWait(word, 4, 5000);
  assert.ok(performance.now() - start < 1000);
  start = performance.now();
  libc.futexWait(word, 5, 30);
  assert.ok(performance.now() - start >= 29);
});

Deno.test("futexWake() wakes a sleeper on the thread pool, while JavaScript goes on", linux, async () => {
  using libc = new Libc();
  const word = new Int32Array(1);
  const start = performance.now();
  const sleeping = libc.futexWaitAsync(word, 0, 10_000);
  let woken = 0;
  while (woken === 0 && performance.now() - start < 5000) {
    await new Promise((resolve) => setTimeout(resolve, 5));
    woken = libc.futexWake(word);
  }
  await sleeping;
  assert.equal(woken, 1);
  assert.ok(performance.now() - start < 5000);
});

Deno.test("affinity() counts the CPUs that this process may use", linux, () => {
  using libc = new Libc();
  const allowed = /Cpus_allowed:\s*([\da-f,]+)/.exec(Deno.readTextFileSync("/proc/self/status"))![1]!;
  const bits = [...allowed.replaceAll(",", "")].reduce(
    (sum, digit) => sum + parseInt(digit, 16).toString(2).replaceAll("0", "").length,
    0,
  );
  assert.equal(libc.affinity(), bits);
});
