/** Symbols of a model's shapes, bound to the sizes of a step's inputs. */
import { asSymbol, type Bindings, type Dim, evalDim } from "../../core/dim.ts";
import { InputError } from "../../core/errors.ts";
import { printType, type TensorType } from "../../graph/types.ts";

/**
 * The sizes that the inputs give to the model's symbols.
 *
 * @throws {InputError} If an input has another rank or size than the model says, or two inputs contradict each other.
 */
export function bindSymbols(
  types: ReadonlyMap<string, TensorType>,
  shapeOf: (name: string) => readonly number[],
): Map<string, number> {
  const bindings = new Map<string, number>();
  const boundBy = new Map<string, string>();
  const deferred: { name: string; dim: Dim; at: number; size: number }[] = [];
  for (const [name, type] of types) {
    const shape = shapeOf(name);
    if (!type.shape) continue;
    if (shape.length !== type.shape.length) {
      throw new InputError(
        `Cannot run with input "${name}" of shape [${shape}]: the model wants ${type.shape.length} dims, ${
          printType(type)
        }`,
      );
    }
    type.shape.forEach((dim, at) => {
      const size = shape[at]!;
      const symbol = asSymbol(dim);
      if (symbol === undefined) return void deferred.push({ name, dim, at, size });
      const known = bindings.get(symbol);
      if (known === undefined) {
        bindings.set(symbol, size);
        boundBy.set(symbol, name);
      } else if (known !== size) {
        throw new InputError(
          `Cannot run with input "${name}" of shape [${shape}]: dim ${at} is "${symbol}", which is ${known} in ` +
            `input "${boundBy.get(symbol)}" but ${size} here`,
          { hint: `give both inputs the same "${symbol}"` },
        );
      }
    });
  }
  for (const { name, dim, at, size } of deferred) {
    const expected = evalDim(dim, bindings);
    if (expected !== undefined && expected !== size) {
      const meaning = typeof dim === "number" ? "" : ` (${dim})`;
      throw new InputError(
        `Cannot run with input "${name}" of shape [${shapeOf(name)}]: dim ${at} must be ${expected}${meaning}`,
      );
    }
  }
  return bindings;
}

/** The shape under `bindings`; undefined while a size is only known from data. */
export function evalShape(shape: readonly Dim[] | undefined, bindings: Bindings): number[] | undefined {
  if (!shape) return undefined;
  const out: number[] = [];
  for (const d of shape) {
    const size = evalDim(d, bindings);
    if (size === undefined) return undefined;
    out.push(size);
  }
  return out;
}
