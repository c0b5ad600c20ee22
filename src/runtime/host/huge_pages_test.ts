import assert from "node:assert/strict";
import { Libc } from "../../ffi/libc.ts";
import { anonymousMappings, moveToHugePages } from "./huge_pages.ts";

const SMAPS = `55d0c0000000-55d0c0021000 rw-p 00000000 00:00 0                          [heap]
Size:                132 kB
Rss:                 120 kB
AnonHugePages:         0 kB
VmFlags: rd wr mr mw me ac sd
7f0000000000-7f0000800000 rw-p 00000000 00:00 0 
Size:               8192 kB
Rss:                8188 kB
AnonHugePages:      4096 kB
VmFlags: rd wr mr mw me ac sd
7f1000000000-7f1000800000 rw-p 00000000 00:00 0                          [stack]
Size:               8192 kB
Rss:                8192 kB
AnonHugePages:         0 kB
7f2000000000-7f2000800000 rw-p 00000000 08:01 1234                       /lib/libonnxruntime.so.1
Size:               8192 kB
Rss:                8192 kB
AnonHugePages:         0 kB
7f3000000000-7f3000800000 rw-s 00000000 00:01 99                         /dev/shm/arena
Size:               8192 kB
Rss:                8192 kB
AnonHugePages:         0 kB
7f4000000000-7f4000800000 ---p 00000000 00:00 0 
Size:               8192 kB
Rss:                   0 kB
AnonHugePages:         0 kB
`;

Deno.test("anonymousMappings() finds private memory without a file, and how much of it is there", () => {
  assert.deepEqual(anonymousMappings(SMAPS), [
    { address: 0x55d0c0000000n, size: 132 << 10, resident: 120 << 10, huge: 0 },
    { address: 0x7f0000000000n, size: 8 << 20, resident: 8188 << 10, huge: 4 << 20 },
  ]);
});

Deno.test("moveToHugePages() leaves all bytes as they are, and has nothing to do a second time", {
  ignore: Deno.build.os !== "linux",
}, () => {
  using libc = new Libc();
  const bytes = new Uint8Array(32 << 20);
  for (let i = 0; i < bytes.length; i++) bytes[i] = i * 7;
  const moved = moveToHugePages(libc);
  let wrong = 0;
  for (let i = 0; i < bytes.length; i++) wrong += Number(bytes[i] !== (i * 7 & 255));
  assert.equal(wrong, 0);
  // Older kernels, and machines without a free huge page, move nothing.
  const again = moveToHugePages(libc);
  assert.ok(again <= moved, `moved ${moved} bytes, then ${again}`);
});
