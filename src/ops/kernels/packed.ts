/** Elements of less than a byte: how expressions read them. */
import { type DType, dtypeInfo } from "../../core/dtype.ts";
import type { Operand } from "./kernel.ts";

/** Whether elements of a dtype share bytes; the first has the lowest bits. */
export function isPacked(dtype: DType): boolean {
  const { bits } = dtypeInfo(dtype);
  return bits > 0 && bits < 8;
}

/** The operand as kernels see it: packed ones are bytes. */
export function asBytes(operand: Operand): Operand {
  return isPacked(operand.dtype) ? { ...operand, dtype: "u8" } : operand;
}

/** Element `index` (an expression, counted in elements) of integers of `bits` at `pointer`; a long long. */
export function bitsAt(pointer: string, index: string, bits: number): string {
  if (bits === 8) return `(long long)${pointer}[${index}]`;
  const perByte = 8 / bits;
  return `(long long)((${pointer}[(${index}) / ${perByte}] >> (((${index}) % ${perByte}) * ${bits})) & ${
    2 ** bits - 1
  })`;
}

/** Element `index` of an operand of `dtype`, of whatever bits. */
export function elementAt(dtype: DType, pointer: string, index: string): string {
  if (!isPacked(dtype)) return `ld(${pointer}[${index}])`;
  const { bits } = dtypeInfo(dtype), value = bitsAt(pointer, index, bits), half = 2 ** (bits - 1);
  return dtype.startsWith("i") ? `((${value} ^ ${half}) - ${half})` : value;
}
