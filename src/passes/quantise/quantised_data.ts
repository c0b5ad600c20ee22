/**
 * A weight in blocks, computed when a rank asks for its part of it, and from nothing but that part.
 *
 * A block depends on its own values only, so that a part has the bytes that the whole has there.
 */
import { dtypeInfo } from "../../core/dtype.ts";
import { f16ArrayToF32, f32ArrayToF16 } from "../../core/half.ts";
import type { TensorData } from "../../graph/graph.ts";
import type { Range } from "../../graph/layout.ts";
import { type BlockAt, BlockCoder, type ScaleDType } from "./blocks.ts";
import { formatKey, type WeightFormat } from "./weight_format.ts";

/** A weight of `n` columns in the layout of MatMulNBits. */
export interface QuantisedData {
  /** `u8[n, blocks, block · bits / 8]`. */
  readonly packed: TensorData;
  /** `[n, blocks]`, of the weight's dtype. */
  readonly scales: TensorData;
  /** `u8[n, ⌈blocks · bits / 8⌉]`; undefined in symmetric formats. */
  readonly zeros: TensorData | undefined;
}

/** A weight as a graph has it. */
export interface Weight {
  /** f32 or f16, of two dims. */
  readonly data: TensorData;
  /** Whether it is `[n, k]`, of which a product sums over `k`; else `[k, n]`. */
  readonly transposed: boolean;
}

/** Weights in blocks, each made once, so that graphs of one model share what they hold alike. */
export class QuantisedWeights {
  readonly #known = new Map<TensorData, Map<string, QuantisedData>>();

  /** The weight in blocks along `k`. */
  of(weight: Weight, format: WeightFormat): QuantisedData {
    let forms = this.#known.get(weight.data);
    if (!forms) this.#known.set(weight.data, forms = new Map());
    const key = `${formatKey(format)} ${weight.transposed}`;
    let form = forms.get(key);
    if (!form) forms.set(key, form = quantised(weight, format));
    return form;
  }
}

/** Bytes of a weight that are looked at before what was made of them is handed on. */
const CHUNK = 1 << 22;

function quantised(weight: Weight, format: WeightFormat): QuantisedData {
  const { bits, block, symmetric } = format, { data, transposed } = weight;
  const dtype = data.dtype as ScaleDType;
  const n = data.shape[transposed ? 0 : 1]!, k = data.shape[transposed ? 1 : 0]!;
  const blocks = Math.ceil(k / block), width = block * bits / 8;
  const all: Part = { columns: [[0, n]], blocks: [[0, blocks]] };
  const visit = (part: Part, use: UseBlock) => visitBlocks(weight, block, part, use);

  const packed = (part: Part) => {
    const kept = count(part.blocks), out = new Uint8Array(count(part.columns) * kept * width);
    const coder = new BlockCoder(format, dtype);
    visit(part, (values, at, column, b) => coder.pack(values, at, out, (column * kept + b) * width));
    return out;
  };
  const scales = (part: Part) => {
    const kept = count(part.blocks), out = new Float32Array(count(part.columns) * kept);
    const coder = new BlockCoder(format, dtype);
    visit(part, (values, at, column, b) => {
      coder.measure(values, at);
      out[column * kept + b] = coder.scale;
    });
    const stored = dtype === "f32" ? out : f32ArrayToF16(out);
    return new Uint8Array(stored.buffer);
  };
  const zeros = (part: Part) => {
    const row = Math.ceil(count(part.blocks) * bits / 8), out = new Uint8Array(count(part.columns) * row);
    const coder = new BlockCoder(format, dtype);
    visit(part, (values, at, column, b) => {
      coder.measure(values, at);
      out[column * row + (b * bits >> 3)]! |= coder.zero << (b * bits & 7);
    });
    return out;
  };

  /** A tensor `[n, units, …]`, of which a unit stands for `each` blocks. */
  const lazy = (dtype: TensorData["dtype"], shape: readonly number[], make: (part: Part) => Uint8Array, each = 1) => ({
    dtype,
    shape,
    bytes: () => make(all),
    *chunks(): Iterable<Uint8Array> {
      // Of a weight [k, n] all rows have to be read for any of its columns.
      const step = transposed ? Math.max(1, Math.floor(CHUNK / (4 * k))) : n;
      for (let at = 0; at < n; at += step) yield make({ ...all, columns: [[at, Math.min(n, at + step)]] });
    },
    slice: (dim: number, ranges: readonly Range[]) => {
      if (dim === 0) return make({ ...all, columns: ranges });
      if (dim === 1) return make({ ...all, blocks: ranges.map(([a, b]) => [a * each, Math.min(blocks, b * each)]) });
      throw new RangeError(`Cannot cut quantised weights along dim ${dim}: it lies within blocks`);
    },
  });
  return {
    packed: lazy("u8", [n, blocks, width], packed),
    scales: lazy(dtype, [n, blocks], scales),
    zeros: symmetric ? undefined : lazy("u8", [n, Math.ceil(blocks * bits / 8)], zeros, 8 / bits),
  };
}

/** Which columns of a weight, and which of their blocks. */
interface Part {
  readonly columns: readonly Range[];
  readonly blocks: readonly Range[];
}

/** Told of a block: where its values are, and which it is, counted within the part. */
type UseBlock = (values: Float32Array, at: BlockAt, column: number, block: number) => void;

function visitBlocks({ data, transposed }: Weight, block: number, part: Part, use: UseBlock): void {
  const floats = floatReader(data), [rows, width] = data.shape as [number, number];
  if (transposed) {
    const step = Math.max(1, Math.floor(CHUNK / (4 * width)));
    let column = 0;
    for (const [start, end] of part.columns) {
      for (let from = start; from < end; from += step) {
        const to = Math.min(end, from + step), values = floats(from * width, to * width);
        for (let row = from; row < to; row++, column++) {
          let b = 0;
          for (const [first, last] of part.blocks) {
            for (let i = first; i < last; i++, b++) {
              const length = Math.min(block, width - i * block);
              use(values, { first: (row - from) * width + i * block, step: 1, length }, column, b);
            }
          }
        }
      }
    }
    return;
  }
  let b = 0;
  for (const [first, last] of part.blocks) {
    for (let i = first; i < last; i++, b++) {
      const length = Math.min(block, rows - i * block);
      const values = floats(i * block * width, (i * block + length) * width);
      let column = 0;
      for (const [start, end] of part.columns) {
        for (let c = start; c < end; c++, column++) use(values, { first: c, step: width, length }, column, b);
      }
    }
  }
}

/** Reads runs of elements as float32; what it gives is valid until it is called again. */
function floatReader(data: TensorData): (from: number, to: number) => Float32Array {
  const { dtype } = data, bytes = data.bytes(), each = dtypeInfo(dtype).bits / 8;
  let copy = new Uint8Array(0), wide = new Float32Array(0);
  return (from, to) => {
    let run = bytes.subarray(from * each, to * each);
    // Tensors in an ONNX file begin at any byte.
    if (run.byteOffset % each !== 0) {
      if (copy.length < run.length) copy = new Uint8Array(run.length);
      copy.set(run);
      run = copy.subarray(0, run.length);
    }
    if (dtype === "f32") return new Float32Array(run.buffer, run.byteOffset, to - from);
    if (wide.length < to - from) wide = new Float32Array(to - from);
    return f16ArrayToF32(new Uint16Array(run.buffer, run.byteOffset, to - from), wide);
  };
}

function count(ranges: readonly Range[]): number {
  return ranges.reduce((n, [a, b]) => n + b - a, 0);
}
