import assert from "node:assert/strict";
import { cudaVersion, ncclVersion, probeLibraries } from "./probe.ts";

Deno.test("probeLibraries() finds the C library with its version and its file", () => {
  const libc = probeLibraries().find((l) => l.name === "libc")!;
  assert.ok(libc.found, libc.problem);
  assert.match(libc.path ?? "", /libc|musl/);
  if (libc.path!.includes("libc.so.6")) assert.match(libc.version ?? "", /^glibc 2\.\d+/);
});

Deno.test("probeLibraries() says what it tried for a library that is not there", () => {
  Deno.env.set("SHARDWISE_LIBNCCL", "/no/such/libnccl.so");
  try {
    const nccl = probeLibraries().find((l) => l.name === "libnccl")!;
    assert.equal(nccl.found, false);
    assert.deepEqual(nccl.tried, ["/no/such/libnccl.so"]);
    assert.match(
      nccl.problem ?? "",
      /Cannot open libnccl: none of these loads\n +no such file: \/no\/such\/libnccl.so/,
    );
  } finally {
    Deno.env.delete("SHARDWISE_LIBNCCL");
  }
});

Deno.test("version numbers of CUDA and NCCL are read in both of NCCL's schemes", () => {
  assert.equal(cudaVersion(12040), "12.4");
  assert.equal(cudaVersion(13000), "13.0");
  assert.equal(ncclVersion(22707), "2.27.7");
  assert.equal(ncclVersion(2708), "2.7.8");
});
