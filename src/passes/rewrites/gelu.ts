/**
 * GELU, written out in any order of its factors, becomes com.microsoft's Gelu, or FastGelu for the form with tanh.
 *
 * ```text
 * x · ½ · (1 + erf(x / √2))                             ->  Gelu(%x)
 * x · ½ · (1 + tanh(√(2/π) · (x + 0.044715 · x³)))       ->  FastGelu(%x)
 * x · ½ · (1 + tanh(√(2/π) · x · (1 + 0.044715 · x²)))   ->  FastGelu(%x)
 * ```
 */
import { type Call, opKey } from "../../graph/graph.ts";
import { Emit } from "./emit.ts";
import type { Matcher } from "./matcher.ts";
import type { Answer, Rewrite } from "./rewrite.ts";

export const GELU: Rewrite = {
  name: "gelu",
  summary: "GELU becomes Gelu or FastGelu",
  at: (node, m, names): Answer => {
    if (opKey(node) !== "Mul") return undefined;
    const product = factorsOf(node.outputs[0]!, m);
    const op = product && geluOf(product, m);
    if (!op) return undefined;
    const { type } = m.value(node.outputs[0]!);
    if (type.dtype !== "f32") return `${type.dtype} is not rewritten, only f32`;
    const emit = new Emit(names, node);
    emit.call({ op: op.name, domain: "com.microsoft", inputs: [op.x], type, output: node.outputs[0]! });
    return emit.replacement();
  },
};

/** A product: its constant, and its other factors, sorted. */
interface Product {
  readonly scalar: number;
  readonly factors: readonly string[];
}

/** Opens Mul, Div by a constant, and Pow with a small whole exponent. */
function factorsOf(name: string, m: Matcher): Product {
  const factors: string[] = [];
  let scalar = 1;
  const open = (value: string) => {
    const constant = m.scalar(value);
    if (constant !== undefined) return void (scalar *= constant);
    const call = m.call(value, "Mul", "Div", "Pow");
    const second = call && m.scalar(call.inputs[1]!);
    if (call?.op === "Mul") call.inputs.forEach(open);
    else if (call?.op === "Div" && second !== undefined) {
      scalar /= second;
      open(call.inputs[0]!);
    } else if (call?.op === "Pow" && (second === 2 || second === 3)) {
      for (let i = 0; i < second; i++) open(call.inputs[0]!);
    } else factors.push(value);
  };
  open(name);
  return { scalar, factors: factors.toSorted() };
}

function geluOf({ scalar, factors }: Product, m: Matcher): { name: string; x: string } | undefined {
  if (factors.length !== 2 || !isNear(scalar, 0.5)) return undefined;
  for (const [x, rest] of [factors, factors.toReversed()] as [string, string][]) {
    const sum = m.withScalar(rest, "Add");
    if (sum?.scalar !== 1) continue;
    const erf = m.call(sum.operand, "Erf"), tanh = m.call(sum.operand, "Tanh");
    if (erf && isProduct(factorsOf(erf.inputs[0]!, m), Math.SQRT1_2, [x])) return { name: "Gelu", x };
    if (tanh && isTanhArgument(tanh, x, m)) return { name: "FastGelu", x };
  }
  return undefined;
}

const CUBIC = 0.044715;

function isTanhArgument(tanh: Call, x: string, m: Matcher): boolean {
  const { scalar, factors } = factorsOf(tanh.inputs[0]!, m);
  if (!isNear(scalar, Math.sqrt(2 / Math.PI))) return false;
  const rest = factors.filter((f) => f !== x), sum = rest.length === 1 ? m.call(rest[0]!, "Add") : undefined;
  if (!sum) return false;
  const [a, b] = sum.inputs.map((name) => factorsOf(name!, m));
  const isSum = (first: Product, second: Product) =>
    factors.length === 1
      ? isProduct(first, 1, [x]) && isProduct(second, CUBIC, [x, x, x])
      : factors.length === 2 && isProduct(first, 1, []) && isProduct(second, CUBIC, [x, x]);
  return isSum(a!, b!) || isSum(b!, a!);
}

function isProduct({ scalar, factors }: Product, number: number, names: readonly string[]): boolean {
  return isNear(scalar, number) && factors.length === names.length && factors.every((f, i) => f === names[i]);
}

/** Constants are float32 in the file; some exporters write fewer digits. */
function isNear(a: number, b: number): boolean {
  return Math.abs(a - b) <= 2e-6 * Math.abs(b);
}
