/**
 * The inputs of a language model at each step: ids, attention mask and positions, by the names that exporters use.
 *
 * For one sequence the arrays are made once for its longest length; a step gets views of them, so that a token costs no
 * allocation. Several sequences end at the same column: shorter prompts are padded on the left, and the mask hides that.
 */
import type { DType, TypedArray } from "../core/dtype.ts";
import { InputError } from "../core/errors.ts";
import type { HostTensor } from "../core/host_tensor.ts";

/** An input of the model that is not carried from step to step. */
export interface FeedInput {
  /** As the model calls it. */
  readonly name: string;
  /** Its dtype decides that of the array. */
  readonly type: { readonly dtype: DType | undefined };
}

/** What an input holds, for `past` tokens before and the tokens `ids` now. `columns` are positions without rows. */
type Role = "ids" | "mask" | "positions" | "columns" | "zeros";

const ROLES: Readonly<Record<string, Role>> = {
  input_ids: "ids",
  decoder_input_ids: "ids",
  attention_mask: "mask",
  decoder_attention_mask: "mask",
  position_ids: "positions",
  cache_position: "columns",
  token_type_ids: "zeros",
};

/** How sequences are fed. */
export interface FeedOptions {
  /** The longest sequence, padding, prompt and new tokens together. */
  readonly capacity: number;
  /** By row, how many columns on the left are padding; one row without any by default. */
  readonly pads?: readonly number[];
  /** Tensors that are the same at every step, by name of the input: what an encoder gave. */
  readonly given?: Readonly<Record<string, HostTensor>>;
}

/** One input, with its content for a whole sequence of every row. */
interface Feed {
  readonly name: string;
  readonly role: Role;
  readonly dtype: "i64" | "i32";
  readonly rows: readonly TypedArray[];
}

/** Makes the inputs of steps. */
export class CausalFeeds {
  readonly #feeds: Feed[] = [];
  readonly #given: Record<string, HostTensor> = {};
  readonly #capacity: number;

  /**
   * @param inputs The model's inputs but the carried ones.
   * @throws {InputError} If the model has an input of another kind, or none for the token ids.
   */
  constructor(inputs: readonly FeedInput[], { capacity, pads = [0], given = {} }: FeedOptions) {
    this.#capacity = capacity;
    for (const { name, type } of inputs) {
      if (Object.hasOwn(given, name)) {
        this.#given[name] = given[name]!;
        continue;
      }
      const role = Object.hasOwn(ROLES, name) ? ROLES[name]! : undefined;
      const dtype = type.dtype ?? "i64";
      if (role === undefined || (dtype !== "i64" && dtype !== "i32")) {
        throw new InputError(`Cannot generate with this model: nobody says what its input "${name}" (${dtype}) holds`, {
          hint: `generation knows ${
            Object.keys(ROLES).join(", ")
          }, what an encoder gives, and carried caches; use \`run\` with your own inputs`,
        });
      }
      const rows = role === "columns"
        ? [row("positions", { dtype, capacity, pad: 0 })]
        : pads.map((pad) => row(role, { dtype, capacity, pad }));
      this.#feeds.push({ name, role, dtype, rows });
    }
    if (!this.#feeds.some(({ role }) => role === "ids")) {
      throw new InputError("Cannot generate with this model: it has no input_ids", {
        hint: "use `run` with your own inputs",
      });
    }
  }

  /**
   * The inputs when `past` tokens were fed before and `ids` (as many for every row) are fed now. They may be views that the
   * next call overwrites.
   *
   * Shapes: ids and positions `[rows, n]`, mask `[rows, past + n]`.
   */
  at(past: number, ids: readonly (readonly number[])[]): Record<string, HostTensor> {
    const total = past + ids[0]!.length;
    if (total > this.#capacity) {
      throw new RangeError(`Cannot feed ${total} tokens: this sequence was planned for ${this.#capacity}`);
    }
    const feeds: Record<string, HostTensor> = { ...this.#given };
    for (const { name, role, dtype, rows } of this.#feeds) {
      const [from, to] = role === "mask" ? [0, total] : [past, total];
      if (role === "ids") rows.forEach((r, i) => write(r, past, ids[i]!));
      const data = joined(rows.map((r) => r.subarray(from, to)));
      feeds[name] = { dtype, shape: role === "columns" ? [to - from] : [rows.length, to - from], data };
    }
    return feeds;
  }
}

function row(
  role: Role,
  { dtype, capacity, pad }: { readonly dtype: "i64" | "i32"; readonly capacity: number; readonly pad: number },
): TypedArray {
  const value = (i: number) => role === "mask" ? Number(i >= pad) : role === "positions" ? Math.max(0, i - pad) : 0;
  return dtype === "i64"
    ? BigInt64Array.from({ length: capacity }, (_, i) => BigInt(value(i)))
    : Int32Array.from({ length: capacity }, (_, i) => value(i));
}

/** Rows one after another; the view itself where there is only one. */
function joined(rows: readonly TypedArray[]): TypedArray {
  const [first] = rows as readonly [TypedArray];
  if (rows.length === 1) return first;
  const n = first.length;
  if (first instanceof BigInt64Array) {
    const all = new BigInt64Array(n * rows.length);
    rows.forEach((r, i) => all.set(r as BigInt64Array, i * n));
    return all;
  }
  const all = new Int32Array(n * rows.length);
  rows.forEach((r, i) => all.set(r as Int32Array, i * n));
  return all;
}

function write(row: TypedArray, at: number, ids: readonly number[]): void {
  if (row instanceof BigInt64Array) ids.forEach((id, i) => row[at + i] = BigInt(id));
  else ids.forEach((id, i) => row[at + i] = id);
}
