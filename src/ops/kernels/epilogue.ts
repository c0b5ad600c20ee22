/** Products whose result is changed as it is written. */
import type { Epilogue, GemmStep, KernelStep } from "./kernel.ts";

/** Sizes of which all are multiples have algorithms with epilogues on every GPU. */
const MULTIPLE = 8;

/** The product with an epilogue, where one step is all of it and cuBLASLt takes its form. */
export function withEpilogue(steps: readonly KernelStep[], epilogue: Epilogue): GemmStep | undefined {
  const [step, ...more] = steps;
  if (step?.kind !== "gemm" || more.length > 0 || step.batches !== 1 || step.m === 0) return undefined;
  const { dtype } = step.c.operand, isFloat = dtype === "f32" || dtype === "f16" || dtype === "bf16";
  const isEven = [step.n, step.k, step.a.stride, step.b.stride, step.c.stride].every((s) => s % MULTIPLE === 0);
  if (!isFloat || !isEven || (epilogue.bias && epilogue.bias.dtype !== dtype)) return undefined;
  return { ...step, beta: 0, epilogue };
}
