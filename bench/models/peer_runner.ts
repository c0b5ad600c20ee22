/** ONNX Runtime running a decoder, the cache fed back from step to step. */
import { type InferenceSession, Tensor } from "onnxruntime-node";
import type { DType } from "../../src/core/dtype.ts";
import type { HostTensor } from "../../src/core/host_tensor.ts";
import { CausalFeeds } from "../../src/generate/feeds.ts";
import type { Decoder } from "./decoder.ts";
import type { Runner } from "./workload.ts";

const NAMES: Partial<Record<DType, "float32" | "int64" | "int32">> = { f32: "float32", i64: "int64", i32: "int32" };

/** One sequence (batch 1) on `session`, with new outputs at every step or with two buffers a cache that take turns. */
export class PeerRunner implements Runner {
  readonly #session: InferenceSession;
  readonly #decoder: Decoder;
  readonly #feeds: CausalFeeds;
  readonly #preallocate: boolean;
  /** Two buffers a cache, and one for the logits, that take turns; made when first needed. */
  readonly #buffers = new Map<string, Float32Array>();
  readonly #capacity: number;
  #caches: Record<string, Tensor> = {};
  #past = 0;
  #turn: 0 | 1 = 0;

  constructor(
    session: InferenceSession,
    decoder: Decoder,
    { capacity, preallocate }: { readonly capacity: number; readonly preallocate: boolean },
  ) {
    this.#session = session;
    this.#decoder = decoder;
    this.#capacity = capacity;
    this.#preallocate = preallocate;
    this.#feeds = new CausalFeeds(decoder.inputs, { capacity });
    this.reset();
  }

  reset(): void {
    this.#past = 0;
    for (const { input, heads, headDim } of this.#decoder.caches) {
      this.#caches[input] = new Tensor("float32", new Float32Array(0), [1, heads, 0, headDim]);
    }
  }

  async step(ids: readonly number[]): Promise<Float32Array> {
    const feeds: Record<string, Tensor> = { ...this.#caches };
    for (const [name, t] of Object.entries(this.#feeds.at(this.#past, [ids]))) feeds[name] = tensorOf(t);
    this.#past += ids.length;
    const results = this.#preallocate
      ? await this.#session.run(feeds, this.#fetches(ids.length))
      : await this.#session.run(feeds);
    for (const { input, output } of this.#decoder.caches) this.#caches[input] = results[output] as Tensor;
    return results.logits!.data as Float32Array;
  }

  #fetches(length: number): Record<string, Tensor> {
    const { vocabulary, caches } = this.#decoder;
    this.#turn = this.#turn === 0 ? 1 : 0;
    const fetches: Record<string, Tensor> = { logits: this.#take("logits", [1, length, vocabulary], vocabulary) };
    for (const { output, heads, headDim } of caches) {
      fetches[output] = this.#take(`${output} ${this.#turn}`, [1, heads, this.#past, headDim], heads * headDim);
    }
    return fetches;
  }

  /** A view of the buffer called `key`, which has room for the longest sequence at `perToken` elements a token. */
  #take(key: string, dims: readonly number[], perToken: number): Tensor {
    let buffer = this.#buffers.get(key);
    if (!buffer) this.#buffers.set(key, buffer = new Float32Array(this.#capacity * perToken));
    return new Tensor("float32", buffer.subarray(0, dims.reduce((a, b) => a * b, 1)), dims);
  }
}

function tensorOf({ dtype, shape, data }: HostTensor): Tensor {
  const type = NAMES[dtype];
  if (type === undefined) throw new RangeError(`Cannot feed the peer a tensor of ${dtype}: expected f32, i64 or i32`);
  return new Tensor(type as "float32", data as Float32Array, shape);
}
