/**
 * Memory in huge pages, after it has been filled.
 *
 * A step of one token reads all weights once. In pages of 4 KB each has to be looked up, and the processor's prefetching ends at each
 * border; in pages of 2 MB a 4-bit decode step was a sixth faster. Where the weights lie is the engine's business: it packs them into
 * hundreds of pieces that its allocator places. So what lies there is moved once all is loaded. What a process keeps empty (stacks,
 * reserved heaps) stays as it is: moving it would fill it.
 */
import { type Libc, MADV_COLLAPSE } from "../../ffi/libc.ts";

/** Smaller mappings hold at most one huge page. */
const SMALLEST = 4 << 20;
/** How much of a mapping must be in memory. */
const FILLED = 0.9;

/** A mapping of this process. */
export interface MappingUse {
  readonly address: bigint;
  /** Bytes: of addresses, in memory, and of these in huge pages. */
  readonly size: number;
  readonly resident: number;
  readonly huge: number;
}

/** The private, writable mappings without a file, in a text as of /proc/self/smaps. Pure. */
export function anonymousMappings(smaps: string): MappingUse[] {
  return smaps.split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m).flatMap((entry) => {
    const head = /^([0-9a-f]+)-([0-9a-f]+) rw-p \S+ \S+ 0 *(|\[heap\]|\[anon:.*\])$/m.exec(entry);
    if (!head) return [];
    const address = BigInt(`0x${head[1]}`);
    const kilobytes = (name: string) => Number(new RegExp(`^${name}: *(\\d+) kB`, "m").exec(entry)?.[1] ?? 0);
    return [{
      address,
      size: Number(BigInt(`0x${head[2]}`) - address),
      resident: kilobytes("Rss") * 1024,
      huge: kilobytes("AnonHugePages") * 1024,
    }];
  });
}

/** Moves this process's large, filled mappings to huge pages; gives the bytes of mappings that were moved. Linux 6.1 or newer, else 0. */
export function moveToHugePages(libc: Libc): number {
  let smaps: string;
  try {
    smaps = Deno.readTextFileSync("/proc/self/smaps");
  } catch {
    return 0; // without the permission, or the file
  }
  let moved = 0;
  for (const { address, size, resident, huge } of anonymousMappings(smaps)) {
    if (size < SMALLEST || resident < FILLED * size || huge > FILLED * size) continue;
    // Of memory that cannot be had in such pages the rest stays in small ones; nothing is lost.
    if (libc.advise(address, size, MADV_COLLAPSE)) moved += size;
  }
  return moved;
}
