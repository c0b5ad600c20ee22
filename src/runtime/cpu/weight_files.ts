/**
 * Where ONNX Runtime finds a rank's weights: external data in files that it maps.
 *
 * A segment whose weights are all whole or contiguous slices of files in one folder refers to these files directly. For
 * other segments the slices are copied, once, into files of a temporary folder: `rank<r>.bin` for what one rank holds and
 * `host.bin`, written by the host's first rank, for what all ranks hold alike, so that replicated tables are in memory
 * once a host. The folder lies in shared memory where it fits and is removed as soon as all sessions are made: the engine
 * keeps its mappings.
 */
import { dirname, relative } from "node:path";
import { dtypeInfo } from "../../core/dtype.ts";
import type { GetAttr, Graph, TensorData } from "../../graph/graph.ts";
import type { ExternalReference } from "../../formats/export_onnx.ts";

/** Constants below this size (bytes) are written into the segment's model. */
const INLINE_BELOW = 1024;

/** Where a segment's weights lie. */
export interface SegmentWeights {
  /** The folder that the references are relative to; undefined when everything is inline. */
  readonly folder: string | undefined;
  readonly external: (name: string, data: TensorData) => ExternalReference | undefined;
}

/** Who writes which file. */
export interface WeightFilesOptions {
  readonly folder: string;
  readonly rank: number;
  /** Whether this rank writes the host's file. */
  readonly writesHostFile: boolean;
  /** How many ranks share the host's file. */
  readonly ranks: number;
  /** The rank's whole local graphs: their replicated constants, in order, make up the host's file. */
  readonly graphs: readonly Graph<"local">[];
}

/** The weight files of one rank. */
export class WeightFiles implements Disposable {
  readonly #options: WeightFilesOptions;
  readonly #rankFile: AppendFile;
  readonly #hostFile: AppendFile;
  /** Slices that have been placed already: a constant that two segments read is stored once. */
  readonly #placed = new Map<TensorData, ExternalReference>();

  constructor(options: WeightFilesOptions) {
    this.#options = options;
    this.#rankFile = new AppendFile(`${options.folder}/rank${options.rank}.bin`, true);
    this.#hostFile = new AppendFile(`${options.folder}/host.bin`, options.writesHostFile);
    if (options.ranks === 1) return;
    // All ranks have the same replicated constants in the same order, so all know the offsets.
    for (const graph of options.graphs) {
      for (const node of graph.nodes) {
        if (node.kind !== "get_attr" || sizeOf(node.data) < INLINE_BELOW || this.#placed.has(node.data)) continue;
        if (graph.values.get(node.outputs[0])?.placement?.kind !== "R") continue;
        this.#placed.set(node.data, this.#hostFile.append(sizeOf(node.data), node.data));
      }
    }
  }

  /** Decides where the constants of a segment's graph lie, and writes those that have to be copied. */
  place(graph: Graph<"local">): SegmentWeights {
    const weights = graph.nodes.filter((n) => n.kind === "get_attr").filter((n) => sizeOf(n.data) >= INLINE_BELOW);
    if (weights.length === 0) return { folder: undefined, external: () => undefined };
    const direct = commonFolder(weights.map((w) => w.data));
    if (direct !== undefined) {
      const inPlace = new Set(weights.map((w) => w.data));
      return {
        folder: direct,
        external: (_, data) => {
          if (!inPlace.has(data)) return undefined;
          const { file, offset, length } = data.location!;
          return { location: relative(direct, file), offset, length };
        },
      };
    }
    const references = new Map(weights.map((w) => [w.data, this.#copy(w)]));
    return { folder: this.#options.folder, external: (_, data) => references.get(data) };
  }

  #copy(node: GetAttr): ExternalReference {
    const known = this.#placed.get(node.data);
    if (known) return known;
    const reference = this.#rankFile.append(sizeOf(node.data), node.data);
    this.#placed.set(node.data, reference);
    return reference;
  }

  [Symbol.dispose](): void {
    this.#rankFile[Symbol.dispose]();
    this.#hostFile[Symbol.dispose]();
  }
}

/** A file that grows by aligned pieces; where another process writes it, only the offsets are counted. */
class AppendFile implements Disposable {
  readonly #path: string;
  readonly #writes: boolean;
  #file: Deno.FsFile | undefined;
  #at = 0;

  constructor(path: string, writes: boolean) {
    this.#path = path;
    this.#writes = writes;
  }

  append(length: number, data: TensorData): ExternalReference {
    const offset = Math.ceil(this.#at / 64) * 64;
    this.#at = offset + length;
    if (this.#writes) {
      this.#file ??= Deno.openSync(this.#path, { write: true, createNew: true, mode: 0o600 });
      this.#file.seekSync(offset, Deno.SeekMode.Start);
      for (const piece of data.chunks?.() ?? [data.bytes()]) {
        for (let done = 0; done < piece.length;) done += this.#file.writeSync(piece.subarray(done));
      }
    }
    return { location: this.#path.slice(this.#path.lastIndexOf("/") + 1), offset, length };
  }

  [Symbol.dispose](): void {
    this.#file?.close();
    this.#file = undefined;
  }
}

function sizeOf(data: TensorData): number {
  return Math.ceil((data.shape.reduce((a, b) => a * b, 1) * dtypeInfo(data.dtype).bits) / 8);
}

/** The folder in which all of these lie as aligned pieces of files, if there is one. */
function commonFolder(list: readonly TensorData[]): string | undefined {
  const folders = new Set(list.map((data) => {
    const { location } = data;
    const unit = Math.max(1, dtypeInfo(data.dtype).bits / 8);
    return location && location.offset % unit === 0 ? dirname(location.file) : undefined;
  }));
  const [folder] = folders;
  return folders.size === 1 ? folder : undefined;
}
