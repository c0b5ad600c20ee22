import assert from "node:assert/strict";
import type { HostFiles } from "./host_files.ts";
import { countOf, readMachine } from "./machine.ts";

/** A machine made of these files; folders follow from their paths. */
function host(files: Record<string, string>, shm?: { total: number; free: number }): HostFiles {
  return {
    text: (path) => files[path],
    names: (path) =>
      [
        ...new Set(
          Object.keys(files).filter((f) => f.startsWith(`${path}/`)).map((f) =>
            f.slice(path.length + 1).split("/")[0]!
          ),
        ),
      ].toSorted(),
    space: () => shm,
  };
}

const PLAIN = {
  "/sys/devices/system/cpu/online": "0-7",
  "/proc/self/status": "Name:\tdeno\nCpus_allowed_list:\t0-3,6\nMems_allowed_list:\t0",
  "/proc/meminfo": "MemTotal:       8388608 kB\nMemFree: 1 kB\nMemAvailable:    4194304 kB",
};

Deno.test("readMachine() tells the CPUs of the affinity mask from those of the machine", () => {
  const { cpus } = readMachine(host(PLAIN));
  assert.deepEqual([cpus.online, cpus.allowed, cpus.allowedCount, cpus.quota], [8, "0-3,6", 5, undefined]);
  assert.equal(countOf("0-3,8,10-11"), 7);
});

Deno.test("readMachine() takes the smallest quota and memory limit of the group and those above it", () => {
  const { cpus, memory } = readMachine(host({
    ...PLAIN,
    "/proc/self/cgroup": "0::/pods/one",
    "/sys/fs/cgroup/cpu.max": "max 100000",
    "/sys/fs/cgroup/pods/cpu.max": "250000 100000",
    "/sys/fs/cgroup/pods/one/cpu.max": "400000 100000",
    "/sys/fs/cgroup/pods/memory.max": `${1 << 30}`,
    "/sys/fs/cgroup/pods/memory.current": "1000",
    "/sys/fs/cgroup/pods/one/memory.max": "max",
  }));
  assert.equal(cpus.quota, 2.5);
  assert.deepEqual([memory.limit, memory.used], [1 << 30, 1000]);
});

Deno.test("readMachine() reads control groups of version 1, where no limit is a number beyond any memory", () => {
  const { cpus, memory } = readMachine(host({
    ...PLAIN,
    "/proc/self/cgroup": "4:memory:/job\n1:cpu,cpuacct:/job\n0::/",
    "/sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "150000",
    "/sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000",
    "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
    "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
    "/sys/fs/cgroup/memory/job/memory.limit_in_bytes": "9223372036854771712",
  }));
  assert.equal(cpus.quota, 1.5);
  assert.equal(memory.limit, undefined);
  assert.equal(memory.available, 4 * 2 ** 30);
});

Deno.test("readMachine() reads which huge pages are chosen, and NVIDIA's models and driver", () => {
  const { memory, gpus } = readMachine(host({
    ...PLAIN,
    "/sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
    "/sys/kernel/mm/transparent_hugepage/shmem_enabled": "always within_size advise [never] deny force",
    "/proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ: 1",
    "/proc/driver/nvidia/version":
      "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\nGCC version: 12",
  }, { total: 64 << 20, free: 1 << 20 }));
  assert.deepEqual([memory.hugePages, memory.sharedHugePages, memory.shm?.free], ["madvise", "never", 1 << 20]);
  assert.deepEqual(gpus, { models: ["NVIDIA H100 80GB HBM3"], driver: "570.86.15" });
});

Deno.test("readMachine() finds GPUs by their devices where the driver's folder is hidden", () => {
  const { gpus } = readMachine(host({ ...PLAIN, "/dev/nvidia0": "", "/dev/nvidia1": "", "/dev/nvidiactl": "" }));
  assert.deepEqual(gpus, { models: ["/dev/nvidia0", "/dev/nvidia1"], driver: undefined });
});
