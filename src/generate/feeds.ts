/**
 * The inputs of a causal language model at each step: ids, attention mask and positions, by the names that exporters use.
 *
 * The arrays are made once for the longest sequence; a step gets views of them, so that a token costs no allocation.
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

/** What an input holds, for `past` tokens before and the tokens `ids` now. */
type Role = "ids" | "mask" | "positions" | "zeros";

const ROLES: Readonly<Record<string, Role>> = {
  input_ids: "ids",
  attention_mask: "mask",
  position_ids: "positions",
  token_type_ids: "zeros",
};

/** Makes the inputs of steps, for one sequence (batch 1). */
export class CausalFeeds {
  readonly #rows: { readonly name: string; readonly role: Role; readonly dtype: DType; readonly row: TypedArray }[] =
    [];
  readonly #capacity: number;

  /**
   * @param inputs The model's inputs but the carried ones.
   * @param capacity The longest sequence, prompt and new tokens together.
   * @throws {InputError} If the model has an input of another kind, or none for the token ids.
   */
  constructor(inputs: readonly FeedInput[], capacity: number) {
    this.#capacity = capacity;
    for (const { name, type } of inputs) {
      const role = Object.hasOwn(ROLES, name) ? ROLES[name]! : undefined;
      const dtype = type.dtype ?? "i64";
      if (role === undefined || (dtype !== "i64" && dtype !== "i32")) {
        throw new InputError(`Cannot generate with this model: nobody says what its input "${name}" (${dtype}) holds`, {
          hint: `generation knows ${
            Object.keys(ROLES).join(", ")
          } and carried caches; use \`run\` with your own inputs`,
        });
      }
      this.#rows.push({ name, role, dtype, row: row(role, dtype, capacity) });
    }
    if (!this.#rows.some(({ role }) => role === "ids")) {
      throw new InputError("Cannot generate with this model: it has no input_ids", {
        hint: "use `run` with your own inputs",
      });
    }
  }

  /**
   * The inputs when `past` tokens were fed before and `ids` are fed now. They are views that the next call overwrites.
   *
   * Shapes: ids and positions `[1, ids.length]`, mask `[1, past + ids.length]`.
   */
  at(past: number, ids: readonly number[]): Record<string, HostTensor> {
    const total = past + ids.length;
    if (total > this.#capacity) {
      throw new RangeError(`Cannot feed ${total} tokens: this sequence was planned for ${this.#capacity}`);
    }
    const feeds: Record<string, HostTensor> = {};
    for (const { name, role, dtype, row } of this.#rows) {
      const [from, to] = role === "mask" ? [0, total] : [past, total];
      if (role === "ids") write(row, past, ids);
      feeds[name] = { dtype, shape: [1, to - from], data: row.subarray(from, to) };
    }
    return feeds;
  }
}

function row(role: Role, dtype: "i64" | "i32", length: number): TypedArray {
  const value = (i: number) => role === "mask" ? 1 : role === "positions" ? i : 0;
  return dtype === "i64"
    ? BigInt64Array.from({ length }, (_, i) => BigInt(value(i)))
    : Int32Array.from({ length }, (_, i) => value(i));
}

function write(row: TypedArray, at: number, ids: readonly number[]): void {
  if (row instanceof BigInt64Array) ids.forEach((id, i) => row[at + i] = BigInt(id));
  else ids.forEach((id, i) => row[at + i] = id);
}
