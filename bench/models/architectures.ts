/**
 * The decoders that benches measure: an exporter's small graph, and the sizes that it is scaled to.
 *
 * The small graphs are the test models of tests/data/models, as Optimum exported them.
 */

/** The sizes of a decoder. */
export interface DecoderSizes {
  readonly layers: number;
  readonly hidden: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly ffn: number;
  readonly vocabulary: number;
  /** Rows of the table of learned positions; absent for rotary ones. */
  readonly positions?: number;
}

/** A decoder's exported form at small sizes, and the sizes that it is measured at. */
export interface Architecture {
  readonly name: string;
  /** The folder of the small model. */
  readonly source: URL;
  /** The sizes of the small model. */
  readonly from: DecoderSizes;
  readonly to: DecoderSizes;
  /** How messages and tables describe it. */
  readonly title: string;
}

const MODELS = new URL("../../tests/data/models/", import.meta.url);

/** The architectures by name. */
export const ARCHITECTURES = {
  llama: {
    name: "llama",
    source: new URL("llama/", MODELS),
    from: { layers: 2, hidden: 48, heads: 6, kvHeads: 2, ffn: 90, vocabulary: 97 },
    to: { layers: 12, hidden: 768, heads: 12, kvHeads: 4, ffn: 2048, vocabulary: 32_000 },
    title: "Llama-like: 12 layers, 768 wide, 12 heads, 4 kv heads, FFN 2048, vocabulary 32000, untied",
  },
  gpt2: {
    name: "gpt2",
    source: new URL("gpt2/", MODELS),
    from: { layers: 2, hidden: 36, heads: 3, kvHeads: 3, ffn: 90, vocabulary: 257, positions: 64 },
    to: { layers: 12, hidden: 768, heads: 12, kvHeads: 12, ffn: 3072, vocabulary: 50_257, positions: 1024 },
    title: "GPT-2-like: 12 layers, 768 wide, 12 heads, FFN 3072, vocabulary 50257, tied",
  },
} as const satisfies Record<string, Architecture>;

/** Encoders by name: attention without a cache. */
export const ENCODERS = {
  bert: {
    name: "bert",
    source: new URL("bert/", MODELS),
    from: { layers: 2, hidden: 36, heads: 3, kvHeads: 3, ffn: 90, vocabulary: 257, positions: 64 },
    // BERT-base, but for its vocabulary of 30522: the head would be a quarter of the work.
    to: { layers: 12, hidden: 768, heads: 12, kvHeads: 12, ffn: 3072, vocabulary: 1000, positions: 512 },
    title: "BERT-base: 12 layers, 768 wide, 12 heads, FFN 3072, vocabulary 1000",
  },
} as const satisfies Record<string, Architecture>;

/** Elements of one head. */
export function headDim({ hidden, heads }: DecoderSizes): number {
  return hidden / heads;
}
