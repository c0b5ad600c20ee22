/** What the text form of graphs says of values: types, known integers, placements. */
import { type Dim, parseDim } from "../core/dim.ts";
import { isDType } from "../core/dtype.ts";
import type { TensorData, Value } from "./graph.ts";
import { balanced, type Layout } from "./layout.ts";
import { type Placement, type Reduction, REPLICATE } from "./placement.ts";
import { parseLayout } from "./placement_parser.ts";
import type { Scanner } from "./text_scanner.ts";
import type { KnownInts, TensorType } from "./types.ts";

/** Where a tensor is cut, before it is known of which size it is. */
export interface ShardText {
  readonly dim: number;
  /** As it is written; undefined for equal parts. */
  readonly layout: string | undefined;
}

/** Reads values with `scan`. */
export class ValueReader {
  readonly #scan: Scanner;
  /** Over how many ranks the graph is split, once that is known. */
  ranks: number | undefined;

  constructor(scan: Scanner) {
    this.#scan = scan;
  }

  /** `: type, type …`, one for each of `outputs` that has a name. */
  values(outputs: readonly string[]): Value[] {
    this.#scan.expect(":");
    return outputs.filter((name) => name !== "").map((name, i): Value => {
      if (i > 0) this.#scan.expect(",");
      return { name, ...this.#value() };
    });
  }

  #value(): Omit<Value, "name"> {
    const type = this.type();
    const ints = this.#scan.take("=") ? this.#ints() : undefined;
    const placement = this.#scan.take("@") ? this.#placement(type) : undefined;
    return { type, ...(ints ? { ints } : {}), ...(placement ? { placement } : {}) };
  }

  /** `f32[2,n]`; `?` for what is not known. */
  type(): TensorType {
    const dtype = this.#scan.take("?") ? undefined : this.#scan.word();
    if (dtype !== undefined && !isDType(dtype)) throw this.#scan.error(`a dtype, not "${dtype}"`);
    this.#scan.expect("[");
    const isOpen = this.#scan.take("?");
    return { dtype, shape: isOpen ? (this.#scan.expect("]"), undefined) : this.#dims("]") };
  }

  /** Sizes up to the closing bracket. */
  #dims(close: string): Dim[] {
    const out: Dim[] = [];
    if (this.#scan.take(close)) return out;
    do out.push(this.#dim()); while (this.#scan.take(","));
    this.#scan.expect(close);
    return out;
  }

  #dim(): Dim {
    return parseDim(this.#scan.expression() || this.#scan.fail("a size"));
  }

  #ints(): KnownInts {
    if (!this.#scan.take("[")) return { dims: [], elements: [this.#dim()] };
    const first = this.#dims("]");
    if (!this.#scan.take(":")) return { dims: [first.length], elements: first };
    this.#scan.expect("[");
    return {
      dims: first.map((d) => (typeof d === "number" ? d : this.#scan.fail("a number"))),
      elements: this.#dims("]"),
    };
  }

  #placement(type: TensorType): Placement {
    if (this.#scan.take("R")) return REPLICATE;
    if (this.#scan.take("P")) {
      this.#scan.expect("(");
      const reduction = this.reduction();
      this.#scan.expect(")");
      return { kind: "P", reduction };
    }
    return { kind: "S", ...this.shard(this.shardText(), type) };
  }

  /** `sum`, `max` or `min`. */
  reduction(): Reduction {
    const word = this.#scan.word();
    if (word !== "sum" && word !== "max" && word !== "min") throw this.#scan.error("sum, max or min");
    return word;
  }

  /** `S(1)` or `S(1;layout)`. */
  shardText(): ShardText {
    this.#scan.expect("S");
    const inner = this.#scan.parenthesised();
    const semicolon = inner.indexOf(";");
    const dim = Number(semicolon < 0 ? inner : inner.slice(0, semicolon));
    if (!Number.isInteger(dim)) throw this.#scan.error("a dim");
    return { dim, layout: semicolon < 0 ? undefined : inner.slice(semicolon + 1) };
  }

  /** The cut that `text` means for a tensor of this type. */
  shard(text: ShardText, { shape }: TensorType): { dim: number; layout: Layout } {
    if (text.layout !== undefined) return { dim: text.dim, layout: this.layout(text.layout) };
    const size = shape?.[text.dim];
    if (typeof size !== "number" || this.ranks === undefined) {
      throw this.#scan.error("a layout written out, as the dim has no constant size or the graph no number of ranks");
    }
    return { dim: text.dim, layout: balanced(size, this.ranks) };
  }

  /** The layout that `key` names. */
  layout(key: string): Layout {
    return parseLayout(key) ?? this.#scan.fail(`a layout, not "${key}"`);
  }

  /** The dtype and sizes of a type that has both. */
  constantType({ dtype, shape }: TensorType): Pick<TensorData, "dtype" | "shape"> {
    const sizes = shape?.filter((d) => typeof d === "number");
    if (!dtype || !sizes || sizes.length !== shape!.length) throw this.#scan.error("a constant's dtype and sizes");
    return { dtype, shape: sizes };
  }
}
