import assert from "node:assert/strict";
import { advise, readableBytes, usableCpus } from "./advice.ts";
import type { LibraryFound } from "./host_report.ts";
import type { Cpus, Gpus, Memory } from "./machine.ts";

const GIB = 2 ** 30;

/** Sentences about a machine of 4 CPUs, 8 GiB and no GPU, changed by `change`. */
function advice(
  change: { cpus?: Partial<Cpus>; memory?: Partial<Memory>; gpus?: Partial<Gpus>; libraries?: readonly string[] } = {},
): string[] {
  const libraries = (change.libraries ?? ["libc", "onnxruntime-node", "libmpi"]).map((name): LibraryFound => ({
    name,
    found: true,
    tried: [],
  }));
  return advise({
    os: "linux",
    libraries,
    machine: {
      cpus: {
        model: undefined,
        online: 4,
        allowed: "0-3",
        allowedCount: 4,
        quota: undefined,
        numaNodes: 1,
        ...change.cpus,
      },
      memory: {
        total: 8 * GIB,
        available: 6 * GIB,
        limit: undefined,
        used: undefined,
        hugePages: "madvise",
        sharedHugePages: "never",
        shm: { total: 4 * GIB, free: 4 * GIB },
        ...change.memory,
      },
      gpus: { models: [], driver: undefined, ...change.gpus },
    },
  }).map((a) => `${a.kind}: ${a.text}`);
}

Deno.test("advise() of a plain machine says how many ranks it carries, and nothing alarming", () => {
  assert.deepEqual(advice(), [
    "good: 4 cores: at most 4 ranks run at full speed",
    "good: 6 GiB of memory are free for all ranks together",
    "good: no GPU library: CPU only",
  ]);
});

Deno.test("advise() says when the affinity mask or a quota leaves fewer cores than the machine has", () => {
  assert.ok(
    advice({ cpus: { allowedCount: 1, allowed: "2" } })
      .includes("good: 1 core: at most 1 rank runs at full speed"),
  );
  assert.ok(
    advice({ cpus: { allowedCount: 1, allowed: "2" } })
      .includes("note: this process may use 1 of the machine's 4 CPUs (2)"),
  );
  const limited = advice({ cpus: { quota: 2.5 } });
  assert.equal(limited[0], "good: 2 cores: at most 2 ranks run at full speed");
  assert.match(limited[1]!, /grants the time of 2\.5 of 4 CPUs/);
});

Deno.test("advise() says where weights go when /dev/shm has a container's default size", () => {
  const found = advice({ memory: { shm: { total: 64 << 20, free: 64 << 20 } } });
  assert.ok(found.some((a) => a.startsWith("note: /dev/shm has 64 MiB: weights will go through temporary files")));
  assert.ok(advice({ memory: { shm: undefined } }).some((a) => a.startsWith("problem: there is no /dev/shm")));
});

Deno.test("advise() counts the control group's memory as free, not the machine's", () => {
  const found = advice({ memory: { limit: 2 * GIB, used: GIB } });
  assert.ok(found.includes("good: 1 GiB of memory are free for all ranks together"), found.join("\n"));
});

Deno.test("advise() names the library that keeps GPUs from being used", () => {
  const gpus = { models: ["H100", "H100"] }, cpu = ["libc", "onnxruntime-node", "libmpi"];
  assert.ok(advice({ gpus }).some((a) => a.startsWith("note: 2 GPUs, but libcuda does not load: CPU only")));
  assert.ok(
    advice({ gpus, libraries: [...cpu, "libcuda", "libcublas", "libcublasLt", "libnvrtc"] })
      .some((a) => a.startsWith("note: 2 GPUs, but libnccl does not load: one GPU only (pip install nvidia-nccl-cu13")),
  );
  assert.ok(
    advice({ gpus: { models: ["H100"] }, libraries: [...cpu, "libcuda", "libcublas", "libcublasLt", "libnvrtc"] })
      .includes("good: 1 GPU, and all CUDA libraries load"),
  );
});

Deno.test("advise() calls a missing C library a problem, and a missing native engine a note", () => {
  assert.ok(advice({ libraries: ["onnxruntime-node"] }).some((a) => /^problem: without libc .* single rank/.test(a)));
  assert.ok(advice({ libraries: ["libc"] }).some((a) => /^note: onnxruntime-node does not load/.test(a)));
});

Deno.test("readableBytes() and usableCpus() round the way people expect", () => {
  assert.deepEqual([0, 1023, 64 << 20, 1.5 * GIB].map(readableBytes), ["0 B", "1020 B", "64 MiB", "1.5 GiB"]);
  const cpus = { model: undefined, online: 8, allowed: "0-7", allowedCount: 8, numaNodes: 1 };
  assert.equal(usableCpus({ ...cpus, quota: 0.5 }), 1);
  assert.equal(usableCpus({ ...cpus, quota: undefined }), 8);
});
