/** In which form weights are held: what users write, and what it means. */
import { PlanError } from "../../core/errors.ts";
import { didYouMean } from "../../core/suggest.ts";

/**
 * Integers in blocks along the dim that a product sums over, a scale a block: the form of ONNX Runtime's MatMulNBits. Symmetric
 * blocks are what llama.cpp calls Q4_0 and Q8_0, others what it calls Q4_1.
 */
export interface WeightFormat {
  readonly bits: 4 | 8;
  /** Values of a block: a power of 2 from 16 to 256. */
  readonly block: number;
  /** Whether 0 is the middle of the range in all blocks; else each block has a zero point of its own. */
  readonly symmetric: boolean;
  /**
   * MatMulNBits' `accuracy_level`: 4 rounds activations to 8 bits a block, so that products are of integers; 1 and 0 compute in
   * float32, more slowly.
   */
  readonly accuracyLevel: number;
}

/**
 * How to hold weights: a format (`"int4"`, `"int8"`, `"none"`) for all layers, or formats by pattern of a layer's name or scope as
 * in overrides, of which the last match wins: `{ "*": "int4", "lm_head": "int8" }`.
 *
 * Behind a format may stand, after colons, a block size (32 by default), `sym` (default) or `asym`, and `acc0` … `acc4`, the
 * `accuracy_level` of MatMulNBits (4 by default): `"int4:64:asym"`.
 */
export type Quantize = string | Readonly<Record<string, string>>;

const NAMES = ["int4", "int8", "none"];
const BLOCKS = [16, 32, 64, 128, 256];

/** What `text` means; undefined for `none`. @throws {PlanError} If it means nothing. */
export function parseWeightFormat(text: string): WeightFormat | undefined {
  const [name = "", ...details] = text.split(":");
  const refuse = (what: string, hint: string) =>
    new PlanError(`Cannot quantise to ${JSON.stringify(text)}: ${what}`, { hint });
  if (!NAMES.includes(name)) {
    throw refuse(`${JSON.stringify(name)} is no format${didYouMean(name, NAMES)}`, "use int4, int8 or none");
  }
  if (name === "none") {
    if (details.length > 0) throw refuse("none has no details", "leave them out");
    return undefined;
  }
  let format: WeightFormat = { bits: name === "int4" ? 4 : 8, block: 32, symmetric: true, accuracyLevel: 4 };
  for (const detail of details) {
    const level = /^acc([0-4])$/.exec(detail)?.[1];
    if (level !== undefined) format = { ...format, accuracyLevel: Number(level) };
    else if (detail === "sym" || detail === "asym") format = { ...format, symmetric: detail === "sym" };
    else if (BLOCKS.includes(Number(detail))) format = { ...format, block: Number(detail) };
    else {
      throw refuse(
        `${JSON.stringify(detail)} is no detail of a format`,
        `use a block size (${BLOCKS.join(", ")}), sym, asym, or acc0 to acc4, as in int4:64:asym`,
      );
    }
  }
  return format;
}

/** A name for the form of the tensors; the accuracy level is no part of it. */
export function formatKey({ bits, block, symmetric }: WeightFormat): string {
  return `int${bits}_${block}${symmetric ? "" : "_asym"}`;
}

/** Patterns with formats, in order. @throws {PlanError} If a format means nothing. */
export function formatsByPattern(quantize: Quantize): readonly (readonly [string, WeightFormat | undefined])[] {
  const entries = typeof quantize === "string" ? [["*", quantize] as const] : Object.entries(quantize);
  return entries.map(([pattern, text]) => [pattern, parseWeightFormat(text)] as const);
}

/**
 * The formats that a list of words asks for: `FORMAT` for all layers, `LAYER=FORMAT` for some.
 *
 * @throws {PlanError} If a format means nothing, or a layer's name is missing.
 */
export function parseQuantize(words: readonly string[]): Readonly<Record<string, string>> {
  const formats = Object.fromEntries(words.map((word) => {
    const at = word.lastIndexOf("=");
    if (at === 0) {
      throw new PlanError(`Cannot quantise as ${JSON.stringify(word)} says: the layer's name is missing`, {
        hint: "write FORMAT, or LAYER=FORMAT",
      });
    }
    return at < 0 ? ["*", word] as const : [word.slice(0, at), word.slice(at + 1)] as const;
  }));
  formatsByPattern(formats);
  return formats;
}
