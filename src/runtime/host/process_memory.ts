/** How much memory a process holds, as the kernel counts it. */

/** Bytes. Zeros where there is no `/proc`. */
export interface ProcessMemory {
  /** Its own and its share of what several processes map. */
  readonly proportional: number;
  /** Anonymous: heaps, packed weights, buffers. */
  readonly anonymous: number;
  /** Pages that no other process maps, those of files among them. */
  readonly private: number;
  /** Pages that other processes map too. */
  readonly shared: number;
  /** The most that was resident at a time. */
  readonly peak: number;
}

/** The memory of this process. */
export function ownMemory(): ProcessMemory {
  const rollup = readTable("/proc/self/smaps_rollup");
  const of = (...keys: string[]) => keys.reduce((sum, key) => sum + (rollup.get(key) ?? 0), 0);
  return {
    proportional: of("Pss"),
    anonymous: of("Pss_Anon"),
    private: of("Private_Clean", "Private_Dirty"),
    shared: of("Shared_Clean", "Shared_Dirty"),
    peak: readTable("/proc/self/status").get("VmHWM") ?? 0,
  };
}

/** Lines of the kind `Pss: 1234 kB`, in bytes. */
function readTable(path: string): Map<string, number> {
  let text: string;
  try {
    text = Deno.readTextFileSync(path);
  } catch {
    return new Map();
  }
  return new Map([...text.matchAll(/^(\w+):\s+(\d+) kB$/gm)].map(([, key, kib]) => [key!, Number(kib) * 1024]));
}
