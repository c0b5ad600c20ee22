/** Inputs held against what a model says it takes. */
import { didYouMean } from "../core/suggest.ts";
import { InputError } from "../core/errors.ts";
import type { HostTensor } from "../core/host_tensor.ts";
import { printType, type TensorType } from "../graph/types.ts";
import { bindSymbols } from "./cpu/shapes.ts";

/**
 * Checks names, dtypes and shapes of whole tensors.
 *
 * @throws {InputError} Naming the input, what was found and what the model takes.
 */
export function checkInputs(
  inputs: Readonly<Record<string, HostTensor>>,
  types: ReadonlyMap<string, TensorType>,
): void {
  checkKnown(inputs, types);
  const names = [...types.keys()];
  const missing = names.filter((n) => !Object.hasOwn(inputs, n));
  if (missing.length > 0) {
    const shown = missing.slice(0, 6).map((n) => `"${n}" ${printType(types.get(n)!)}`).join(", ");
    throw new InputError(
      `Cannot run without ${missing.length === 1 ? "input" : `${missing.length} inputs:`} ${shown}` +
        `${missing.length > 6 ? ", …" : ""}`,
      {
        hint: `give ${missing.length === 1 ? "it" : "them"} under ${
          missing.length === 1 ? "this name" : "these names"
        }; the model takes ${names.length} inputs`,
      },
    );
  }
  bindSymbols(types, (name) => inputs[name]!.shape);
}

/**
 * Checks that the model has such inputs, of such dtypes; some may be missing.
 *
 * @throws {InputError} Naming the input, what was found and what the model takes.
 */
export function checkKnown(
  inputs: Readonly<Record<string, HostTensor>>,
  types: ReadonlyMap<string, TensorType>,
): void {
  const names = [...types.keys()];
  for (const [name, tensor] of Object.entries(inputs)) {
    const type = types.get(name);
    if (!type) {
      throw new InputError(
        `Cannot run with an input "${name}": the model has none of that name${didYouMean(name, names)}`,
        {
          hint: `the model takes ${names.join(", ")}`,
        },
      );
    }
    if (type.dtype !== undefined && tensor.dtype !== type.dtype) {
      throw new InputError(
        `Cannot run with input "${name}" of dtype ${tensor.dtype}: the model wants ${printType(type)}`,
        { hint: `convert it to ${type.dtype}` },
      );
    }
  }
}
